//! That `pg_rewind` was begun and has not come to its end: what then lies in the data directory belongs to no history, and
//! nothing in it tells. Until it is over it is noted in `<data_dir>.rewind`.

use std::{path::Path, sync::Arc};

use ptarmigan_ha::memory::Source;
use ptarmigan_postgres::controldata::ControlData;
use ptarmigan_types::{Lsn, Timeline};
use serde::{Deserialize, Serialize};

use crate::kept_file::{self, Error, KeptFile};

/// The file of one node.
#[derive(Debug, Clone)]
pub struct UnfinishedRewind {
    file: Arc<KeptFile>,
    boot_id: String,
}

/// A rewind that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// From whom, as its key showed it.
    pub source: Source,
    /// The timeline that the source was on in truth.
    pub source_timeline: Timeline,
    /// `pg_control` before it began. It is the last thing that `pg_rewind` changes.
    checkpoint_lsn: Lsn,
    checkpoint_timeline: Timeline,
    boot_id: String,
}

impl UnfinishedRewind {
    /// The file beside that data directory.
    pub fn beside(data_dir: &Path) -> Self {
        let file = Arc::new(KeptFile::beside(data_dir, "rewind", "rewind"));
        Self { file, boot_id: kept_file::boot_id() }
    }

    /// Stores for good, before it returns, that `pg_rewind` begins.
    ///
    /// # Errors
    /// It cannot be stored.
    pub fn begin(
        &self,
        source: Source,
        source_timeline: Timeline,
        control: &ControlData,
    ) -> Result<(), Error> {
        let begun = Begun {
            source,
            source_timeline,
            checkpoint_lsn: control.checkpoint_lsn,
            checkpoint_timeline: control.checkpoint_timeline,
            boot_id: self.boot_id.clone(),
        };
        let text = serde_json::to_string(&begun).expect("invariant: a note is plain data");
        self.file.write(&text)
    }

    /// What lies in the data directory is whole.
    pub fn over(&self) {
        if let Err(error) = self.file.remove() {
            tracing::error!("the note of a rewind that is over stays: {error}");
        }
    }

    /// The rewind whose remains this data directory is. A note of another one, replaced since, counts no more. Where the machine
    /// was started anew before the note was removed, nobody knows what of the rewind had reached the disk.
    pub fn of(&self, control: &ControlData) -> Option<Begun> {
        let begun = self.file.read().find_map(|(path, text)| {
            let text = text.map_err(|error| error.to_string());
            let read = text.and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string()));
            // Written as a whole or not at all: what cannot be read was not written here.
            read.inspect_err(|error| tracing::error!("{}: not a note of a rewind: {error}", path.display()))
                .ok()
        });
        begun.filter(|begun: &Begun| {
            let as_before = begun.checkpoint_lsn == control.checkpoint_lsn
                && begun.checkpoint_timeline == control.checkpoint_timeline;
            as_before || begun.boot_id != self.boot_id
        })
    }

    /// Where it is noted, for messages.
    pub fn path(&self) -> &Path {
        self.file.path()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = include_str!("../../postgres/testdata/pg_controldata_15.txt");

    fn note(folder: &Path, boot_id: &str) -> UnfinishedRewind {
        let file = Arc::new(KeptFile::at(vec![folder.join("data.rewind")]));
        UnfinishedRewind { file, boot_id: boot_id.into() }
    }

    fn source() -> Source {
        Source { leader: ptarmigan_ha::Upstream::Member("b".into()), timeline: Some(6) }
    }

    #[test]
    fn rw_10_a_note_counts_as_long_as_the_data_directory_is_the_one_it_was_written_for() {
        let folder = tempfile::tempdir().unwrap();
        let control = ControlData::parse(PRINTED).unwrap();
        let this = note(folder.path(), "this life");
        assert_eq!(this.of(&control), None);
        this.begin(source(), 7, &control).unwrap();
        let begun = note(folder.path(), "this life").of(&control).unwrap();
        assert_eq!((begun.source, begun.source_timeline), (source(), 7));
        let other = ControlData { checkpoint_lsn: Lsn(1), ..control.clone() };
        assert_eq!(this.of(&other), None, "pg_rewind had come to its end, or it is another data directory");
        assert!(note(folder.path(), "next life").of(&other).is_some(), "the disk may have lost some of it");
        this.over();
        assert_eq!(this.of(&control), None);
    }

    #[test]
    fn rw_10_a_note_that_cannot_be_read_is_told() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("data.rewind"), "{").unwrap();
        let control = ControlData::parse(PRINTED).unwrap();
        assert_eq!(note(folder.path(), "this life").of(&control), None);
    }
}
