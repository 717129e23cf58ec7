//! What one operation consists of.

use std::time::Instant;

use crate::channels::Channels;
use crate::container::Container;
use crate::invocation::{Globals, Invocation};
use crate::outcome::Outcome;
use crate::policy::Policy;
use crate::record;
use crate::runtime::Runtime;
use cgroup::RuntimeKind;
use config::Config;
use state::StateDir;

#[derive(Debug)]
pub(crate) struct Operation<'a> {
    pub(crate) began: Instant,
    pub(crate) runtime: &'a Runtime,
    pub(crate) kind: RuntimeKind,
    pub(crate) globals: &'a Globals,
    pub(crate) invocation: &'a Invocation,
    pub(crate) policy: Policy,
    pub(crate) config: &'a Config,
    pub(crate) state: &'a StateDir,
}

impl Operation<'_> {
    pub(super) fn container(&self) -> Container {
        Container::find(self.kind, self.globals, self.invocation, self.state)
    }

    /// Opens what lies between the runtime and its caller.
    pub(super) fn channels(&self) -> (Channels, Runtime) {
        let (channels, args) = Channels::open(
            self.policy.degree,
            self.kind,
            self.globals,
            self.invocation,
            &self.runtime.args,
            self.state,
        );
        (channels, Runtime { path: self.runtime.path.clone(), args })
    }

    pub(super) fn record(&self, outcome: &Outcome) {
        record::add(self.config, self.state, outcome);
    }
}
