//! The command line. The daemon writes it; people read it in `ps`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::upgrade::Descriptors;

const USAGE: &str = "usage: ptarmigan-guardian --run-dir DIR [--data-dir DIR] [--idle-exit-ms N] [--debug]\n\
                     Holds PostgreSQL for the ptarmigan daemon, which starts it.";

#[derive(Clone, Debug)]
pub(super) struct Arguments {
    /// `<base>/<hash>`, see [`crate::run_dir`].
    pub(super) run_dir: PathBuf,
    /// PostgreSQL's data directory: where a postmaster is found that somebody else started.
    pub(super) data_dir: Option<PathBuf>,
    /// How long to stay with neither a postmaster nor a client.
    pub(super) idle_exit: Duration,
    /// Say more on stderr.
    pub(super) debug: bool,
    /// What the former program left, where this is an upgrade in place.
    pub(super) resume: Option<Descriptors>,
}

/// What the command line asks for.
#[derive(Debug)]
pub(super) enum Asked {
    /// To guard.
    Guard(Arguments),
    /// Whether this program could go on from that version of another one's state.
    Resumes(u32),
}

impl Arguments {
    /// The command line that says the same, but for `resume`.
    pub(super) fn words(&self) -> Vec<OsString> {
        let mut words = vec!["--run-dir".into(), self.run_dir.clone().into()];
        if let Some(data_dir) = &self.data_dir {
            words.extend(["--data-dir".into(), data_dir.clone().into()]);
        }
        words.extend(["--idle-exit-ms".into(), self.idle_exit.as_millis().to_string().into()]);
        words.extend(self.debug.then(|| "--debug".into()));
        words
    }
}

impl Asked {
    pub(super) fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let (mut run_dir, mut data_dir) = (None, None);
        let mut idle_exit = Duration::from_secs(10);
        let (mut debug, mut resume) = (false, None);
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
                Some("--resume") => {
                    let value = value()?;
                    let descriptors = value.to_str().and_then(Descriptors::parse);
                    resume = Some(descriptors.ok_or_else(|| USAGE.to_owned())?);
                }
                Some("--resumes") => {
                    let version = value()?.to_str().and_then(|text| text.parse().ok());
                    return version.map(Self::Resumes).ok_or_else(|| USAGE.to_owned());
                }
                _ => return Err(USAGE.to_owned()),
            }
        }
        let run_dir = run_dir.ok_or_else(|| USAGE.to_owned())?;
        Ok(Self::Guard(Arguments { run_dir, data_dir, idle_exit, debug, resume }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Arguments, String> {
        match Asked::parse(words.iter().map(OsString::from))? {
            Asked::Guard(arguments) => Ok(arguments),
            Asked::Resumes(version) => Err(version.to_string()),
        }
    }

    #[test]
    fn known_arguments_are_read_and_others_refused() {
        let arguments =
            parse(&["--run-dir", "/run/x", "--data-dir", "/data", "--idle-exit-ms", "250"]).unwrap();
        assert_eq!(arguments.run_dir, PathBuf::from("/run/x"));
        assert_eq!(arguments.data_dir, Some(PathBuf::from("/data")));
        assert_eq!(arguments.idle_exit, Duration::from_millis(250));
        assert!(!arguments.debug && arguments.resume.is_none());
        let words = arguments.words();
        assert_eq!(words, ["--run-dir", "/run/x", "--data-dir", "/data", "--idle-exit-ms", "250"]);
        assert!(parse(&["--run-dir", "x", "--resume", "3,4,5", "--debug"]).unwrap().resume.is_some());
        assert_eq!(parse(&["--resumes", "7"]).unwrap_err(), "7");
        for wrong in [
            &["--run-dir"][..],
            &[],
            &["--run-dir", "x", "y"],
            &["--idle-exit-ms", "soon"],
            &["--resume", "1"],
        ] {
            assert_eq!(parse(wrong).unwrap_err(), USAGE);
        }
    }
}
