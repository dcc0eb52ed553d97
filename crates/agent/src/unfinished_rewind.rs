//! That `pg_rewind` was begun and has not come to its end: what then lies in the data directory belongs to no history, and
//! nothing in it tells. Until it is over it is noted in `<data_dir>.rewind`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use ptarmigan_ha::memory::Source;
use ptarmigan_postgres::controldata::{ControlData, ControlState};
use ptarmigan_types::{Lsn, Timeline};
use serde::{Deserialize, Serialize};

use crate::kept_file::{self, Error, KeptFile};

/// The note of one node.
#[derive(Debug, Clone)]
pub struct UnfinishedRewind {
    file: Arc<KeptFile>,
    data_dir: PathBuf,
    boot_id: String,
}

/// A rewind that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// From whom, as its key showed it.
    pub source: Source,
    /// The timeline that the source was on in truth.
    pub source_timeline: Timeline,
    /// How often it was begun.
    pub tries: u32,
    /// `pg_control` before it began. It is the last thing that `pg_rewind` changes.
    checkpoint_lsn: Lsn,
    checkpoint_timeline: Timeline,
    boot_id: String,
}

impl UnfinishedRewind {
    /// The note beside that data directory.
    pub fn beside(data_dir: &Path) -> Self {
        let file = Arc::new(KeptFile::beside(data_dir, "rewind"));
        Self { file, data_dir: data_dir.to_owned(), boot_id: kept_file::boot_id() }
    }

    /// Stores for good, before it returns, that `pg_rewind` begins, for the first time or again.
    ///
    /// # Errors
    /// It cannot be stored.
    pub fn begin(
        &self,
        before: Option<Begun>,
        source: Source,
        source_timeline: Timeline,
        control: &ControlData,
    ) -> Result<u32, Error> {
        let (source, tries) = before.map_or((source, 0), |before| (before.source, before.tries));
        let begun = Begun {
            source,
            source_timeline,
            tries: tries + 1,
            checkpoint_lsn: control.checkpoint_lsn,
            checkpoint_timeline: control.checkpoint_timeline,
            boot_id: self.boot_id.clone(),
        };
        let text = serde_json::to_string(&begun).expect("invariant: a note is plain data");
        self.file.write(&text)?;
        Ok(begun.tries)
    }

    /// What lies in the data directory is whole.
    pub fn over(&self) {
        if let Err(error) = self.file.remove() {
            tracing::error!("the note of a rewind that is over stays: {error}");
        }
    }

    /// The rewind whose remains this data directory is. A note of another one, replaced since, counts no more.
    ///
    /// # Errors
    /// There is a note, and it cannot be read.
    pub fn of(&self, control: &ControlData) -> Result<Option<Begun>, String> {
        let Some((place, text)) = self.file.read().next() else { return Ok(None) };
        let text = text.map_err(|error| format!("{place}: {error}"))?;
        let begun: Begun = serde_json::from_str(&text)
            .map_err(|error| format!("{place} is not the note of a rewind: {error}"))?;
        let as_before = begun.checkpoint_lsn == control.checkpoint_lsn
            && begun.checkpoint_timeline == control.checkpoint_timeline;
        // The machine went down after the end and before the note was removed: what of it had reached the disk, nobody knows.
        let not_started = control.state == ControlState::InArchiveRecovery
            && self.data_dir.join("backup_label").exists()
            && begun.boot_id != self.boot_id;
        Ok(Some(begun).filter(|_| as_before || not_started))
    }

    /// There is a note, whether or not it counts.
    pub fn is_there(&self) -> bool {
        self.file.read().next().is_some()
    }

    /// Before a server runs on what is whole: no note is left that a later life of the machine could take for another's.
    ///
    /// # Errors
    /// The data directory cannot be brought to the disk.
    pub fn settle(&self) -> Result<(), String> {
        let folder = std::fs::File::open(&self.data_dir).map_err(|error| error.to_string())?;
        rustix::fs::syncfs(&folder).map_err(|error| error.to_string())?;
        self.over();
        Ok(())
    }

    /// Where it is noted, for messages.
    pub fn place(&self) -> String {
        self.file.read().next().map(|(place, _)| place.to_string()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kept_file::Place;

    const PRINTED: &str = include_str!("../../postgres/testdata/pg_controldata_15.txt");

    fn note(folder: &Path, boot_id: &str) -> UnfinishedRewind {
        let file = Arc::new(KeptFile::at(vec![Place::File(folder.join("data.rewind"))]));
        UnfinishedRewind { file, data_dir: folder.join("data"), boot_id: boot_id.into() }
    }

    fn source() -> Source {
        Source { leader: ptarmigan_ha::Upstream::Member("b".into()), timeline: Some(6) }
    }

    #[test]
    fn rw_10_a_note_counts_as_long_as_the_data_directory_is_the_one_it_was_written_for() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("data")).unwrap();
        let control = ControlData::parse(PRINTED).unwrap();
        let (this, next) = (note(folder.path(), "this life"), note(folder.path(), "next life"));
        assert_eq!(this.of(&control), Ok(None));
        assert_eq!(this.begin(None, source(), 7, &control).unwrap(), 1);
        let begun = this.of(&control).unwrap().unwrap();
        assert_eq!((begun.source.clone(), begun.source_timeline), (source(), 7));
        let other = Source { timeline: None, ..source() };
        assert_eq!(this.begin(Some(begun), other, 7, &control).unwrap(), 2);
        assert_eq!(this.of(&control).unwrap().unwrap().source, source(), "as it was at first");
        assert!(next.of(&control).unwrap().is_some());
        let rewound =
            ControlData { checkpoint_lsn: Lsn(1), state: ControlState::InArchiveRecovery, ..control.clone() };
        assert_eq!(this.of(&rewound), Ok(None), "pg_rewind had come to its end");
        assert_eq!(next.of(&rewound), Ok(None), "a server has run on it since, or it is another one");
        std::fs::write(folder.path().join("data/backup_label"), "x").unwrap();
        assert_eq!(this.of(&rewound), Ok(None));
        assert!(next.of(&rewound).unwrap().is_some(), "the disk may have lost some of it");
        this.settle().unwrap();
        assert_eq!((this.of(&control), next.of(&rewound)), (Ok(None), Ok(None)));
    }

    #[test]
    fn rw_10_a_note_that_cannot_be_read_is_no_permission() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("data.rewind"), "{").unwrap();
        let control = ControlData::parse(PRINTED).unwrap();
        let error = note(folder.path(), "this life").of(&control).unwrap_err();
        assert!(error.contains("data.rewind is not the note of a rewind: "), "{error}");
    }
}
