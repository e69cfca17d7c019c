//! Following: fetch what the leader has, cut what it does not have, load its snapshot when it no longer has the rest.

use bytes::BytesMut;
use varve_log::Offset;

use super::entry::{Entry, Position, Snapshot};
use super::log_view::Lineage;
use super::message::{
    Chunk, FetchRequest, FetchResponse, FetchSnapshotRequest, FetchSnapshotResponse, Fetched, Message,
};
use super::soundness::{Bug, Soundness};
use super::voters::NodeId;
use super::{Effect, Node, Origin, Role};

#[derive(Debug)]
pub(super) struct Follower {
    pub(super) leader: NodeId,
    /// Whether the leader has answered in this epoch.
    pub(super) heard: bool,
    /// When its silence has lasted too long.
    pub(super) silent_at: i64,
    /// The leader's high watermark, which may be past what is here.
    high_watermark: Offset,
}

impl Follower {
    pub(super) fn of(leader: NodeId, silent_at: i64) -> Self {
        Self {
            leader,
            heard: false,
            silent_at,
            high_watermark: Offset::ZERO,
        }
    }
}

/// The one request under way. An answer to any other is late and says nothing.
#[derive(Debug)]
pub(super) struct Fetching {
    id: u64,
    pub(super) until: i64,
}

/// A snapshot that is coming in, piece by piece.
#[derive(Debug)]
pub(super) struct Download {
    position: Position,
    image: BytesMut,
}

impl<S: Soundness> Node<S> {
    /// The next fetch, if it is time for one. It acknowledges the whole log, so it waits for the disk.
    pub(super) fn fetch(&mut self, effects: &mut Vec<Effect>) {
        if self.fetching.is_some() || self.now < self.fetch_after || self.waits_for_disk() {
            return;
        }
        let to = match &self.role {
            Role::Follower(follower) => Some(follower.leader),
            // Whoever is asked knows the leader, or nobody yet.
            Role::Unattached { .. } | Role::Prospective(_) => self.next_to_ask(),
            Role::Candidate(_) | Role::Leader(_) => None,
        };
        let Some(to) = to else {
            self.fetch_after = self.now + self.config.retry_backoff;
            return;
        };
        let message = match &self.download {
            Some(download) => Message::FetchSnapshot(FetchSnapshotRequest {
                snapshot: download.position,
                from: download.image.len(),
            }),
            None => Message::Fetch(FetchRequest {
                log_end: self.log.end(),
                high_watermark: self.high_watermark,
            }),
        };
        let id = self.ask(to, message, effects);
        let until = self.now + self.config.request_timeout;
        self.fetching = Some(Fetching { id, until });
    }

    /// The end of the log is not on the disk yet, or a snapshot is that will replace the log.
    pub(super) fn waits_for_disk(&self) -> bool {
        let replaces =
            |(_, snapshot): &(u64, Snapshot)| self.log.lineage(snapshot.position) != Lineage::Prefix;
        let unsynced = !self.log.is_synced() && !self.soundness.has(Bug::AckUnsynced);
        unsynced || self.writes.snapshot.as_ref().is_some_and(replaces)
    }

    fn next_to_ask(&mut self) -> Option<NodeId> {
        let voters = self.log.voters().iter().map(|voter| voter.id);
        let others = voters.chain(self.config.bootstrap.iter().copied());
        let others: Vec<NodeId> = others.filter(|id| *id != self.config.me.id).collect();
        self.asked = self.asked.wrapping_add(1);
        others.get(self.asked % others.len().max(1)).copied()
    }

    /// Whether `at` answers the request under way, and comes from the leader of this replica's epoch. What it says
    /// of epoch and leader is taken note of in any case.
    fn answers_fetch(&mut self, at: Origin, leader: Option<NodeId>, effects: &mut Vec<Effect>) -> bool {
        let expected = self
            .fetching
            .as_ref()
            .is_some_and(|fetching| fetching.id == at.id);
        if !expected {
            return false;
        }
        self.fetching = None;
        self.fetch_after = self.now + self.config.retry_backoff;
        self.observe(at.epoch, leader, effects);
        at.epoch == self.quorum.epoch
            && matches!(&self.role, Role::Follower(follower) if follower.leader == at.from.id)
    }

