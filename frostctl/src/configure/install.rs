//! `frostctl configure`.

use std::path::PathBuf;

use anyhow::{Context, bail};
use toml_edit::DocumentMut;

use super::arguments::Configure;
use super::change::{self, Change};
use super::check::Expected;
use super::edit::{Edited, Wish, Wrapped};
use super::engine::Engine;
use super::files::{Files, Kind};
use super::layout::{self, Layout};
use super::record::{Ours, Record};
use super::report::Report;
use super::{base, binary, check, file, go_template, json_file, lines, places, podman, toml_file};

/// Our comment has this text before the name of the wrapped runtime.
const IN_FRONT_OF: &str = "# By `frostctl configure`, in front of ";

/// What an earlier `configure` left.
#[derive(Debug, Default)]
struct Standing {
    /// The text without our part. `None`: there was no file.
    base: Option<String>,
    wrapped: Option<String>,
    is_default: bool,
}

/// What is to be written.
struct Plan {
    changes: Vec<Change>,
    /// The entry that ours is made from, if ours is new.
    wrapped: Option<Wrapped>,
    standing: Standing,
    /// What the engine reads from its files before the change.
    effective: Option<DocumentMut>,
}

pub(super) fn install(asked: &Configure) -> anyhow::Result<Report> {
    let target = &asked.target;
    target.check_name()?;
    let files = places::to_configure(target, asked.no_drop_in)?;
    let program = binary::find(asked.binary.as_deref())?;
    let wish = Wish {
        name: &target.name,
        binary: &program,
        wrap: asked.wrap.as_deref(),
        set_as_default: asked.set_as_default,
        is_merged: files.is_merged(),
    };
    let plan = Plan::of(&files, &wish)?;
    let mut report = Report::new(target.runtime, &target.name, target.dry_run);
    report.notes = plan.notes(&files, &wish, asked.force)?;
    if target.dry_run {
        report.files = plan.changes.iter().map(Change::report).collect();
        return Ok(report);
    }
    let before = plan.effective.as_ref().filter(|_| files.engine == Engine::Containerd);
    let expected = Expected { name: wish.name, binary: Some(&program), before, is_kept: false };
    let restart = target.restart_plan(&files, target.runtime.reload(), before)?;
    change::make(&files, &plan.changes, &expected, restart.as_ref(), &mut report)?;
    if report.changes() && !asked.set_as_default {
        report.next.push(how_to_use(target.runtime, &target.name));
    }
    Ok(report)
}

impl Plan {
    fn of(files: &Files, asked: &Wish<'_>) -> anyhow::Result<Plan> {
        let main = main_document(files)?;
        let effective = effective(files)?;
        let now = file::read(&files.entry)?;
        let old = Record::load(&files.entry, asked.name)?;
        let standing = match &now {
            Some(text) => standing(files, asked.name, old.as_ref(), text)?,
            None => Standing::default(),
        };
        let wish = Wish {
            wrap: asked.wrap.or(standing.wrapped.as_deref()),
            set_as_default: asked.set_as_default || standing.is_default,
            ..*asked
        };
        let base = standing.base.as_deref();
        let edited = edited(files, &wish, base, main.as_ref(), effective.as_ref())?;
        let wrapped = edited.wrapped.as_ref().map(|it| it.name.clone());
        let record = Record {
            engine: files.engine,
            path: files.entry.clone(),
            name: wish.name.to_owned(),
            binary: wish.binary.to_owned(),
            former: Vec::new(),
            main: (files.main != files.entry).then(|| files.main.clone()),
            kind: files.kind,
            wrapped: wrapped.or_else(|| standing.wrapped.clone()),
            made: None,
            before: standing.base.clone(),
            after: edited.text,
            ours: edited.ours,
        };
        let import = if files.is_import() { import(files, &record)? } else { None };
        let changes = [Change::put(now, old, record)].into_iter().chain(import).collect();
        Ok(Plan { changes, wrapped: edited.wrapped, standing, effective })
    }

