//! Where the containerd of each distribution reads its configuration: a table, and the choice from
//! it. `node` says what exists; this module reads and writes nothing.

use std::path::{Path, PathBuf};

use Way::{Edit, GoTemplate, Parts, Refuse, Template};

use crate::node::containerd::PLAIN;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// containerd's own file, or one that it imports.
    Edit,
    /// The file is generated from a Go template beside it, which exists only if somebody wrote one.
    GoTemplate,
    /// The file is generated from this template: TOML with variables in its strings.
    Template(&'static str),
    /// The distribution merges the files of this directory as long as its own file has this line.
    Parts { directory: &'static str, managed: &'static str },
    /// frostctl cannot configure it; the text says what to do instead.
    Refuse(&'static str),
}

#[derive(Debug)]
pub(crate) struct Distribution {
    pub(crate) name: &'static str,
    /// Its containerd has its configuration or its program below one of these.
    below: &'static [&'static str],
    /// `ID` in os-release.
    os: &'static str,
    /// A file that only such a node has.
    mark: &'static str,
    pub(crate) config: &'static str,
    pub(crate) way: Way,
    pub(crate) restart: &'static str,
    /// The socket of its containerd, if its file does not name one.
    pub(crate) socket: &'static str,
    pub(crate) note: &'static str,
    /// How to set the default runtime, if not in containerd's file.
    pub(crate) default: &'static str,
}

const BASE: Distribution = Distribution {
    name: "",
    below: &[],
    os: "",
    mark: "",
    config: PLAIN,
    way: Edit,
    restart: "systemctl restart containerd",
    socket: "",
    note: "",
    default: "",
};

/// A node has one of the units. `try-restart` fails for the other, which systemd does not know.
macro_rules! restart_active {
    ($units:literal) => {
        concat!(
            "systemctl restart $(systemctl list-units --plain --no-legend --state=active ",
            $units,
            " | cut -d' ' -f1)"
        )
    };
}

/// Distributions that ship their own containerd are recognized by its paths, on any system.
pub(crate) const TABLE: &[Distribution] = &[
    Distribution {
        name: "k3s",
        below: &["/var/lib/rancher/k3s"],
        config: "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
        way: GoTemplate,
        restart: restart_active!("k3s.service k3s-agent.service"),
        socket: "/run/k3s/containerd/containerd.sock",
        default: "`default-runtime: NAME` in /etc/rancher/k3s/config.yaml",
        ..BASE
    },
    Distribution {
        name: "rke2",
        below: &["/var/lib/rancher/rke2"],
        config: "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
        way: GoTemplate,
        restart: restart_active!("rke2-server.service rke2-agent.service"),
        socket: "/run/k3s/containerd/containerd.sock",
        default: "`default-runtime: NAME` in /etc/rancher/rke2/config.yaml",
        ..BASE
    },
    Distribution {
        name: "k0s",
        below: &["/etc/k0s", "/var/lib/k0s"],
        config: "/etc/k0s/containerd.toml",
        way: Parts { directory: "/etc/k0s/containerd.d", managed: "k0s_managed=true" },
        restart: restart_active!("k0sworker.service k0scontroller.service"),
        socket: "/run/k0s/containerd.sock",
        ..BASE
    },
    Distribution {
        name: "microk8s",
        below: &["/var/snap/microk8s", "/snap/microk8s"],
        config: "/var/snap/microk8s/current/args/containerd.toml",
        way: Template("/var/snap/microk8s/current/args/containerd-template.toml"),
        restart: "snap restart microk8s.daemon-containerd",
        socket: "/var/snap/microk8s/common/run/containerd.sock",
        ..BASE
    },
    Distribution {
        name: "Talos",
        os: "talos",
        way: Refuse(
            "its root is read-only and its files are generated; bring the program with a system extension and the runtime with a CRICustomizationConfig document (before Talos 1.14: machine.files with /etc/cri/conf.d/20-customization.part)",
        ),
        ..BASE
    },
    Distribution {
        name: "Bottlerocket",
        os: "bottlerocket",
        way: Refuse(
            "its root is read-only and verified, its files are generated from settings, and no setting adds a runtime; build a variant that has frostlock, or use another image for these nodes",
        ),
        ..BASE
    },
    Distribution {
        name: "kind",
        mark: "/kind/version",
        note: "kind makes a new node with each cluster; for future clusters, use \
               containerdConfigPatches",
        ..BASE
    },
    Distribution {
        name: "minikube",
        mark: "/var/lib/minikube",
        note: "`minikube start` writes this file anew; configure again after it",
        ..BASE
    },
    Distribution {
        name: "Container-Optimized OS",
        os: "cos",
        note: "/etc is written anew at every boot, and programs run only from /home/kubernetes/bin; \
               keep frostlock there, and configure again after every boot",
        ..BASE
    },
    Distribution { name: "Flatcar", os: "flatcar", ..BASE },
];

