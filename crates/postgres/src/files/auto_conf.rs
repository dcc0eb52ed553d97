//! `postgresql.auto.conf`: recovery parameters set there by `ALTER SYSTEM` or `pg_basebackup -R` would override ours
//! (contract B.19.3).

use std::path::Path;

use super::{Error, conf, failed};
use crate::recovery;

/// The text without recovery parameters; `None` where there are none.
pub fn without_recovery(text: &str) -> Option<String> {
    let is_recovery =
        |line: &&str| conf::read_line(line).is_some_and(|(name, _)| recovery::is_recovery_guc(&name));
    if !text.lines().any(|line| is_recovery(&line)) {
        return None;
    }
    let kept: Vec<&str> = text.lines().filter(|line| !is_recovery(line)).collect();
    Some(kept.join("\n") + "\n")
}

/// Takes the recovery parameters out of the file; true where there were any. A missing file has none.
pub fn clean(data_dir: &Path) -> Result<bool, Error> {
    let path = data_dir.join("postgresql.auto.conf");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("read", &path)(error)),
    };
    let Some(cleaned) = without_recovery(&text) else { return Ok(false) };
    super::write(&path, &cleaned, super::mode_of(&path, data_dir))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b_19_3_recovery_parameters_are_deleted() {
        let text = "# Do not edit\nwork_mem = '4MB'\nPrimary_Conninfo = 'user=x'\nrestore_command = 'cp'\n";
        assert_eq!(without_recovery(text).unwrap(), "# Do not edit\nwork_mem = '4MB'\n");
        assert_eq!(without_recovery("# primary_conninfo = 'x'\nwork_mem = '4MB'\n"), None);
    }
}
