# The numbers of a report, over the raw lines: jq -s -f numbers.jq journal.jsonl
def took: .stages.prepare + .stages.lock + .stages.run + ([.tries[]?.delay_ms // 0] | add // 0);
def nearest($share): sort | .[(($share * length) | ceil) - 1];
def cause: if .tries then (.tries | last | .failure) // .verdict else .verdict end;
# The end of what was handed over is not known.
def ended_well: .verdict == "ok" or .verdict == "handed over";
map(select(.verb != "hook" and .verb != "exit" and .verb != "oom"))
| group_by(.verb)
| map({
    verb: .[0].verb,
    count: length,
    ok: (map(select(ended_well)) | length),
    failures: (map(select(ended_well | not)) | group_by(cause)
      | map({key: (.[0] | cause), value: length}) | from_entries),
    retries: (map([.attempts - 1, 0] | max) | add),
    refills: (map(.refills // [] | length) | add),
    gained_ms: ([.[].refills[]?.gained_ms] | add // 0),
    p50_ms: (map(took) | nearest(0.50)),
    p95_ms: (map(took) | nearest(0.95)),
    p99_ms: (map(took) | nearest(0.99)),
    max_ms: (map(took) | max)
  })
