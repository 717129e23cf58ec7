//! `frostctl configure`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use toml_edit::DocumentMut;

use super::arguments::Configure;
use super::check::Expected;
use super::edit::{Edited, Wish};
use super::engine::Engine;
use super::files::{Files, Kind};
use super::interrupt::Held;
use super::layout::{self, Layout};
use super::record::{Ours, Record};
use super::report::{Action, FileReport, Report, diff};
use super::restart::{Handler, Restart};
use super::{
    binary, check, file, go_template, json_file, lines, places, podman, remove, toml_file,
};

/// Our comment has this text before the name of the wrapped runtime.
const IN_FRONT_OF: &str = "# By `frostctl configure`, in front of ";

/// One file to change.
#[derive(Debug)]
struct Change {
    path: PathBuf,
    /// `None`: there is no file.
    now: Option<String>,
    /// What the file would be without us; `None`: there would be no file.
    base: Option<String>,
    after: String,
    ours: Ours,
    wrapped: Option<String>,
}

/// What an earlier `configure` left.
#[derive(Debug, Default)]
struct Standing {
    /// The text without our part. `None`: there was no file.
    base: Option<String>,
    wrapped: Option<String>,
    is_default: bool,
}

pub(super) fn install(asked: &Configure) -> anyhow::Result<Report> {
    let target = &asked.target;
    target.check_name()?;
    let files = places::to_configure(target, asked.no_drop_in)?;
    let program = binary::find(asked.binary.as_deref())?;
    let effective = effective(target.runtime, &files)?;
    let now = file::read(&files.entry)?;
    let standing = standing(target.runtime, &files, &target.name, now.as_deref())?;
    let mut report = Report::new(target.runtime, &target.name, target.dry_run);
    if files.kind == Kind::GoTemplate && go_template::has_base(standing.base.as_deref()) {
        report.notes.extend(knows_base(&files)?);
    }
    let wish = Wish {
        name: &target.name,
        binary: &program,
        wrap: asked.wrap.as_deref().or(standing.wrapped.as_deref()),
        set_as_default: asked.set_as_default || standing.is_default,
        is_merged: files.is_merged(),
    };
    if standing.is_default && !asked.set_as_default {
        report.notes.push(
            "it stays the default runtime, as an earlier configure set it; to change that, \
             unconfigure and configure again"
                .to_owned(),
        );
    }
    let (changes, edited) =
        plan(target.runtime, &files, &wish, now, &standing, effective.as_ref())?;
    let is_needed = changes.iter().any(Change::is_needed);
    if let Some(wrapped) = &edited.wrapped {
        match binary::mismatch(&program, wrapped, files.containerd.as_deref())? {
            Some(why) if !asked.force && is_needed => bail!("{why}; nothing was changed"),
            why => report.notes.extend(why),
        }
    }
    report.notes.extend(driver(target.runtime, &changes, &target.name));
    report.notes.extend(cri_is_off(target.runtime, effective.as_ref()));
    let note = files.distribution.map(|it| it.note).filter(|it| !it.is_empty());
    report.notes.extend(note.map(str::to_owned));
    let before = match target.runtime {
        Engine::Containerd => effective.as_ref(),
        _ => None,
    };
    let expected = Expected { name: &target.name, binary: Some(&program), before };
    if target.dry_run {
        report.files.extend(changes.iter().map(|change| change.report(None)));
        return Ok(report);
    }
    let restart = target.restart_plan(&files, target.runtime.reload(), before)?;
    apply(target.runtime, &files, &changes, &expected, restart.as_ref(), &mut report)?;
    advise(asked, &files, restart.is_some(), &mut report);
    Ok(report)
}

