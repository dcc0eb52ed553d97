//! The changes as a unified diff: plain for programs, coloured and paged for people.

use std::{env, path::Path, process::Stdio};

use anyhow::{Context as _, Result};
use similar::TextDiff;
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::console::Console;

/// Three lines of context, headers without names (contract C.5).
pub(super) fn unified(before: &str, after: &str) -> String {
    TextDiff::from_lines(before, after).unified_diff().context_radius(3).header("", "").to_string()
}

/// Prints a diff. On a terminal it is coloured and goes through `PAGER`, `less` or `more`, where there is one.
///
/// # Errors
/// The reader of the output is gone.
pub(super) async fn show(console: Console, diff: &str) -> Result<()> {
    if !console.is_terminal() {
        return console.write(diff);
    }
    let coloured: String = diff.lines().map(colour).collect();
    match pager() {
        Some(pager) => page(&pager, &coloured).await,
        None => console.write(&coloured),
    }
}

fn colour(line: &str) -> String {
    let code = match line.as_bytes().first() {
        _ if line.starts_with("+++") || line.starts_with("---") => "1",
        Some(b'+') => "32",
        Some(b'-') => "31",
        Some(b'@') => "36",
        _ => return format!("{line}\n"),
    };
    format!("\x1b[{code}m{line}\x1b[0m\n")
}

/// Program and arguments.
fn pager() -> Option<Vec<String>> {
    let configured = env::var("PAGER").ok().and_then(|pager| shlex::split(&pager));
    if let Some(words) = configured.filter(|words| !words.is_empty()) {
        return Some(words);
    }
    // -F: what fits on the screen is left there at once.
    let known = [["less", "-FRX"].as_slice(), &["more"]];
    let found = known.into_iter().find(|words| is_installed(words[0]))?;
    Some(found.iter().map(|word| (*word).to_owned()).collect())
}

/// True where one of the folders of `PATH` holds the program.
pub(super) fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| Path::new(&folder).join(program).is_file())
}

async fn page(words: &[String], text: &str) -> Result<()> {
    let program = &words[0];
    let mut child = Command::new(program)
        .args(&words[1..])
        .stdin(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start the pager {program}"))?;
    if let Some(mut input) = child.stdin.take() {
        // A pager that is left before the end closes its input.
        let _ = input.write_all(text.as_bytes()).await;
    }
    child.wait().await.with_context(|| format!("the pager {program}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_coloured_by_their_first_character() {
        assert_eq!(colour("+a"), "\x1b[32m+a\x1b[0m\n");
        assert_eq!(colour("--- "), "\x1b[1m--- \x1b[0m\n");
        assert_eq!(colour(" a"), " a\n");
    }

    #[test]
    fn c_5_counts_of_one_line_are_left_out() {
        assert_eq!(unified("a: 1\n", "a: 2\n"), "--- \n+++ \n@@ -1 +1 @@\n-a: 1\n+a: 2\n");
        assert_eq!(unified("{}\n", "a: 2\nb: 1\n"), "--- \n+++ \n@@ -1 +1,2 @@\n-{}\n+a: 2\n+b: 1\n");
    }
}
