//! The command line. The daemon writes it; people read it in `ps`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

const USAGE: &str = "usage: ptarmigan-guardian --run-dir DIR [--data-dir DIR] [--idle-exit-ms N] [--debug]\n\
                     Holds PostgreSQL for the ptarmigan daemon, which starts it.";

#[derive(Debug)]
pub(super) struct Arguments {
    /// `<base>/<hash>`, see [`crate::run_dir`].
    pub(super) run_dir: PathBuf,
    /// PostgreSQL's data directory: where a postmaster is found that somebody else started.
    pub(super) data_dir: Option<PathBuf>,
    /// How long to stay with neither a postmaster nor a client.
    pub(super) idle_exit: Duration,
    /// Say more on stderr.
    pub(super) debug: bool,
}

impl Arguments {
    pub(super) fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let (mut run_dir, mut data_dir) = (None, None);
        let mut idle_exit = Duration::from_secs(10);
        let mut debug = false;
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| USAGE.to_owned());
            match argument.to_str() {
                Some("--run-dir") => run_dir = Some(PathBuf::from(value()?)),
                Some("--data-dir") => data_dir = Some(PathBuf::from(value()?)),
                Some("--idle-exit-ms") => {
                    let millis = value()?.to_str().and_then(|text| text.parse().ok());
                    idle_exit = Duration::from_millis(millis.ok_or_else(|| USAGE.to_owned())?);
                }
                Some("--debug") => debug = true,
                _ => return Err(USAGE.to_owned()),
            }
        }
        Ok(Self { run_dir: run_dir.ok_or_else(|| USAGE.to_owned())?, data_dir, idle_exit, debug })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Arguments, String> {
        Arguments::parse(words.iter().map(OsString::from))
    }

    #[test]
    fn known_arguments_are_read_and_others_refused() {
        let arguments =
            parse(&["--run-dir", "/run/x", "--data-dir", "/data", "--idle-exit-ms", "250"]).unwrap();
        assert_eq!(arguments.run_dir, PathBuf::from("/run/x"));
        assert_eq!(arguments.data_dir, Some(PathBuf::from("/data")));
        assert_eq!(arguments.idle_exit, Duration::from_millis(250));
        assert!(!arguments.debug);
        for wrong in [&["--run-dir"][..], &[], &["--run-dir", "x", "y"], &["--idle-exit-ms", "soon"]] {
            assert_eq!(parse(wrong).unwrap_err(), USAGE);
        }
    }
}