/// Fails if "base" is known to be unknown, so that nothing would be generated; a note if the
/// release is not known.
fn knows_base(files: &Files) -> anyhow::Result<Option<String>> {
    let who = files.distribution.map_or("", |it| it.name);
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
    let Some(now) = file::read(&files.entry)? else { return Ok(Some("it is gone".to_owned())) };
    let standing = standing(record.engine, &files, &record.name, Some(&now))?;
    let wish = Wish {
        name: &record.name,
        binary: &record.binary,
        wrap: standing.wrapped.as_deref(),
        set_as_default: standing.is_default,
        is_merged: files.is_merged(),
    };
    let effective = effective(record.engine, &files)?;
    let (changes, _) =
        plan(record.engine, &files, &wish, Some(now), &standing, effective.as_ref())?;
    let differs = changes.iter().find(|change| change.is_needed());
    Ok(differs.map(|it| changed_lines(&diff(&it.path, it.now.as_deref(), Some(&it.after)))))
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
fn cri_is_off(engine: Engine, effective: Option<&DocumentMut>) -> Option<String> {
    let off = effective.filter(|_| engine == Engine::Containerd)?.get("disabled_plugins")?;
    let is_cri = |it: &str| it == "cri" || it == "io.containerd.grpc.v1.cri";
    let is_off = off.as_array()?.iter().filter_map(toml_edit::Value::as_str).any(is_cri);
    is_off.then(|| {
        "disabled_plugins has the CRI plugin, so containerd runs no pods and knows no runtime of this file".to_owned()
    })
}

/// If kubelet has the systemd driver and containerd does not, pods crash in a loop.
fn driver(engine: Engine, changes: &[Change], name: &str) -> Option<String> {
    let change =
        changes.first().filter(|change| engine == Engine::Containerd && change.is_needed())?;
    let document = toml_file::parse(&change.after).ok()?;
    let layout = Layout::of(engine, &document).ok()?;
    let set = layout.entry(&document, name)?.get("options").and_then(|it| it.get("SystemdCgroup"));
    let is_systemd = set.and_then(toml_edit::Item::as_bool).unwrap_or(false);
    (!is_systemd).then(|| {
        "SystemdCgroup is false, as in the wrapped entry: kubelet's cgroupDriver must be cgroupfs"
            .to_owned()
    })
}

/// What the engine reads from its files before the change: a source of options.
fn effective(engine: Engine, files: &Files) -> anyhow::Result<Option<DocumentMut>> {
    match engine {
        Engine::Containerd => {
            // Our own parser says more precisely what is wrong with a file, and where.
            if let Some(text) = file::read(&files.main)? {
                let document =
                    toml_file::parse(&text).with_context(|| format!("{:?}", files.main))?;
                // An empty file gets the defaults of whatever version this is.
                if !text.trim().is_empty() {
                    Layout::of(engine, &document).with_context(|| format!("{:?}", files.main))?;
                }
            }
            check::effective(&files.main, files.containerd.as_deref())
                .context("containerd cannot read its configuration as it is; nothing was changed")
        }
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
            Some(all) => toml_file::merge(all, Layout::of(Engine::Crio, &document)?, &document)
                .with_context(|| format!("{path:?}"))?,
        }
    }
    Ok(all)
}

/// Our part is written anew each time, from the file without it. So it follows the options of the
/// wrapped runtime, and the options of this command.
fn standing(
    engine: Engine,
    files: &Files,
    name: &str,
    now: Option<&str>,
) -> anyhow::Result<Standing> {
    let Some(text) = now else { return Ok(Standing::default()) };
    let none = || Standing { base: Some(text.to_owned()), ..Standing::default() };
    let record = Record::load(&files.entry, name)?;
    let context = || format!("{:?}", files.entry);
    match record {
        Some(record) => {
            let is_default = matches!(record.ours, Ours::Entry { default: Some(_) });
            let wrapped = record.wrapped.clone().or_else(|| commented(text, name));
            if record.after == text {
                return Ok(Standing { base: record.before, wrapped, is_default });
            }
            // Somebody has edited the file since; their edits must stay.
            match remove::taken_out(&record, text).with_context(context)? {
                Some(base) => Ok(Standing { base: Some(base), wrapped, is_default }),
                None => Ok(none()),
            }
        }
        None => {
            let Some(wrapped) = commented(text, name) else { return Ok(none()) };
            let is_default =
                layout::handlers(engine, text).iter().any(|it| it.is_default && it.name == name);
            let ours = if files.kind == Kind::GoTemplate {
                Ours::Template
            } else {
                Ours::Entry { default: None }
            };
            let base = remove::without(engine, &ours, text, name).with_context(context)?;
            let is_there = base.is_some();
            let base = base.or_else(|| Some(text.to_owned()));
            Ok(if is_there {
                Standing { base, wrapped: Some(wrapped), is_default }
            } else {
                none()
            })
        }
    }
}

/// The comment above our entry names the wrapped runtime.
fn commented(text: &str, name: &str) -> Option<String> {
    let entry = [format!(".{name}]"), format!(".\"{name}\"]"), format!(".'{name}']")];
    let at = entry.iter().find_map(|entry| text.find(entry.as_str()))?;
    let comment = &text[text[..at].rfind(IN_FRONT_OF)? + IN_FRONT_OF.len()..at];
    // Only the header of the entry is between the two.
    (comment.lines().count() == 2).then(|| comment.split(';').next().map(str::to_owned))?
}

