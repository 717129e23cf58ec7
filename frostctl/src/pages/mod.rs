//! Completions and manual pages, generated from the help and the configuration.

mod examples;
mod page;
mod sections;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Command;
use config::Config;

use crate::exit::{self, Exit};
use crate::output;
use page::Page;

const EXIT_STATUS: &str = "EXIT STATUS";
const EXAMPLES: &str = "EXAMPLES";

#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// The shell to complete for
    shell: clap_complete::Shell,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// Where the directories man1 and man5 with the pages go; created if missing
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl Completions {
    pub(crate) fn run(&self, mut cli: Command) -> anyhow::Result<Exit> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut cli, "frostctl", &mut script);
        output::print(|to| to.write_all(&script))?;
        Ok(Exit::Clean)
    }
}

impl Man {
    pub(crate) fn run(&self, cli: Command) -> anyhow::Result<Exit> {
        for page in pages(cli)? {
            let path = self.directory.join(page.path());
            let directory = path.parent().unwrap_or(Path::new("."));
            std::fs::create_dir_all(directory)
                .and_then(|()| std::fs::write(&path, page.rendered()?))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(Exit::Clean)
    }
}

fn pages(cli: Command) -> anyhow::Result<Vec<Page>> {
    let mut root = cli.disable_help_subcommand(true);
    root.build();
    let mut pages = vec![wrapper(), configuration()];
    let mut commands = vec![root];
    while let Some(command) = commands.pop() {
        pages.push(of_command(&command)?);
        commands.extend(command.get_subcommands().filter(|it| !it.is_hide_set()).cloned());
    }
    Ok(pages)
}

fn wrapper() -> Page {
    let mut page = Page::new("frostlock", "1");
    page.title("NAME");
    page.prose(&["frostlock - an OCI runtime wrapper that lets freezes, starts, probes and kills get through"]);
    page.sections(include_str!("frostlock.txt"));
    page
}

fn configuration() -> Page {
    let mut page = Page::new("frostlock.toml", "5");
    page.title("NAME");
    page.prose(&["frostlock.toml - the configuration of frostlock"]);
    page.sections(include_str!("configuration.txt"));
    for key in Config::default().settings() {
        page.key(&key);
    }
    page.sections(include_str!("configuration_end.txt"));
    page
}

fn of_command(command: &clap::Command) -> anyhow::Result<Page> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let mut page = Page::new(&name, "1");
    let generated = clap_mangen::Man::new(command.clone());
    page.foreign(|to| generated.render_name_section(to))?;
    page.foreign(|to| generated.render_synopsis_section(to))?;
    page.foreign(|to| generated.render_description_section(to))?;
    let help = command.get_after_long_help().or(command.get_after_help());
    let sections = sections::of(&help.map_or_else(String::new, ToString::to_string));
    let (untitled, titled): (Vec<_>, Vec<_>) =
        sections.into_iter().partition(|section| section.title.is_empty());
    untitled.iter().for_each(|section| page.sections(&section.text));
    page.foreign(|to| generated.render_options_section(to))?;
    if command.get_subcommands().any(|it| !it.is_hide_set()) {
        page.foreign(|to| generated.render_subcommands_section(to))?;
    }
    let (last, first): (Vec<_>, Vec<_>) =
        titled.into_iter().partition(|it| [EXIT_STATUS, EXAMPLES].contains(&it.title.as_str()));
    for section in first {
        page.title(&section.title);
        page.sections(&section.text);
    }
    let own = |title: &str| last.iter().find(|it| it.title == title).map(|it| it.text.clone());
    page.title(EXIT_STATUS);
    let general = || sections::of(exit::HELP).into_iter().map(|it| it.text).collect();
    page.sections(&own(EXIT_STATUS).unwrap_or_else(general));
    let examples = own(EXAMPLES).or_else(|| examples::of(&name).map(str::to_owned));
    if let Some(examples) = examples {
        page.title(EXAMPLES);
        page.verbatim(examples.lines().map(|line| line.strip_prefix("  ").unwrap_or(line)));
    }
    page.title("SEE ALSO");
    page.prose(&[if name == "frostctl" {
        "frostlock(1), frostlock.toml(5)"
    } else {
        "frostctl(1), frostlock(1), frostlock.toml(5)"
    }]);
    Ok(page)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn text(page: Page) -> String {
        String::from_utf8(page.rendered().unwrap()).unwrap().replace("\\-", "-")
    }

    fn said() -> Vec<(String, String)> {
        pages(Cli::command()).unwrap().into_iter().map(|page| (page.path(), text(page))).collect()
    }

    #[test]
    fn every_command_has_a_page_and_every_page_an_exit_status_and_examples() {
        let pages = said();
        let has = |path: &str| pages.iter().any(|(it, _)| it == path);
        for path in ["man1/frostlock.1", "man1/frostctl.1", "man5/frostlock.toml.5"] {
            assert!(has(path), "{path}");
        }
        for command in Cli::command().get_subcommands().filter(|it| !it.is_hide_set()) {
            assert!(has(&format!("man1/frostctl-{}.1", command.get_name())));
        }
        assert!(!has("man1/frostctl-sleep.1"), "it is nobody's to call");
        for (path, text) in &pages {
            let titles = text.lines().filter_map(|line| line.strip_prefix(".SH "));
            let titles: Vec<&str> = titles.map(|title| title.trim_matches('"')).collect();
            for title in ["NAME", "DESCRIPTION", EXIT_STATUS, EXAMPLES] {
                let count = titles.iter().filter(|it| **it == title).count();
                assert_eq!(count, 1, "{path}: {title} in {titles:?}");
            }
            assert!(!titles.contains(&"EXTRA"), "{path}");
        }
    }

    /// For a pipe, the first command.
    #[test]
    fn the_examples_are_command_lines() {
        for (path, text) in said() {
            let examples = text.split(".SH EXAMPLES").nth(1).unwrap();
            for line in examples.lines().filter(|line| line.starts_with("frostctl ")) {
                let line = line.split(['|', '>', '&', ';']).next().unwrap();
                let line = line.split("  ").next().unwrap().replace("\\*(Aq", "'");
                if let Err(error) = Cli::command().try_get_matches_from(line.split_whitespace()) {
                    panic!("{path}: {line}: {error}");
                }
            }
        }
    }

    #[test]
    fn the_configuration_has_every_key_and_an_example_that_is_right() {
        let text = text(configuration());
        for key in Config::default().settings() {
            assert!(text.contains(&key.name), "{}", key.name);
        }
        assert!(text.contains("Default: 500, from 0 to 1500 ms. "), "{text}");
        let example = text.split(".SH EXAMPLES").nth(1).unwrap();
        let lines = example.lines().skip_while(|it| *it != ".nf").skip(1);
        let example: String =
            lines.take_while(|it| *it != ".fi").map(|line| format!("{line}\n")).collect();
        let (config, complaints) = Config::parse(&example, Path::new("c"));
        assert_eq!((complaints, config.lock.exclusive_wait_ms), (vec![], 2000), "{example}");
    }
}
