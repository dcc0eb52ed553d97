//! `POST /sigterm`: accepted and without effect, as with Patroni everywhere but on Windows under test.

use crate::answer::Answer;

pub(super) fn post() -> Answer {
    Answer::text(202, "shutdown scheduled")
}