fn plan(
    engine: Engine,
    files: &Files,
    wish: &Wish<'_>,
    now: Option<String>,
    standing: &Standing,
    effective: Option<&DocumentMut>,
) -> anyhow::Result<(Vec<Change>, Edited)> {
    let base = standing.base.clone();
    let mut edited = match files.kind {
        Kind::GoTemplate => go_edited(files, wish, base.as_deref(), effective)?,
        _ => edited(engine, files, wish, base.as_deref(), effective)?,
    };
    let after = std::mem::take(&mut edited.text);
    let wrapped =
        edited.wrapped.as_ref().map(|it| it.name.clone()).or_else(|| standing.wrapped.clone());
    let ours = edited.ours.clone();
    let mut changes = vec![Change { path: files.entry.clone(), now, base, after, ours, wrapped }];
    if files.is_import() {
        changes.extend(import(files, wish.name)?);
    }
    Ok((changes, edited))
}

fn edited(
    engine: Engine,
    files: &Files,
    wish: &Wish<'_>,
    base: Option<&str>,
    effective: Option<&DocumentMut>,
) -> anyhow::Result<Edited> {
    let text = match base {
        // containerd takes an empty file for its defaults.
        Some(text) if engine != Engine::Containerd || !text.trim().is_empty() => text.to_owned(),
        _ => new_file(engine, files, effective)?,
    };
    let plain = lines::plain(&text);
    let main = main_document(engine, files)?;
    let others: Vec<&DocumentMut> = main.iter().chain(effective).collect();
    let mut edited = match engine {
        Engine::Docker => json_file::configure(&plain, wish),
        Engine::Podman => podman::configure(&plain, wish, effective, &files.entry),
        _ => toml_file::configure(engine, &plain, wish, &others),
    }
    .with_context(|| format!("{:?}", files.entry))?;
    edited.text = lines::fit(&text, &edited.text);
    Ok(edited)
}

/// The file that imports a drop-in has the runtimes that the drop-in can wrap.
fn main_document(engine: Engine, files: &Files) -> anyhow::Result<Option<DocumentMut>> {
    if engine != Engine::Containerd || files.kind == Kind::Own {
        return Ok(None);
    }
    let text = file::read(&files.main)?;
    text.map(|text| toml_file::parse(&text).with_context(|| format!("{:?}", files.main)))
        .transpose()
}

fn go_edited(
    files: &Files,
    wish: &Wish<'_>,
    base: Option<&str>,
    effective: Option<&DocumentMut>,
) -> anyhow::Result<Edited> {
    let who = files.distribution;
    if wish.set_as_default {
        bail!(
            "{} sets the default runtime itself: {}, and leave out --set-as-default; nothing was \
             changed",
            who.map_or("", |it| it.name),
            who.map_or("", |it| it.default).replace("NAME", wish.name)
        );
    }
    let generated = main_document(Engine::Containerd, files)?;
    let generated = generated.as_ref().or(effective).context("nothing was generated yet")?;
    let plain = base.map(lines::plain);
    let mut edited = go_template::configure(plain.as_deref(), wish, generated)
        .with_context(|| format!("{:?}", files.entry))?;
    edited.text = lines::fit(base.unwrap_or_default(), &edited.text);
    Ok(edited)
}

/// The initial content of a file that does not exist yet.
fn new_file(
    engine: Engine,
    files: &Files,
    effective: Option<&DocumentMut>,
) -> anyhow::Result<String> {
    if engine != Engine::Containerd {
        return Ok(String::new());
    }
    let mut version = effective.and_then(layout::version).unwrap_or(2);
    if files.kind != Kind::Own {
        // The version of an imported file must not be above that of the importing file.
        let main = file::read(&files.main)?;
        let main = main.with_context(|| {
            format!("there is no {:?} to import it; leave out --drop-in", files.main)
        })?;
        version = layout::version(&toml_file::parse(&main)?).unwrap_or(version);
    }
    Ok(format!("version = {version}\n"))
}

fn import(files: &Files, name: &str) -> anyhow::Result<Option<Change>> {
    let entry = files.entry.to_str().with_context(|| format!("{:?} is not UTF-8", files.entry))?;
    let now = file::read(&files.main)?;
    let text = now.clone().unwrap_or_default();
    let context = || format!("{:?}", files.main);
    let after =
        toml_file::import(&lines::plain(&text), &files.main, &files.entry).with_context(context)?;
    let Some(after) = after else { return Ok(None) };
    let after = lines::fit(&text, &after);
    let ours = Ours::Import(entry.to_owned());
    let base = match Record::load(&files.main, name)? {
        Some(record) if record.before.as_deref() != Some(&text) => {
            remove::taken_out(&record, &text).with_context(context)?.or_else(|| now.clone())
        }
        _ => now.clone(),
    };
    Ok(Some(Change { path: files.main.clone(), now, base, after, ours, wrapped: None }))
}

impl Change {
    fn is_needed(&self) -> bool {
        self.now.as_ref() != Some(&self.after)
    }

