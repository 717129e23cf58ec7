//! `frostctl configure` and `unconfigure`: puts frostlock into the configuration of an engine, and
//! takes it out again.

use anyhow::bail;

use crate::exit::Exit;
use crate::output::Output;

mod arguments;
mod base;
pub(crate) mod binary;
mod change;
mod check;
pub(crate) mod distribution;
pub(crate) mod edit;
pub(crate) mod engine;
pub(crate) mod file;
mod files;
mod go_template;
mod install;
mod json_file;
mod json_text;
pub(crate) mod layout;
mod lines;
pub(crate) mod live;
mod node;
mod places;
pub(crate) mod podman;
mod purge;
pub(crate) mod record;
mod remove;
mod report;
pub(crate) mod restart;
pub(crate) mod toml_file;
pub(crate) mod uninstall;

pub(crate) use arguments::{Configure, Unconfigure};
pub(crate) use install::{Drift, drifts};

impl Configure {
    pub(crate) fn run(&self, output: &Output) -> anyhow::Result<Exit> {
        let report = install::install(self)?;
        report.print(output)
    }
}

impl Unconfigure {
    pub(crate) fn run(&self, output: &Output) -> anyhow::Result<Exit> {
        let report = remove::remove(&self.target, self.force)?;
        let exit = report.print(output)?;
        match report.refused {
            Some(why) => bail!(why),
            None => Ok(exit),
        }
    }
}
