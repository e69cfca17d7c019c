//! One writer at a time for each topic's table, the leader of its first partition, and one order of its commits.

use super::apply::{Outcome, Rejected};
use super::command::CommitTable;
use super::state::{State, Table};
use crate::{BrokerEpoch, BrokerId, TopicId};
use varve_log::LeaderEpoch;

/// Whoever leads this partition keeps the table.
const KEEPERS: i32 = 0;

impl State {
    pub(super) fn acquire_table(
        &mut self,
        topic_id: TopicId,
        (broker, broker_epoch): (BrokerId, BrokerEpoch),
        leader_epoch: LeaderEpoch,
    ) -> Result<Outcome, Rejected> {
        self.led_by((topic_id, KEEPERS), (broker, broker_epoch), leader_epoch)?;
        let before = self.tables.get(&topic_id);
        let table = Table {
            epoch: before.map_or(0, |table| table.epoch) + 1,
            owner: broker,
            leader_epoch,
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
        let leadership = self
            .partition(commit.topic_id, KEEPERS)
            .map(|first| first.leader_epoch);
        let table = self
            .tables
            .get_mut(&commit.topic_id)
            .ok_or(Rejected::UnknownTable(commit.topic_id))?;
        // Its successor would go on from a deposed keeper's commit, but after an unclean election not on the same log.
        if table.epoch != commit.epoch || leadership != Some(table.leader_epoch) {
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
