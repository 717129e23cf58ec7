# The numbers of a report, over the raw lines: jq -s -f numbers.jq journal.jsonl
def took: .stages.prepare + .stages.lock + .stages.run + ([.tries[]?.delay_ms // 0] | add // 0);
def nearest($share): sort | .[(($share * length) | ceil) - 1];
def cause: if .tries then (.tries | last | .failure) // .verdict else .verdict end;
# The end of what was handed over is not known.
def ended_well: .verdict == "ok" or .verdict == "handed over";
map(select(.verb != "hook" and .verb != "exit" and .verb != "oom"))
# What a lift had after its operation belongs to the operation's verb, and is none itself.
| group_by(if .verb == "lift" then .of else .verb end)
| map(map(select(.verb != "lift")) as $operations | {
    verb: (.[0] | if .verb == "lift" then .of else .verb end),
    count: ($operations | length),
    ok: ($operations | map(select(ended_well)) | length),
    failures: ($operations | map(select(ended_well | not)) | group_by(cause)
      | map({key: (.[0] | cause), value: length}) | from_entries),
    retries: ($operations | map([.attempts - 1, 0] | max) | add // 0),
    lifts: (map(.lifts // [] | length) | add),
    lifted_ms: ([.[].lifts[]?.cpu_ms] | add // 0),
    program_ms: ([.[].lifts[]? | select(.whose == "program").cpu_ms] | add // 0),
    p50_ms: ($operations | map(took) | nearest(0.50) // 0),
    p95_ms: ($operations | map(took) | nearest(0.95) // 0),
    p99_ms: ($operations | map(took) | nearest(0.99) // 0),
    max_ms: ($operations | map(took) | max // 0)
  })