    /// What a person should know; an error if it is a reason not to go on.
    fn notes(&self, files: &Files, asked: &Wish<'_>, force: bool) -> anyhow::Result<Vec<String>> {
        let mut notes = Vec::new();
        if files.kind == Kind::GoTemplate && go_template::has_base(self.standing.base.as_deref()) {
            notes.extend(knows_base(files)?);
        }
        if self.standing.is_default && !asked.set_as_default {
            notes.push(
                "it stays the default runtime, as an earlier configure set it; to change that, \
                 unconfigure and configure again"
                    .to_owned(),
            );
        }
        if let Some(wrapped) = &self.wrapped {
            let is_needed = self.changes.iter().any(Change::is_needed);
            match binary::mismatch(asked.binary, wrapped, files.containerd.as_deref())? {
                Some(why) if !force && is_needed => bail!("{why}; nothing was changed"),
                why => notes.extend(why),
            }
        }
        if files.engine == Engine::Containerd {
            notes.extend(driver(&self.changes, asked.name));
            notes.extend(self.effective.as_ref().and_then(cri_is_off));
        }
        let note = files.distribution().note;
        notes.extend(Some(note.to_owned()).filter(|it| !it.is_empty()));
        Ok(notes)
    }
}

/// Fails if "base" is known to be unknown, so that nothing would be generated; a note if the
/// release is not known.
fn knows_base(files: &Files) -> anyhow::Result<Option<String>> {
    let who = files.distribution().name;
    let known = go_template::known_base();
    match check::release(who, files.containerd.as_deref()) {
        Some(release) if !go_template::knows_base(release) => bail!(
            "{who} {release} knows no `{{{{ template \"base\" . }}}}`: its containerd would get no file; update {who} to {known}, or write {:?} yourself with all that {who} generates, and configure again; nothing was changed",
            files.entry
        ),
        Some(_) => Ok(None),
        None => Ok(Some(format!(
            "the version of {who} is not known; one before {known} knows no \
             `{{{{ template \"base\" . }}}}`, and does not start with this file"
        ))),
    }
}

/// An entry of ours that would be written differently now.
#[derive(Debug, Clone)]
pub(crate) struct Drift {
    pub(crate) engine: Engine,
    pub(crate) name: String,
    pub(crate) file: PathBuf,
    pub(crate) wrapped: String,
    /// What has changed, or why that is not known.
    pub(crate) what: String,
}

/// Entries whose wrapped runtime has changed since, or is gone. An error means that we could not
/// look.
pub(crate) fn drifts() -> anyhow::Result<Vec<Drift>> {
    let records = Record::all()?;
    let entries = records.iter().filter(|it| !matches!(it.ours, Ours::Import(_)));
    let found = entries.map(|record| {
        let what = drift(record).with_context(|| format!("{:?}", record.path))?;
        Ok(what.map(|what| Drift {
            engine: record.engine,
            name: record.name.clone(),
            file: record.path.clone(),
            wrapped: record.wrapped.clone().unwrap_or_default(),
            what,
        }))
    });
    found.filter_map(Result::transpose).collect()
}

fn drift(record: &Record) -> anyhow::Result<Option<String>> {
    let files = places::of_record(record);
    if file::read(&files.entry)?.is_none() {
        return Ok(Some("it is gone".to_owned()));
    }
    let wish = Wish {
        name: &record.name,
        binary: &record.binary,
        wrap: None,
        set_as_default: false,
        is_merged: files.is_merged(),
    };
    let plan = Plan::of(&files, &wish)?;
    Ok(plan.changes.iter().find(|it| it.is_needed()).map(|it| changed_lines(&it.diff())))
}

/// The changed lines of a diff, on one line.
fn changed_lines(diff: &str) -> String {
    let lines = diff.lines().filter(|it| !it.starts_with("---") && !it.starts_with("+++"));
    let changed = lines.filter_map(|it| {
        let sign = it.chars().next().filter(|it| matches!(it, '-' | '+'))?;
        Some(format!("{sign} {}", it[1..].trim()))
    });
    changed.collect::<Vec<_>>().join("; ")
}

/// Without CRI, no pod reaches this containerd.
fn cri_is_off(effective: &DocumentMut) -> Option<String> {
    let is_cri = |it: &str| it == "cri" || it == "io.containerd.grpc.v1.cri";
    let mut off = effective.get("disabled_plugins")?.as_array()?.iter();
    off.any(|it| it.as_str().is_some_and(is_cri)).then(|| {
        "disabled_plugins has the CRI plugin, so containerd runs no pods and knows no runtime of this file".to_owned()
    })
}