/// Where an image keeps its defaults, on a read-only file system.
const READ_ONLY: &[&str] = &["/usr/share", "/run/torcx"];

/// What to do if a file of an image would have to be edited; `None` if the file can be written.
pub(crate) fn of_image(config: &Path) -> Option<String> {
    let is_of_image = READ_ONLY.iter().any(|directory| config.starts_with(directory));
    is_of_image.then(|| {
        format!(
            "containerd reads {}, which nobody can write; copy it to {PLAIN}, have containerd read that (`systemctl edit containerd`, with `ExecStart=` and `ExecStart=/usr/bin/containerd`, or `Environment=CONTAINERD_CONFIG={PLAIN}` where the unit has that variable), restart it, and configure again",
            config.display()
        )
    })
}

/// A containerd that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) config: PathBuf,
    /// Where it was told to listen, if it was told.
    pub(crate) socket: Option<PathBuf>,
    /// The systemd unit that it runs in.
    pub(crate) unit: Option<String>,
    pub(crate) program: Option<PathBuf>,
}

/// What was found on the node.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) os: String,
    /// Those of the files in `places` that exist.
    pub(crate) there: Vec<&'static str>,
    pub(crate) running: Vec<Running>,
}

/// The chosen distribution, the file that its containerd reads, and the containerd that runs with
/// it.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) distribution: &'static Distribution,
    pub(crate) config: PathBuf,
    pub(crate) running: Option<Running>,
}

pub(super) const NONE: &Distribution = &BASE;

/// Whether containerd does not read this file itself but what the distribution generates from it.
pub(crate) fn is_template(path: &Path) -> bool {
    let templates = TABLE.iter().filter_map(|it| match it.way {
        Template(template) => Path::new(template).file_name(),
        _ => None,
    });
    templates.into_iter().any(|it| path.file_name() == Some(it))
}

/// The files whose existence matters.
pub(crate) fn places() -> Vec<&'static str> {
    let mut places: Vec<_> = TABLE.iter().flat_map(|it| [it.mark, it.config]).collect();
    places.retain(|it| !it.is_empty());
    places.sort_unstable();
    places.dedup();
    places
}

/// The containerd whose file was named, or the only one. An error says what to do.
pub(crate) fn choose(seen: &Seen, named: Option<&Path>) -> Result<Choice, String> {
    // Talos has two containerds, and neither can be configured.
    if named.is_none() {
        TABLE.iter().filter(|it| it.is_system(&seen.os)).try_for_each(Distribution::refusal)?;
    }
    let config = named.map_or_else(|| seen.only(), |named| Ok(named.to_owned()))?;
    let running = seen.running.iter().find(|it| it.config == config);
    let program = running.and_then(|it| it.program.as_deref());
    let brings = |it: &&Distribution| {
        let is_below = |path: &Path| it.below.iter().any(|directory| path.starts_with(directory));
        is_below(&config) || program.is_some_and(is_below)
    };
    let is_node = |it: &&Distribution| it.is_system(&seen.os) || seen.there.contains(&it.mark);
    // A file may be a copy from elsewhere; then this node says nothing about it.
    let is_here = named.is_none() || config == Path::new(PLAIN) || program.is_some();
    let distribution = TABLE
        .iter()
        .find(brings)
        .or_else(|| TABLE.iter().filter(|_| is_here).find(is_node))
        .unwrap_or(NONE);
    distribution.refusal()?;
    Ok(Choice { distribution, running: running.cloned(), config })
}

