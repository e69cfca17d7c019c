//! What of a partition is in the bucket, and where its log begins.
//!
//! Only the current leader may say, in its current uptime, starting from the manifest that is current:
//! that is the whole fence around the bucket. Correctness rests on nothing the object store promises.

use super::apply::{Outcome, Rejected};
use super::command::{AdvanceLogStart, CommitTier};
use super::state::{Partition, State, TierPointer};

impl State {
    pub(super) fn commit_tier(&mut self, commit: &CommitTier) -> Result<Outcome, Rejected> {
        let partition = self.led_by(
            (commit.topic_id, commit.partition),
            (commit.broker, commit.broker_epoch),
            commit.leader_epoch,
        )?;
        let current = partition.tier_version();
        if current != commit.expected_version {
            return Err(Rejected::TierMoved { current });
        }
        check_pointer(partition, commit).map_err(|reason| Rejected::TierGap { reason })?;
        self.known_partition_mut(commit.topic_id, commit.partition)?.tier = Some(commit.pointer.clone());
        Ok(Outcome::Tier(commit.pointer.clone()))
    }

    pub(super) fn advance_log_start(&mut self, advance: &AdvanceLogStart) -> Result<Outcome, Rejected> {
        self.led_by(
            (advance.topic_id, advance.partition),
            (advance.broker, advance.broker_epoch),
            advance.leader_epoch,
        )?;
        let partition = self.known_partition_mut(advance.topic_id, advance.partition)?;
        partition.log_start = partition.log_start.max(advance.log_start);
        Ok(Outcome::LogStart(partition.log_start))
    }
}

/// Whether the new manifest holds all that the old one did, less what the log has already let go, and
/// continues it without a gap.
fn check_pointer(partition: &Partition, commit: &CommitTier) -> Result<(), String> {
    let new = &commit.pointer;
    if new.version != commit.expected_version + 1 || new.leader_epoch != commit.leader_epoch {
        return Err("its version or leader epoch is not the commit's".to_owned());
    }
    if new.start > new.end {
        return Err(format!(
            "it ends before it begins. start={}, end={}",
            new.start, new.end
        ));
    }
    let log_start = partition.log_start;
    let Some(old) = &partition.tier else {
        return match new.start {
            start if start == new.end => Err("it is empty".to_owned()),
            start if start != commit.base => Err("it begins before what it adds".to_owned()),
            start if start > log_start => Err(format!(
                "it begins behind the log's start. start={start}, log_start={log_start}"
            )),
            _ => Ok(()),
        };
    };
    check_start(old, commit, log_start)?;
    match commit.base {
        base if base == old.end && new.end >= old.end => Ok(()),
        // Everything between was deleted while it was local only (DeleteRecords): nothing is missing.
        base if base > old.end && base <= log_start && new.start == base => Ok(()),
        base => Err(format!(
            "what it adds does not begin at the old end. base={base}, old_end={}",
            old.end
        )),
    }
}

/// Entries may only leave at the front, and only below the log's start.
fn check_start(old: &TierPointer, commit: &CommitTier, log_start: varve_log::Offset) -> Result<(), String> {
    let start = commit.pointer.start;
    if start < old.start {
        return Err(format!(
            "it begins before the old one. start={start}, old_start={}",
            old.start
        ));
    }
    if start > old.start && start > log_start {
        return Err(format!(
            "it drops what retention keeps. start={start}, log_start={log_start}"
        ));
    }
    Ok(())
}
