//! Our block in a Go template of k3s or rke2, from which they generate containerd's file. The block
//! is at the end; its last line says whose it is. The rest is not TOML and stays as it is.

use anyhow::{Context, bail};
use toml_edit::DocumentMut;

use super::edit::{Edited, Wish};
use super::engine::Engine;
use super::record::Ours;
use super::{layout, toml_file};
use crate::version::Version;

/// The content of a new template: everything that would be generated without it.
pub(super) const BASE: &str = "{{ template \"base\" . }}\n";

/// The first version in each k3s release line that knows "base" (github.com/k3s-io/k3s/pull/7991).
/// rke2 has the version of the k3s that it contains.
const KNOW_BASE: [Version; 5] = [
    Version::new(1, 24, 17),
    Version::new(1, 25, 13),
    Version::new(1, 26, 8),
    Version::new(1, 27, 5),
    Version::new(1, 28, 1),
];

/// Whether the template uses "base"; a template that does not exist yet will.
pub(super) fn has_base(text: Option<&str>) -> bool {
    text.is_none_or(|text| text.contains("template \"base\""))
}

pub(super) fn knows_base(release: Version) -> bool {
    let own = KNOW_BASE.iter().find(|first| first.is_of_the_line_of(release));
    release >= *own.unwrap_or(&KNOW_BASE[KNOW_BASE.len() - 1])
}

pub(super) fn known_base() -> String {
    let all: Vec<String> = KNOW_BASE.iter().map(ToString::to_string).collect();
    format!("{} or newer", all.join(", "))
}

pub(super) const BEGIN: &str = "# By `frostctl configure`";

fn end(name: &str) -> String {
    format!("# The end of {name}, by `frostctl configure`.\n")
}

/// `generated` is the file that was last generated from the template.
pub(super) fn configure(
    text: &str,
    wish: &Wish<'_>,
    generated: &DocumentMut,
) -> anyhow::Result<Edited> {
    let name = wish.name;
    if ["", "\"", "'"].iter().any(|quote| text.contains(&format!("runtimes.{quote}{name}{quote}]")))
    {
        bail!(
            "has a runtime {name:?} that frostctl has not written; choose another --name; nothing was changed"
        );
    }
    let version = layout::version(generated).unwrap_or(2);
    let head = format!("version = {version}\n");
    let edited = toml_file::configure(Engine::Containerd, &head, wish, &[generated])?;
    let block = edited.text.strip_prefix(&head).context("cannot be written by frostctl")?;
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let text = format!("{text}{gap}\n{}{}", block.trim_start_matches('\n'), end(name));
    Ok(Edited { text, ours: Ours::Template, wrapped: edited.wrapped })
}

/// The text without our block; `None` if there is no block.
pub(super) fn without(text: &str, name: &str) -> Option<String> {
    let (before, after) = text.split_once(&end(name))?;
    let block = before.rfind(BEGIN)?;
    let kept = &before[..block];
    Some(format!("{}{after}", kept.strip_suffix('\n').unwrap_or(kept)))
}

/// Whether the text is only what we would have written, which nobody needs without us.
pub(super) fn is_bare(text: &str) -> bool {
    text.trim() == BASE.trim()
}

/// What containerd will read: the file generated last, with our block.
pub(super) fn rendered(generated: &str, text: &str, name: &str) -> anyhow::Result<String> {
    let generated = toml_file::unconfigure(Engine::Containerd, generated, name, None)?
        .unwrap_or_else(|| generated.to_owned());
    let block =
        text.split_once(&end(name)).and_then(|(before, _)| Some(&before[before.rfind(BEGIN)?..]));
    Ok(format!("{generated}\n{}", block.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GENERATED: &str = "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\n  runtime_type = \"io.containerd.runc.v2\"\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\n  SystemdCgroup = true\n";

    fn wish() -> Wish<'static> {
        Wish {
            name: "frostlock",
            binary: "/usr/local/bin/frostlock",
            wrap: None,
            set_as_default: false,
            is_merged: true,
        }
    }

    #[test]
    fn a_block_comes_and_goes_and_the_template_stays() {
        let generated = toml_file::parse(GENERATED).unwrap();
        for text in [BASE, "version = 3 # {{ .Program }}\n{{- if .X }}\n[debug]\n{{ end }}", ""] {
            let edited = configure(text, &wish(), &generated).unwrap();
            assert!(edited.text.starts_with(text), "{}", edited.text);
            assert_eq!(edited.text.matches("SystemdCgroup = true").count(), 1);
            assert_eq!(edited.text.matches("/usr/local/bin/frostlock").count(), 1);
            let back = without(&edited.text, "frostlock").unwrap();
            assert_eq!(back.trim_end(), text.trim_end());
            assert_eq!(without(&edited.text, "other"), None);
            let rendered =
                toml_file::parse(&rendered(GENERATED, &edited.text, "frostlock").unwrap()).unwrap();
            assert!(rendered.to_string().contains("runtimes.frostlock.options"), "{rendered}");
        }
    }

    #[test]
    fn a_base_is_known_from_the_patch_of_its_line_on() {
        for (release, knows) in [
            ("v1.21.14+k3s1", false),
            ("v1.24.16+k3s1", false),
            ("v1.24.17+k3s1", true),
            ("v1.27.4+rke2r1", false),
            ("v1.28.0+k3s1", false),
            ("v1.28.1-rke2r1-4ad4ad", true),
            ("v1.33.0+k3s1", true),
        ] {
            assert_eq!(knows_base(Version::find(release).unwrap()), knows, "{release}");
        }
        assert!(
            has_base(None) && has_base(Some("{{- template \"base\" . -}}")) && !has_base(Some(""))
        );
    }

    #[test]
    fn one_that_somebody_else_has_written_is_left_alone() {
        let text = "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.\"frostlock\"]\n";
        let error = configure(text, &wish(), &toml_file::parse(GENERATED).unwrap()).unwrap_err();
        assert!(error.to_string().contains("--name"), "{error}");
    }
}