    /// A leader whose process is gone is looked past after a wait that only keeps its followers from standing all at
    /// once. Until it is heard again its followers vote as if there were none: should it be alive after all, it has a
    /// majority that still hears it, and whoever stands is not elected.
    pub(super) fn unanswered(&mut self, to: NodeId, id: u64, refused: bool) {
        if self.fetching.as_ref().is_some_and(|fetching| fetching.id == id) {
            self.fetching = None;
            self.fetch_after = self.now + self.config.retry_backoff;
        }
        let wait = self.config.election_timeout / 4;
        let (latest, soon) = (self.now + wait, self.now + self.jitter(wait));
        if let Role::Follower(follower) = &mut self.role
            && follower.leader == to
            && refused
        {
            follower.heard = false;
            // Refused again, it does not draw again.
            if follower.silent_at > latest {
                follower.silent_at = soon;
            }
        }
    }

    fn heard_from_leader(&mut self) {
        if let Role::Follower(follower) = &mut self.role {
            follower.heard = true;
            follower.silent_at = self.now + self.config.fetch_timeout;
            self.fetch_after = self.now;
        }
    }

    pub(super) fn fetch_answered(&mut self, at: Origin, response: FetchResponse, effects: &mut Vec<Effect>) {
        if !self.answers_fetch(at, response.leader, effects) {
            return;
        }
        match response.fetched {
            Fetched::NotLeader => {
                // It has resigned since.
                if !self.soundness.has(Bug::RumouredLeader) {
                    self.become_unattached(self.quorum, effects);
                }
                return;
            }
            Fetched::Entries {
                high_watermark,
                entries,
            } => {
                if !self.continue_log(entries, effects) {
                    return;
                }
                if let Role::Follower(follower) = &mut self.role {
                    follower.high_watermark = follower.high_watermark.max(high_watermark);
                }
                self.follow_high_watermark(effects);
            }
            Fetched::Diverging(parting) => {
                let end = self.log.cut_for(parting);
                assert!(end >= self.high_watermark, "asked to cut what is committed");
                self.truncate(end, effects);
            }
            Fetched::Snapshot(position) if position.end > self.log.start().end => {
                self.download = Some(Download {
                    position,
                    image: BytesMut::new(),
                });
            }
            Fetched::Snapshot(_) => return,
        }
        self.heard_from_leader();
    }

    /// Puts `entries` at the log's end; false, and nothing done, if they cannot stand there.
    fn continue_log(&mut self, entries: Vec<Entry>, effects: &mut Vec<Effect>) -> bool {
        let mut last = self.log.end().epoch;
        for entry in &entries {
            if entry.epoch < last || entry.epoch > self.quorum.epoch {
                return self.soundness.has(Bug::NoDivergenceCheck);
            }
            last = entry.epoch;
        }
        if !entries.is_empty() {
            self.append(entries, effects);
        }
        true
    }

    /// What is committed and on this disk.
    pub(super) fn follow_high_watermark(&mut self, effects: &mut Vec<Effect>) {
        if let Role::Follower(follower) = &self.role {
            let high_watermark = follower.high_watermark.min(self.log.synced());
            self.commit_up_to(high_watermark, effects);
        }
    }

    pub(super) fn snapshot_answered(
        &mut self,
        at: Origin,
        response: FetchSnapshotResponse,
        effects: &mut Vec<Effect>,
    ) {
        if !self.answers_fetch(at, response.leader, effects) {
            return;
        }
        let (Some(download), Some(chunk)) = (self.download.take(), response.chunk) else {
            return;
        };
        let Chunk {
            snapshot,
            voters,
            from,
            image_bytes,
            piece,
        } = chunk;
        let Download {
            position, mut image, ..
        } = download;
        if snapshot != position || from != image.len() || from + piece.len() > image_bytes {
            return;
        }
        image.extend_from_slice(&piece);
        if image.len() < image_bytes && !piece.is_empty() {
            self.download = Some(Download { position, image });
        } else if image.len() == image_bytes && self.writes.snapshot.is_none() {
            let voters = if self.soundness.has(Bug::SnapshotWithoutVoters) {
                self.log.voters().clone()
            } else {
                voters
            };
            let image = image.freeze();
            self.store_snapshot(
                Snapshot {
                    position,
                    voters,
                    image,
                },
                effects,
            );
        }
        self.heard_from_leader();
    }
}
