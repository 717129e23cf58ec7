//! Examples for commands whose help has none.

const EXAMPLES: &[(&str, &str)] = &[
    (
        "frostctl",
        "  frostctl configure --runtime containerd --dry-run   what would change\n  \
           frostctl doctor                                     what is wrong with the node\n  \
           frostctl audit                                      which containers are not as reported\n  \
           frostctl report --since 24h                         what happened, and why",
    ),
    (
        "frostctl-unconfigure",
        "  frostctl unconfigure --runtime containerd --dry-run\n  \
           frostctl unconfigure --runtime containerd && systemctl restart containerd",
    ),
    ("frostctl-uninstall", "  frostctl uninstall --dry-run\n  frostctl uninstall"),
    ("frostctl-off", "  frostctl off"),
    ("frostctl-on", "  frostctl on"),
    ("frostctl-config", "  frostctl config check\n  frostctl config show"),
    ("frostctl-config-check", "  frostctl config check"),
    ("frostctl-config-show", "  frostctl config show"),
    ("frostctl-selftest", "  frostctl selftest"),
    ("frostctl-status", "  frostctl status"),
    (
        "frostctl-history",
        "  frostctl history                    a line for each container\n  \
           frostctl history kube-system/dns-0   what happened to the containers of that pod\n  \
           frostctl history --follow 3f2a      follow the container whose id begins with 3f2a",
    ),
    ("frostctl-record", "  systemctl enable --now frostctl-record   as a service, as intended"),
    (
        "frostctl-report",
        "  frostctl report --since 24h\n  \
           frostctl report --pod default/web-0 --json | jq .findings\n  \
           frostctl report --estimate           what mode \"full\" would have saved\n  \
           frostctl report --html report.html",
    ),
    (
        "frostctl-metrics",
        "  frostctl metrics\n  \
           frostctl metrics --textfile /var/lib/prometheus/node-exporter/frostlock.prom",
    ),
    (
        "frostctl-serve",
        "  frostctl serve --audit\n  \
           frostctl serve --listen unix:/run/frostlock-metrics.sock\n  \
           curl --unix-socket /run/frostlock-metrics.sock http://node/metrics",
    ),
    (
        "frostctl-completions",
        "  frostctl completions bash >/usr/local/share/bash-completion/completions/frostctl",
    ),
    ("frostctl-man", "  frostctl man /usr/local/share/man"),
];

pub(super) fn of(page: &str) -> Option<&'static str> {
    EXAMPLES.iter().find(|(name, _)| *name == page).map(|(_, text)| *text)
}
