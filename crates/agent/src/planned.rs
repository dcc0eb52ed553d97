//! A panic or a standstill on demand, so that a test can see what becomes of PostgreSQL when the daemon fails at a certain place. It
//! is compiled into debug builds alone: a release has nothing of it.
//!
//! `PTARMIGAN_TEST_PLAN` names a file. As soon as it exists and says `panic PLACE` or `stop PLACE`, that happens once at that place:
//! the file is removed first.

/// Fails where a test asked for it: by a panic, or by a SIGSTOP to the whole daemon.
#[cfg(debug_assertions)]
#[expect(clippy::disallowed_methods, reason = "the daemon stands still next")]
pub(crate) fn here(place: &str) {
    let Some(path) = std::env::var_os("PTARMIGAN_TEST_PLAN") else { return };
    let Ok(plan) = std::fs::read_to_string(&path) else { return };
    let Some((what, _)) = plan.trim().split_once(' ').filter(|(_, asked)| *asked == place) else { return };
    if std::fs::remove_file(path).is_err() {
        return;
    }
    match what {
        "panic" => panic!("planned by a test: {place}"),
        "stop" => {
            tracing::warn!("standing still, as a test planned: {place}");
            // Whatever writes the log is to have written that.
            std::thread::sleep(std::time::Duration::from_millis(5));
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::STOP)
                .expect("invariant: it is our own process");
        }
        other => panic!("a plan to {other:?}"),
    }
}

/// Nothing: this is a release.
#[cfg(not(debug_assertions))]
pub(crate) const fn here(_place: &str) {}
