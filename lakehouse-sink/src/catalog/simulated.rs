//! A catalog in memory that can refuse, forget to answer, and answer late.

use super::{Catalog, Cause, LoadError, Pointer, SwapError, TableVersion, WriterEpoch};
use async_trait::async_trait;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use varve_cluster::TopicId;

/// What happens to one call of `commit_if_unchanged`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is refused before anything happened.
    NotApplied,
    /// It is carried out, the answer is lost.
    AnswerLost,
    /// It is lost on the way, and the caller cannot know.
    RequestLost,
    /// The caller hears nothing; it arrives just before the next call that is answered.
    Delayed,
    /// `load` fails once; commits are untouched.
    LoadFails,
}

#[derive(Default)]
pub struct SimulatedCatalog {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tables: BTreeMap<TopicId, Entry>,
    faults: VecDeque<Option<Fault>>,
    load_faults: usize,
    under_way: Vec<(TopicId, WriterEpoch, TableVersion, String)>,
}

#[derive(Default)]
struct Entry {
    epoch: u64,
    pointer: Option<Pointer>,
}

impl SimulatedCatalog {
    /// A new epoch for a writer of the table; all earlier ones are fenced.
    pub fn acquire(&self, topic_id: TopicId) -> WriterEpoch {
        let mut state = self.state();
        let entry = state.tables.entry(topic_id).or_default();
        entry.epoch += 1;
        WriterEpoch::new(entry.epoch)
    }

    /// The next commits meet these fates, in order; later ones succeed.
    pub fn inject(&self, faults: impl IntoIterator<Item = Option<Fault>>) {
        let mut state = self.state();
        for fault in faults {
            match fault {
                Some(Fault::LoadFails) => state.load_faults += 1,
                other => state.faults.push_back(other),
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn swap(
        &mut self,
        topic_id: TopicId,
        epoch: WriterEpoch,
        expected: TableVersion,
        metadata_location: &str,
    ) -> Result<TableVersion, SwapError> {
        let entry = self.tables.entry(topic_id).or_default();
        if epoch.value() != entry.epoch {
            return Err(SwapError::Fenced);
        }
        let version = entry
            .pointer
            .as_ref()
            .map_or(TableVersion::NONE, |pointer| pointer.version);
        if version != expected {
            return Err(SwapError::Conflict);
        }
        let version = TableVersion::new(version.value() + 1);
        entry.pointer = Some(Pointer {
            version,
            metadata_location: metadata_location.to_owned(),
        });
        Ok(version)
    }

    fn deliver_late(&mut self) {
        for (topic_id, epoch, expected, location) in std::mem::take(&mut self.under_way) {
            // Whether it still succeeds is nobody's concern but the table's.
            drop(self.swap(topic_id, epoch, expected, &location));
        }
    }
}

fn lost() -> Cause {
    "simulated: no answer".into()
}

#[async_trait]
impl Catalog for SimulatedCatalog {
    async fn load(&self, topic_id: TopicId) -> Result<Option<Pointer>, LoadError> {
        let mut state = self.state();
        if state.load_faults > 0 {
            state.load_faults -= 1;
            return Err(LoadError(lost()));
        }
        Ok(state
            .tables
            .get(&topic_id)
            .and_then(|entry| entry.pointer.clone()))
    }

    async fn commit_if_unchanged(
        &self,
        topic_id: TopicId,
        epoch: WriterEpoch,
        expected: TableVersion,
        metadata_location: &str,
    ) -> Result<TableVersion, SwapError> {
        let mut state = self.state();
        match state.faults.pop_front().flatten() {
            None | Some(Fault::LoadFails) => {
                state.deliver_late();
                state.swap(topic_id, epoch, expected, metadata_location)
            }
            Some(Fault::NotApplied) => Err(SwapError::NotApplied("simulated: refused".into())),
            Some(Fault::RequestLost) => Err(SwapError::Unknown(lost())),
            Some(Fault::AnswerLost) => {
                state.deliver_late();
                state.swap(topic_id, epoch, expected, metadata_location)?;
                Err(SwapError::Unknown(lost()))
            }
            Some(Fault::Delayed) => {
                state
                    .under_way
                    .push((topic_id, epoch, expected, metadata_location.to_owned()));
                Err(SwapError::Unknown(lost()))
            }
        }
    }
}