impl Distribution {
    fn is_system(&self, os: &str) -> bool {
        !self.os.is_empty() && self.os == os
    }

    fn refusal(&self) -> Result<(), String> {
        match self.way {
            Refuse(why) => Err(format!("{} cannot be configured from here: {why}", self.name)),
            _ => Ok(()),
        }
    }
}

impl Choice {
    /// The command that restarts the containerd reading this file; `None` if no known one reads it.
    pub(crate) fn restart(&self) -> Option<String> {
        let usual = self.distribution.restart;
        let is_usual =
            usual != BASE.restart || (self.running.is_none() && self.config == Path::new(PLAIN));
        if is_usual {
            return Some(usual.to_owned());
        }
        // In single quotes, a backslash in the unit's name stands for itself.
        let unit = self.running.as_ref()?.unit.as_deref().filter(|it| !it.contains('\''))?;
        let is_plain = |it: u8| it.is_ascii_alphanumeric() || b"-_.@:".contains(&it);
        let is_plain = unit.bytes().all(is_plain);
        let unit = if is_plain { unit.to_owned() } else { format!("'{unit}'") };
        Some(format!("systemctl restart {}", unit.trim_end_matches(".service")))
    }
}

impl Seen {
    fn only(&self) -> Result<PathBuf, String> {
        let known = TABLE.iter().map(|it| it.config).filter(|it| self.there.contains(it));
        let (what, mut configs): (_, Vec<&Path>) = match self.running.as_slice() {
            [] => ("are set up, and none runs", known.map(Path::new).collect()),
            running => ("run", running.iter().map(|it| it.config.as_path()).collect()),
        };
        configs.sort_unstable();
        configs.dedup();
        match configs.as_slice() {
            [] => Ok(PLAIN.into()),
            [only] => Ok((*only).to_owned()),
            several => {
                let all: Vec<String> = several.iter().map(|it| it.display().to_string()).collect();
                Err(format!(
                    "several containerds {what}, which read {}; name one of these with --config",
                    all.join(", ")
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(config: &str, program: &str) -> Running {
        let (socket, unit) = (None, None);
        Running { config: config.into(), socket, unit, program: Some(program.into()) }
    }

    fn seen(os: &str, there: &[&'static str], running: &[Running]) -> Seen {
        Seen { os: os.to_owned(), there: there.to_owned(), running: running.to_owned() }
    }

    const K3S: &str = "/var/lib/rancher/k3s/agent/etc/containerd/config.toml";
    const RKE2: &str = "/var/lib/rancher/rke2/agent/etc/containerd/config.toml";
    const K0S: &str = "/etc/k0s/containerd.toml";
    const MICROK8S: &str = "/var/snap/microk8s/current/args/containerd.toml";

    /// What is found on a node, and which distribution it is taken for.
    #[test]
    fn each_is_known_by_what_runs_or_by_its_files() {
        let usual = [running(PLAIN, "/usr/bin/containerd")];
        for (name, os, there, running) in [
            ("", "debian", &[][..], vec![]),
            ("", "debian", &[PLAIN], usual.to_vec()),
            ("k3s", "debian", &[K3S], vec![]),
            (
                "k3s",
                "flatcar",
                &[K3S],
                vec![running(K3S, "/var/lib/rancher/k3s/data/x/bin/containerd")],
            ),
            ("k3s", "debian", &[PLAIN, K3S], vec![running(K3S, "/x/containerd")]),
            ("", "debian", &[PLAIN, K3S], usual.to_vec()),
            ("rke2", "sles", &[RKE2], vec![]),
            ("k0s", "debian", &[K0S], vec![]),
            (
                "k0s",
                "debian",
                &[],
                vec![running("/x/containerd.toml", "/var/lib/k0s/bin/containerd")],
            ),
            ("microk8s", "ubuntu", &[MICROK8S], vec![]),
            (
                "microk8s",
                "ubuntu",
                &[PLAIN],
                vec![running(
                    "/var/snap/microk8s/7/args/containerd.toml",
                    "/snap/microk8s/7/bin/containerd",
                )],
            ),
            ("kind", "debian", &["/kind/version", PLAIN], usual.to_vec()),
            ("minikube", "buildroot", &["/var/lib/minikube", PLAIN], usual.to_vec()),
            ("Container-Optimized OS", "cos", &[PLAIN], usual.to_vec()),
            ("Flatcar", "flatcar", &[PLAIN], usual.to_vec()),
        ] {
            let choice = choose(&seen(os, there, &running), None).unwrap();
            assert_eq!(choice.distribution.name, name, "{os} {there:?} {running:?}");
        }
    }

    #[test]
    fn what_is_restarted_is_what_reads_the_file() {
        let plain = Path::new(PLAIN);
        let of = |unit: Option<&str>| Running {
            unit: unit.map(str::to_owned),
            ..running("/x.toml", "/usr/bin/containerd")
        };
        let other = Path::new("/x.toml");
        let k3s = TABLE.iter().find(|it| it.name == "k3s").unwrap();
        for (distribution, config, running, expected) in [
            (NONE, plain, None, Some("systemctl restart containerd")),
            (
                NONE,
                plain,
                Some(of(Some("containerd.service"))),
                Some("systemctl restart containerd"),
            ),
            (NONE, other, Some(of(Some("cri-2.service"))), Some("systemctl restart cri-2")),
            (
                NONE,
                other,
                Some(of(Some("a\\x2db.service"))),
                Some("systemctl restart 'a\\x2db.service'"),
            ),
            // systemd knows neither of these.
            (NONE, other, Some(of(None)), None),
            (NONE, other, None, None),
            (k3s, other, Some(of(Some("my.service"))), Some(k3s.restart)),
        ] {
            let choice = Choice { distribution, config: config.to_owned(), running };
            let command = choice.restart();
            assert_eq!(command.as_deref(), expected, "{choice:?}");
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_what_can() {
        let usual = [running(PLAIN, "/usr/bin/containerd")];
        let both = [running(PLAIN, "/usr/bin/containerd"), running(K3S, "/x/containerd")];
        for (os, there, running, why) in [
            ("talos", &[][..], &usual[..], "CRICustomizationConfig"),
            ("bottlerocket", &[PLAIN], &usual, "variant"),
            ("debian", &[PLAIN, K3S], &[], "none runs"),
            ("debian", &[], &both, "--config"),
        ] {
            let error = choose(&seen(os, there, running), None).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_named_is_taken_for_what_its_place_says() {
        let all = seen("cos", &[PLAIN, K3S], &[running(PLAIN, "/usr/bin/containerd")]);
        for (named, name) in
            [(K3S, "k3s"), (PLAIN, "Container-Optimized OS"), ("/tmp/copy.toml", "")]
        {
            let choice = choose(&all, Some(Path::new(named))).unwrap();
            assert_eq!(
                (choice.distribution.name, choice.config.as_path()),
                (name, Path::new(named))
            );
        }
        assert!(choose(&seen("talos", &[], &[]), Some(Path::new("/tmp/copy.toml"))).is_ok());
    }
}
