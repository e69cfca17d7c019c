//! The leader's answer to a follower's fetch. The rules are those of KIP-101, KIP-279, KIP-320 and KIP-595.
//!
//! A fetch counts only if it comes from the leadership's own epoch and from a log that is a prefix of the
//! leader's: then, and only then, its offset says how far the follower has come.
//!
//! **Segments.** An answer never spans two segments, and says where the one begins in which its bytes stand (or, if
//! there are none, in which the next ones will). The follower begins a segment exactly where the leader did: when an
//! answer's segment begins at its own log end. So a segment's beginning is a property of the batch that stands
//! first in it, as its offset is, and sealed segments are the same bytes on all replicas. On the wire this is a
//! tagged field of the Fetch response, beside `diverging_epoch`; the follower's durable end and segment are tagged
//! fields of the request.

use varve_log::{EpochChain, LeaderEpoch, Log, Offset, ReadError, ReadPlan, Timestamp};

use super::leader::{Assignment, Fetched, Leader, Settings};
use crate::{BrokerEpoch, BrokerId};

/// What a follower asks for, and what it says of itself by that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    pub replica: BrokerId,
    pub broker_epoch: BrokerEpoch,
    /// The leadership it believes in.
    pub leader_epoch: LeaderEpoch,
    /// Its log end: everything below it has.
    pub from: Offset,
    /// Who wrote its last batch, as far as it knows; `None` for a log that knows of no epoch.
    pub last_epoch: Option<LeaderEpoch>,
    /// Everything below it has on stable storage.
    pub durable_end: Offset,
    /// Where the segment begins that it appends to, as far as that is on stable storage.
    pub segment_base: Offset,
    /// Its log start.
    pub log_start: Offset,
}

/// What the follower gets. `Read` is what is sent: on the leader a [`ReadPlan`], at the follower the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<Read> {
    Batches {
        /// `None` when there is nothing new.
        read: Option<Read>,
        /// Where the segment of `read` begins; without it, the segment that the next batch falls into.
        segment_base: Offset,
        high_watermark: Offset,
        log_start: Offset,
    },
    /// The follower's log is no prefix of the leader's: in the leader's the largest epoch that is not above the
    /// follower's last one is `epoch`, and it ends at `end`.
    Diverging {
        epoch: LeaderEpoch,
        end: Offset,
    },
    /// What it asks for is not in local files: they begin at `local_base`
    /// (OFFSET_OUT_OF_RANGE below `log_start`, else OFFSET_MOVED_TO_TIERED_STORAGE).
    NotLocal {
        local_base: Offset,
        log_start: Offset,
    },
    Refused(Refusal),
}

/// Why a fetch says nothing and gets nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// FENCED_LEADER_EPOCH: the follower has not heard of this leadership yet.
    Fenced,
    /// UNKNOWN_LEADER_EPOCH: this broker has not heard of the leadership the follower knows.
    UnknownEpoch,
    /// NOT_LEADER_OR_FOLLOWER.
    NotLeader,
    /// KAFKA_STORAGE_ERROR.
    Storage,
}

/// An answer, and what the fetch has changed at the leader.
#[derive(Debug)]
pub struct Served {
    pub answer: Answer<ReadPlan>,
    /// The high watermark, if it moved. `answer` has it already.
    pub advanced: Option<Offset>,
}

/// Answers one follower's fetch of one partition, of at most `bytes_max` (or one batch if `at_least_one`), and
/// takes note of how far it has come.
pub fn serve(
    leader: &mut Leader,
    log: &Log,
    ask: &Ask,
    (bytes_max, at_least_one): (usize, bool),
    now: i64,
) -> Served {
    let silent = |answer| Served {
        answer,
        advanced: None,
    };
    if let Some(refusal) = refuse(leader, log, ask) {
        return silent(Answer::Refused(refusal));
    }
    if let Some((epoch, end)) = diverges(log.epochs(), log.log_end(), ask) {
        return silent(Answer::Diverging { epoch, end });
    }
    let read = match log.plan_replica_read(ask.from, bytes_max, at_least_one) {
        Ok(read) => read,
        // Past the log end would have diverged.
        Err(ReadError::NotLocal { .. } | ReadError::OutOfRange { .. }) => {
            return silent(Answer::NotLocal {
                local_base: log.local_base(),
                log_start: log.log_start(),
            });
        }
    };
    let advanced = leader.fetched(
        Fetched {
            replica: ask.replica,
            broker_epoch: ask.broker_epoch,
            log_end: ask.from,
            durable_end: ask.durable_end,
            segment_base: ask.segment_base,
        },
        now,
    );
    Served {
        answer: Answer::Batches {
            read,
            segment_base: log.segment_base_of(ask.from).unwrap_or(ask.from),
            high_watermark: leader.high_watermark(),
            log_start: log.log_start(),
        },
        advanced,
    }
}

/// Leadership begins (KIP-101): the epoch is noted at the log end even if nothing is ever written in it, so that
/// followers learn by it where they part.
///
/// # Errors
/// When the log ends below what is in the tier, [`super::Rebuild`] says what must happen first: what is tiered is
/// committed, and a leader without it would give its offsets out again.
pub fn take_over(
    log: &mut Log,
    (me, epoch): (BrokerId, LeaderEpoch),
    (high_watermark, tier_end): (Offset, Option<Offset>),
    assignment: Assignment<'_>,
    settings: Settings,
    now: i64,
) -> Result<Leader, super::Rebuild> {
    if let Some(at) = tier_end.filter(|end| log.log_end() < *end) {
        return Err(super::Rebuild::FromTier { at });
    }
    log.begin_epoch(epoch);
    if tier_end == Some(log.log_end()) {
        // What is tiered ends with a segment. A cut to there took back the roll behind which nothing was left; going on in
        // that segment, this log would never again have one that begins where the tier ends.
        log.force_roll(Timestamp::new(now));
    }
    let mut leader = Leader::begin(
        me,
        epoch,
        // What is tiered is committed; the last known high watermark may be older.
        (
            log.log_end(),
            tier_end
                .map_or(high_watermark, |end| high_watermark.max(end))
                .min(log.log_end()),
        ),
        assignment,
        settings,
        now,
    );
    leader.local(log.written_end(), log.durable_end());
    Ok(leader)
}

fn refuse(leader: &Leader, log: &Log, ask: &Ask) -> Option<Refusal> {
    if log.is_dead() {
        return Some(Refusal::Storage);
    }
    match ask.leader_epoch.cmp(&leader.epoch()) {
        std::cmp::Ordering::Less => Some(Refusal::Fenced),
        std::cmp::Ordering::Greater => Some(Refusal::UnknownEpoch),
        std::cmp::Ordering::Equal if !leader.knows(ask.replica) => Some(Refusal::NotLeader),
        std::cmp::Ordering::Equal => None,
    }
}

/// Where the leader's log goes another way than the follower's, if it does (KIP-279, KIP-595).
fn diverges(chain: &EpochChain, log_end: Offset, ask: &Ask) -> Option<(LeaderEpoch, Offset)> {
    let Some(last) = ask.last_epoch else {
        // It knows no epoch, so it holds nothing; only what it was told to begin with can be wrong.
        return (ask.from > log_end).then(|| (chain.latest().unwrap_or_default(), log_end));
    };
    match chain.end_offset_for(last, log_end) {
        Some((epoch, end)) if epoch < last || end < ask.from => Some((epoch, end)),
        Some(_) => None,
        // Newer than this leadership: it cannot have been written, and the leader's own end is where they part.
        None => Some((chain.latest().unwrap_or_default(), log_end)),
    }
}
