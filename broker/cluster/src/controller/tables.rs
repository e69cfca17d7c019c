//! One writer at a time for each topic's table, and one order of its commits.

use super::apply::{Outcome, Rejected};
use super::command::CommitTable;
use super::state::{State, Table};
use crate::{BrokerEpoch, BrokerId, TopicId};

impl State {
    pub(super) fn acquire_table(
        &mut self,
        topic_id: TopicId,
        broker: BrokerId,
        epoch: BrokerEpoch,
    ) -> Result<Outcome, Rejected> {
        self.check_broker(broker, epoch)?;
        if !self.topics.contains_key(&topic_id) {
            return Err(Rejected::UnknownTopic(topic_id));
        }
        let before = self.tables.get(&topic_id);
        let table = Table {
            epoch: before.map_or(0, |table| table.epoch) + 1,
            owner: broker,
            version: before.map_or(0, |table| table.version),
            metadata_location: before.and_then(|table| table.metadata_location.clone()),
        };
        let outcome = Outcome::TableAcquired {
            epoch: table.epoch,
            version: table.version,
            metadata_location: table.metadata_location.clone(),
        };
        self.tables.insert(topic_id, table);
        Ok(outcome)
    }

    pub(super) fn commit_table(&mut self, commit: &CommitTable) -> Result<Outcome, Rejected> {
        let table = self
            .tables
            .get_mut(&commit.topic_id)
            .ok_or(Rejected::UnknownTable(commit.topic_id))?;
        if table.epoch != commit.epoch {
            return Err(Rejected::TableFenced { current: table.epoch });
        }
        if table.version != commit.expected_version {
            return Err(Rejected::TableMoved {
                current: table.version,
            });
        }
        table.version += 1;
        table.metadata_location = Some(commit.metadata_location.clone());
        Ok(Outcome::TableCommitted {
            version: table.version,
        })
    }
}
