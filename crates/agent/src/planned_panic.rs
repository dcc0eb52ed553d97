//! A panic on demand, so that a test can see what becomes of PostgreSQL when the decision core is killed. It is compiled into
//! debug builds alone: a release has nothing of it.
//!
//! `PTARMIGAN_TEST_PANIC` names a file. As soon as it exists and holds the name of a place in the code, that place panics.

/// Panics where a test asked for it.
#[cfg(debug_assertions)]
pub(crate) fn here(place: &str) {
    let Some(path) = std::env::var_os("PTARMIGAN_TEST_PANIC") else { return };
    if std::fs::read_to_string(path).is_ok_and(|asked| asked.trim() == place) {
        panic!("planned by a test: {place}");
    }
}

/// Nothing: this is a release.
#[cfg(not(debug_assertions))]
pub(crate) const fn here(_place: &str) {}