/// If kubelet has the systemd driver and containerd does not, pods crash in a loop.
fn driver(changes: &[Change], name: &str) -> Option<String> {
    let change = changes.first().filter(|change| change.is_needed())?;
    let all = layout::handlers(Engine::Containerd, change.after.as_ref()?)?;
    let ours = all.iter().find(|it| it.name == name)?;
    (!ours.options.contains_key("SystemdCgroup")).then(|| {
        "SystemdCgroup is false, as in the wrapped entry: kubelet's cgroupDriver must be cgroupfs"
            .to_owned()
    })
}

/// containerd's own file. Our own parser says more precisely what is wrong with it, and where.
fn main_document(files: &Files) -> anyhow::Result<Option<DocumentMut>> {
    if files.engine != Engine::Containerd {
        return Ok(None);
    }
    let Some(text) = file::read(&files.main)? else { return Ok(None) };
    let document = toml_file::parse(&text).and_then(|document| {
        // An empty file gets the defaults of whatever version this is.
        if !text.trim().is_empty() {
            Layout::of(files.engine, &document)?;
        }
        Ok(document)
    });
    document.map(Some).with_context(|| format!("{:?}", files.main))
}

/// What the engine reads from its files before the change: a source of options.
fn effective(files: &Files) -> anyhow::Result<Option<DocumentMut>> {
    match files.engine {
        Engine::Containerd => check::effective(&files.main, files.containerd.as_deref())
            .context("containerd cannot read its configuration as it is; nothing was changed"),
        Engine::Crio => crio(),
        Engine::Podman => podman::effective()
            .context("podman cannot read its configuration as it is; nothing was changed"),
        Engine::Docker => Ok(None),
    }
}

/// CRI-O's files in the order in which it reads them, on top of its built-in settings: a later file
/// adds runtimes, and replaces those that it names again. `crio config` would print all in one, but
/// prints settings that equal the built-in ones as comments, even the default runtime.
fn crio() -> anyhow::Result<Option<DocumentMut>> {
    // If CRI-O cannot read its files, the check at the end refuses ours.
    let mut all = check::crio_default().unwrap_or_default();
    for path in crate::node::crio::files() {
        let Some(text) = file::read(&path)? else { continue };
        let document = toml_file::parse(&text).with_context(|| format!("{path:?}"))?;
        match &mut all {
            None => all = Some(document),
            Some(all) => {
                toml_file::merge(all, &document).with_context(|| format!("{path:?}"))?;
            }
        }
    }
    Ok(all)
}

/// Our part is written anew each time, from the file without it. So it follows the options of the
/// wrapped runtime, and the options of this command.
fn standing(
    files: &Files,
    name: &str,
    record: Option<&Record>,
    text: &str,
) -> anyhow::Result<Standing> {
    let recorded = record.and_then(|it| it.wrapped.clone());
    let wrapped = recorded.or_else(|| commented(text, name));
    let is_default = match record {
        Some(record) => matches!(record.ours, Ours::Entry { default: Some(_) }),
        None => {
            let all = layout::handlers(files.engine, text).unwrap_or_default();
            all.iter().any(|it| it.is_default && it.name == name)
        }
    };
    // An entry without a record and without our comment is not from us.
    let base = match record.is_some() || wrapped.is_some() {
        true => {
            base::of(files, record, name, text).with_context(|| format!("{:?}", files.entry))?
        }
        false => None,
    };
    Ok(match base {
        Some((base, _)) => Standing { base, wrapped, is_default },
        None => Standing { base: Some(text.to_owned()), ..Standing::default() },
    })
}

/// The comment above our entry names the wrapped runtime.
fn commented(text: &str, name: &str) -> Option<String> {
    let entry = [format!(".{name}]"), format!(".\"{name}\"]"), format!(".'{name}']")];
    let at = entry.iter().find_map(|entry| text.find(entry.as_str()))?;
    let comment = &text[text[..at].rfind(IN_FRONT_OF)? + IN_FRONT_OF.len()..at];
    // Only the header of the entry is between the two.
    (comment.lines().count() == 2).then(|| comment.split(';').next().map(str::to_owned))?
}