    fn report(&self, backup: Option<PathBuf>) -> FileReport {
        let action = match &self.now {
            None => Action::Created,
            Some(now) if *now == self.after => Action::Unchanged,
            Some(_) => Action::Changed,
        };
        let diff = diff(&self.path, self.now.as_deref(), Some(&self.after));
        FileReport { path: self.path.clone(), action, backup, diff }
    }

    /// Our entry may already exist, from an earlier time and with another binary.
    fn record(
        &self,
        engine: Engine,
        files: &Files,
        name: &str,
        binary: &str,
    ) -> anyhow::Result<Record> {
        let old = Record::load(&self.path, name)?;
        let mut former = old.iter().flat_map(|old| &old.former).cloned().collect::<Vec<_>>();
        former.extend(old.as_ref().map(|old| old.binary.clone()));
        former.retain(|it| it != binary);
        former.dedup();
        let missing = self.path.ancestors().skip(1).take_while(|it| !it.exists());
        let directory = missing.last().map(Path::to_owned);
        Ok(Record {
            engine,
            path: self.path.clone(),
            name: name.to_owned(),
            binary: binary.to_owned(),
            former,
            main: (files.main != self.path).then(|| files.main.clone()),
            kind: files.kind,
            wrapped: self.wrapped.clone(),
            made: old.and_then(|old| old.made).or(directory),
            before: self.base.clone(),
            after: self.after.clone(),
            ours: self.ours.clone(),
        })
    }
}

/// All files or none: a failure undoes what was done before it.
fn apply(
    engine: Engine,
    files: &Files,
    changes: &[Change],
    expected: &Expected<'_>,
    restart: Option<&Restart<'_>>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let binary = expected.binary.unwrap_or_default();
    let held = Held::hold()?;
    let mut done: Vec<(&Change, Option<Record>)> = Vec::new();
    let mut result = Ok(());
    for change in changes {
        if !change.is_needed() {
            report.files.push(change.report(None));
            continue;
        }
        let old = Record::load(&change.path, expected.name)?;
        let record = change.record(engine, files, expected.name, binary)?;
        result = record.save().and_then(|backup| {
            file::replace(&change.path, change.now.as_deref(), &change.after).inspect_err(
                |_| {
                    restore_record(&record, old.as_ref());
                },
            )?;
            report.files.push(change.report(backup));
            done.push((change, old));
            Ok(())
        });
        if result.is_err() {
            break;
        }
    }
    let checked = result
        .and_then(|()| check::check(engine, files, expected))
        .and_then(|checked| held.obey().map(|()| checked));
    match checked {
        Ok(checked) => report.checked(checked),
        Err(error) => return Err(undo(&done, expected.name, error)),
    }
    let Some(restart) = restart.filter(|it| !done.is_empty() || it.is_owed(Handler::There)) else {
        return Ok(());
    };
    match restart.run(Handler::There, &held) {
        Ok(()) => {
            report.restarted_by = Some(restart.command.clone());
            Ok(())
        }
        Err(error) if done.is_empty() => Err(error.context("nothing was changed")),
        Err(error) => {
            let error = undo(&done, expected.name, error);
            Err(restart.again(error, &held))
        }
    }
}

fn undo(done: &[(&Change, Option<Record>)], name: &str, error: anyhow::Error) -> anyhow::Error {
    let mut error = error;
    for (change, old) in done.iter().rev() {
        if let Err(second) = file::put_back(&change.path, &change.after, change.now.as_deref()) {
            error =
                error.context(format!("and {:?} could not be put back ({second:#})", change.path));
            continue;
        }
        if let Ok(Some(record)) = Record::load(&change.path, name) {
            restore_record(&record, old.as_ref());
        }
    }
    match done {
        [] => error,
        _ => error.context(
            "the result was not what was asked for, so the files were put back as they were",
        ),
    }
}

/// A leftover record still describes the file correctly, and the next run replaces it.
fn restore_record(record: &Record, old: Option<&Record>) {
    let _ = match old {
        Some(old) => old.save().map(|_| ()),
        None => record.forget(),
    };
}

fn advise(asked: &Configure, files: &Files, is_restarted: bool, report: &mut Report) {
    let target = &asked.target;
    if !report.changes() {
        return;
    }
    if !is_restarted {
        report.next.extend(files.restart_advice(target.runtime.reload()));
    }
    if asked.set_as_default {
        return;
    }
    let name = &target.name;
    report.next.push(match target.runtime {
        Engine::Containerd | Engine::Crio => {
            format!("pods get it by a RuntimeClass with `handler: {name}`, all of them with --set-as-default")
        }
        Engine::Docker | Engine::Podman => {
            format!("{} run --runtime {name} ..., or for all with --set-as-default", target.runtime.name())
        }
    });
}
