//! The pure crates stay pure: what they are built from is asked from `cargo tree`.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use super::Offence;

/// Crates that see no clock, no socket and no file, and their folders.
const PURE: [(&str, &str); 3] =
    [("ptarmigan-types", "crates/types"), ("ptarmigan-ha", "crates/ha"), ("ptarmigan-sim", "crates/sim")];
/// What would give them one.
const BANNED: [&str; 9] =
    ["tokio", "rustix", "reqwest", "hyper", "libc", "mio", "socket2", "tokio-postgres", "ptarmigan-clock"];

pub(super) fn check(root: &Path) -> Result<Vec<Offence>> {
    let mut offences = Vec::new();
    for (name, folder) in PURE.iter().filter(|(_, folder)| root.join(folder).is_dir()) {
        offences.extend(judge(folder, &tree(root, name)?));
    }
    Ok(offences)
}

#[allow(clippy::disallowed_methods, reason = "a chore of the workspace has no loop to block")]
fn tree(root: &Path, name: &str) -> Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["tree", "--offline", "--edges", "normal", "--prefix", "none", "--package", name])
        .current_dir(root)
        .output()
        .context("cargo tree")?;
    ensure!(output.status.success(), "cargo tree -p {name}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn judge(folder: &str, tree: &str) -> Vec<Offence> {
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    let mut found: Vec<&str> = names.filter(|name| BANNED.contains(name)).collect();
    found.sort_unstable();
    found.dedup();
    let message = |name: &str| format!("depends on `{name}`: this crate has no clock, no socket, no file");
    let path = format!("{folder}/Cargo.toml");
    found.iter().map(|name| Offence { path: path.clone(), line: 1, message: message(name) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_below_a_pure_crate_is_an_offence() {
        let tree =
            "ptarmigan-ha v0.1.0 (/a/crates/ha)\nptarmigan-types v0.1.0\ntokio v1.54.1\ntokio v1.54.1 (*)\n";
        let offences = judge("crates/ha", tree);
        assert_eq!((offences.len(), offences[0].path.as_str()), (1, "crates/ha/Cargo.toml"));
        assert_eq!(judge("crates/ha", "ptarmigan-ha v0.1.0\nserde v1.0.0\ntokio-free v1.0.0\n"), []);
    }
}
