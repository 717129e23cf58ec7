//! `frostctl doctor`: what is wrong with the cgroups of this node, and what to do about it.
//!
//! The node is read once ([`node`]), live or from a recorded tree. The checks ([`checks`]) judge
//! what was read. Fixes ([`fix`]) are applied only when asked for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use cgroup::Identity;

use crate::exit::Exit;
use crate::held::Held;
use crate::node::root::Root;
use crate::output::{self, Output};

mod ask;
mod blind;
mod checks;
mod finding;
mod fix;
mod inotify;
mod kubelet;
mod node;
mod operations;
mod ours;
mod programs;
mod report;
mod trial;

use ask::Ask;
use checks::Check;
use finding::Finding;
use fix::Fix;
use node::Node;
use report::{Done, Report, verdict};
pub(crate) use trial::Sleep;

/// Find out what is wrong with the cgroups of this node; mend what is safe to mend
#[derive(Debug, clap::Args)]
#[command(after_long_help = report::HELP)]
pub(crate) struct Doctor {
    /// Mend what is safe to mend, and say what was done
    #[arg(long, conflicts_with = "root")]
    fix: bool,

    /// With --fix, thaw this cgroup as well (its path below the mountpoint), whoever froze it
    #[arg(long, value_name = "PATH", requires = "fix")]
    thaw: Vec<PathBuf>,

    /// Read a recorded tree (proc, sys, etc) below this directory instead of the live node
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,

    /// Only these checks; may be given more than once
    #[arg(long, value_name = "NAME", value_parser = checks_by_name())]
    check: Vec<String>,

    /// One line of at most 80 bytes and exit status 0, 1 or 2, as node-problem-detector wants it
    #[arg(long, conflicts_with_all = ["fix", "explain"])]
    npd: bool,

    /// Say what a check looks at; without a name, all of them
    #[arg(long, value_name = "NAME", num_args = 0..=1, value_parser = checks_by_name())]
    explain: Option<Option<String>>,

    /// The cgroup below which kubelet's kubepods is, where kubelet's configuration does not say it
    #[arg(long, value_name = "PATH")]
    cgroup_root: Option<PathBuf>,

    /// A pod's cgroup without a process is a leftover once nothing has changed in it for this long
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    leftover_age: u64,
}

fn checks_by_name() -> clap::builder::PossibleValuesParser {
    checks::ALL.iter().map(|check| check.name).collect::<Vec<_>>().into()
}

impl Doctor {
    pub(crate) fn run(&self, output: &Output) -> anyhow::Result<Exit> {
        if let Some(name) = &self.explain {
            return report::explain(name.as_deref(), output);
        }
        if self.npd {
            return self.as_plugin();
        }
        let (ask, wanted) = self.ask()?;
        // Signals wait until the end: a fix must be completed, and reported.
        let signals = self.fix.then(Held::back).transpose()?;
        let mut node = Node::read(&ask);
        let mut findings = examine(&node, &wanted);
        let mut fixes = Vec::new();
        if let Some(signals) = &signals {
            fixes = self.mend(&node, &findings, signals);
            node = Node::read(&ask);
            findings = examine(&node, &wanted);
        }
        let report = Report::new(&node, findings, fixes);
        output.print(&report, |out| report::text(&report, out))?;
        Ok(report.exit())
    }

    fn ask(&self) -> anyhow::Result<(Ask, Vec<&'static Check>)> {
        if let Some(directory) = &self.root {
            if !directory.join("proc").is_dir() {
                bail!(
                    "{} is not a recorded node: it has no directory proc (see docs/doctor.md)",
                    directory.display()
                );
            }
        }
        let wanted: Vec<&Check> = match self.check.as_slice() {
            [] => checks::ALL.iter().collect(),
            names => {
                let named = |name: &String| checks::ALL.iter().find(|check| check.name == name);
                names.iter().filter_map(named).collect()
            }
        };
        let ask = Ask {
            root: Root::at(self.root.clone()),
            cgroup_root: self.cgroup_root.clone(),
            leftover_age: Duration::from_secs(self.leftover_age),
            checks: wanted.iter().map(|check| check.name).collect(),
        };
        Ok((ask, wanted))
    }

    /// A signal stops it after the current fix.
    fn mend(&self, node: &Node, findings: &[Finding], signals: &Held) -> Vec<Done> {
        // Requested thaws come first: an empty frozen cgroup can be removed, but frozen processes
        // cannot end.
        let asked = self.thaw.iter().map(|path| match cgroup_at(node, path) {
            Some(cgroup) => Ok(Fix::Thaw(cgroup)),
            None => Err(path.display().to_string()),
        });
        let found = findings.iter().filter_map(|finding| finding.fix.clone()).map(Ok);
        let mut is_over = false;
        let done = asked.chain(found).map(|fix| {
            is_over = is_over || signals.has_come();
            let name = fix.as_ref().map_or_else(Clone::clone, ToString::to_string);
            let result = match fix {
                _ if is_over => Err(anyhow::anyhow!("{name}: interrupted before it was begun")),
                Ok(fix) => fix.run(node),
                Err(_) => Err(anyhow::anyhow!("is not a cgroup's path")),
            };
            let (ok, result) = match result {
                Ok(said) => (true, said),
                Err(why) => (false, format!("{why:#}")),
            };
            Done { fix: name, ok, result }
        });
        done.collect()
    }

    /// node-problem-detector takes exit status 2 for `Unknown`; a wrong command line exits with 2,
    /// too.
    fn as_plugin(&self) -> anyhow::Result<Exit> {
        let (line, exit) = match self.ask() {
            Ok((ask, wanted)) => {
                let findings = examine(&Node::read(&ask), &wanted);
                (report::plugin(&findings, wanted.len()), verdict(&findings))
            }
            Err(why) => (report::short(&format!("{why:#}")), Exit::Unknown),
        };
        output::print(|to| writeln!(to, "{line}"))?;
        Ok(exit)
    }
}

/// The cgroup at this path, either in the tree or of a directory.
fn cgroup_at(node: &Node, path: &Path) -> Option<Identity> {
    let holding = node.cgroups.all.iter().find(|it| path.starts_with(&it.mountpoint));
    match holding {
        Some(it) => Identity::new(it.root.join(path.strip_prefix(&it.mountpoint).ok()?)),
        None => Identity::new(path),
    }
}

/// Runs the checks; the worst finding comes first.
fn examine(node: &Node, wanted: &[&Check]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = wanted.iter().flat_map(|check| by(check, node)).collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

fn by(check: &Check, node: &Node) -> Vec<Finding> {
    let mut findings = blind::spots(node, check.needs);
    if !blind::is_blind(node, check.needs) {
        findings.extend((check.run)(node));
    }
    findings.iter_mut().for_each(|finding| finding.check = check.name);
    findings
}
