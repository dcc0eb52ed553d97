//! The configuration in an editor.

use std::io::Write as _;

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::process::Command;

use super::diff::is_installed;

/// Lets the operator edit `text` in a temporary file and returns what is in it afterwards.
///
/// # Errors
/// There is no editor, or it fails.
pub(super) async fn edit(cluster: &str, text: &str) -> Result<String> {
    let words = editor()?;
    let mut file = tempfile::Builder::new()
        .prefix(&format!("{}-config-", cluster.replace('/', "_")))
        .suffix(".yaml")
        .tempfile()
        .context("cannot make a temporary file")?;
    file.write_all(text.as_bytes()).and_then(|()| file.flush()).context("cannot write the temporary file")?;
    let program = &words[0];
    let status = Command::new(program)
        .args(&words[1..])
        .arg(file.path())
        .status()
        .await
        .with_context(|| format!("cannot start the editor {program}"))?;
    if !status.success() {
        bail!("the editor {program} ended with {status}");
    }
    // Editors replace the file as often as they write into it: read it by its name.
    std::fs::read_to_string(file.path()).context("cannot read the edited file")
}

/// `EDITOR`, else `editor`, else `vi`.
fn editor() -> Result<Vec<String>> {
    let configured = std::env::var("EDITOR").ok().filter(|editor| !editor.trim().is_empty());
    if let Some(editor) = configured {
        let words = shlex::split(&editor).filter(|words| !words.is_empty());
        return words.ok_or_else(|| anyhow!("EDITOR cannot be read: {editor}"));
    }
    ["editor", "vi"]
        .into_iter()
        .find(|program| is_installed(program))
        .map(|program| vec![program.to_owned()])
        .ok_or_else(|| anyhow!("no editor was found: set the EDITOR environment variable, or install vi"))
}
