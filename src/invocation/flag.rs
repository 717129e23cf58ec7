//! What a flag is, in all grammars.

/// What may follow a flag's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// Nothing (in Go: or `=` and a boolean).
    Switch,
    Value,
    /// argp's OPTION_ARG_OPTIONAL: a value only if it is attached.
    Attached,
}

/// What a flag means to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Means {
    /// Known, so that its value is not mistaken for something else, but of no interest.
    Nothing,
    /// The runtime prints something and ends: help, version.
    Info,
    Root,
    Log,
    LogFormat,
    SystemdCgroup,
    CgroupManager,
    Bundle,
    Config,
    PidFile,
    ConsoleSocket,
    PidfdSocket,
    Detach,
    Process,
    Resources,
    All,
    Regex,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flag {
    /// Without dashes, a space between two. For argp and clap a name of one letter is a short flag; Go
    /// makes no difference. Flags that are of no interest share an entry.
    pub(super) names: &'static str,
    pub(super) takes: Takes,
    pub(super) means: Means,
}

impl Flag {
    pub(super) fn has_name(&self, name: &[u8]) -> bool {
        self.names.split(' ').any(|known| known.as_bytes() == name)
    }

    pub(super) fn long_names(&self) -> impl Iterator<Item = &'static str> {
        self.names.split(' ').filter(|name| name.len() > 1)
    }
}