fn edited(
    files: &Files,
    wish: &Wish<'_>,
    base: Option<&str>,
    main: Option<&DocumentMut>,
    effective: Option<&DocumentMut>,
) -> anyhow::Result<Edited> {
    // The file that imports a drop-in has the runtimes that the drop-in can wrap.
    let main = main.filter(|_| files.kind != Kind::Own);
    // containerd takes an empty file for its defaults.
    let is_empty = |text: &&str| {
        text.trim().is_empty()
            && files.engine == Engine::Containerd
            && files.kind != Kind::GoTemplate
    };
    let text = match base.filter(|text| !is_empty(text)) {
        Some(text) => text.to_owned(),
        None => new_file(files, main, effective)?,
    };
    let plain = lines::plain(&text);
    let others: Vec<&DocumentMut> = main.into_iter().chain(effective).collect();
    let mut edited = match (files.engine, files.kind) {
        (_, Kind::GoTemplate) => {
            sets_no_default(files, wish)?;
            let generated = others.first().context("nothing was generated yet")?;
            go_template::configure(&plain, wish, generated)
        }
        (Engine::Docker, _) => json_file::configure(&plain, wish),
        (Engine::Podman, _) => podman::configure(&plain, wish, effective, &files.entry),
        (engine, _) => toml_file::configure(engine, &plain, wish, &others),
    }
    .with_context(|| format!("{:?}", files.entry))?;
    edited.text = lines::fit(&text, &edited.text);
    Ok(edited)
}

fn sets_no_default(files: &Files, wish: &Wish<'_>) -> anyhow::Result<()> {
    if wish.set_as_default {
        bail!(
            "{} sets the default runtime itself: {}, and leave out --set-as-default; nothing was \
             changed",
            files.distribution().name,
            files.distribution().default.replace("NAME", wish.name)
        );
    }
    Ok(())
}

/// The initial content of a file that does not exist yet.
fn new_file(
    files: &Files,
    main: Option<&DocumentMut>,
    effective: Option<&DocumentMut>,
) -> anyhow::Result<String> {
    let usual = effective.and_then(layout::version).unwrap_or(2);
    let version = match (files.engine, files.kind) {
        (Engine::Containerd, Kind::GoTemplate) => return Ok(go_template::BASE.to_owned()),
        (Engine::Containerd, Kind::Own) => usual,
        // The version of an imported file must not be above that of the importing file.
        (Engine::Containerd, _) => {
            let main = main.with_context(|| {
                format!("there is no {:?} to import it; leave out --drop-in", files.main)
            })?;
            layout::version(main).unwrap_or(usual)
        }
        _ => return Ok(String::new()),
    };
    Ok(format!("version = {version}\n"))
}

/// `ours`: what is recorded of the imported file.
fn import(files: &Files, ours: &Record) -> anyhow::Result<Option<Change>> {
    let entry = files.entry.to_str().with_context(|| format!("{:?} is not UTF-8", files.entry))?;
    let now = file::read(&files.main)?;
    let text = now.clone().unwrap_or_default();
    let context = || format!("{:?}", files.main);
    let after =
        toml_file::import(&lines::plain(&text), &files.main, &files.entry).with_context(context)?;
    let Some(after) = after else { return Ok(None) };
    let old = Record::load(&files.main, &ours.name)?;
    let before = match &old {
        Some(_) => base::of(files, old.as_ref(), &ours.name, &text).with_context(context)?,
        None => None,
    };
    let record = Record {
        path: files.main.clone(),
        main: None,
        wrapped: None,
        before: before.map_or_else(|| now.clone(), |(base, _)| base),
        after: lines::fit(&text, &after),
        ours: Ours::Import(entry.to_owned()),
        ..ours.clone()
    };
    Ok(Some(Change::put(now, old, record)))
}

fn how_to_use(engine: Engine, name: &str) -> String {
    match engine {
        Engine::Containerd | Engine::Crio => {
            format!(
                "pods get it by a RuntimeClass with `handler: {name}`, all of them with --set-as-default"
            )
        }
        Engine::Docker | Engine::Podman => {
            format!("{} run --runtime {name} ..., or for all with --set-as-default", engine.name())
        }
    }
}
