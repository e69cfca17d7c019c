//! One commit to a partition's tier, decided step by step. Pure: what happens is told to it, what to do comes out.
//!
//! ```text
//! read current ─▶ store segments ─▶ put manifest ─▶ propose ─▶ committed
//!      ▲                                              │ rejected, unknown
//!      └──────────────── what became of it? ──────────┘
//! ```
//! Nothing whose outcome is unknown is repeated blindly: a stored object is given up for a fresh name, and a
//! proposal is looked up. Proposing the very same pointer again is safe: it is accepted at most once.

use crate::commit::{CommitError, Committed, MetadataError};
use crate::sealed::SealedError;
use crate::store_error::StoreError;
use varve_log::{LeaderEpoch, Offset};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Current(Committed),
    CurrentFailed(MetadataError),
    /// All segments are in the bucket and have the right size.
    Stored,
    StoreFailed(StoreError),
    /// The local segment is not what it should be.
    Damaged(SealedError),
    /// The manifest with this key is in the bucket.
    ManifestPut(String),
    ManifestFailed(StoreError),
    Accepted,
    NotAccepted(CommitError),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    ReadCurrent,
    Store,
    PutManifest,
    Propose,
    Done(Outcome),
}

/// What to do, and before that how long to wait: the number of the attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) wait: Option<u32>,
    pub(crate) action: Action,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Committed,
    /// Another leader, or none: everything made here is an orphan of a fenced epoch.
    Superseded,
    /// The tier ends elsewhere than where this begins.
    DoesNotFit {
        tier_end: Offset,
    },
    Gone,
    Damaged(SealedError),
    /// Given up for now; nothing was proposed that could still be accepted.
    Unavailable(String),
    /// Given up for now; the proposal may still be accepted.
    Unresolved(String),
}

#[derive(Debug)]
pub(crate) struct Upload {
    epoch: LeaderEpoch,
    base: Option<Offset>,
    attempts_max: u32,
    failed: u32,
    stored: bool,
    current: Option<Committed>,
    proposed: Option<Proposed>,
}

#[derive(Debug)]
struct Proposed {
    manifest: String,
    expected_version: u64,
    /// Whether a proposal of it may be under way.
    sent: bool,
}

impl Upload {
    /// Begins with [`Event::Current`]. `base`: where the first new segment begins; `None` when entries are only
    /// dropped.
    pub(crate) fn new(epoch: LeaderEpoch, base: Option<Offset>, attempts_max: u32) -> Self {
        let stored = base.is_none();
        Self {
            epoch,
            base,
            attempts_max,
            failed: 0,
            stored,
            current: None,
            proposed: None,
        }
    }

    /// The state that the next manifest is to be made from.
    pub(crate) fn current(&self) -> Option<&Committed> {
        self.current.as_ref()
    }

    /// Whether a proposal may still be accepted after all: then nothing it names may be deleted.
    pub(crate) fn may_be_accepted(&self) -> bool {
        self.proposed.as_ref().is_some_and(|proposed| proposed.sent)
    }

    pub(crate) fn step(&mut self, event: Event) -> Step {
        match event {
            Event::Current(committed) => self.on_current(committed),
            Event::CurrentFailed(MetadataError::Gone) => now(Action::Done(Outcome::Gone)),
            Event::CurrentFailed(MetadataError::Unavailable(cause)) => self.again(Action::ReadCurrent, cause),
            Event::Stored => {
                self.stored = true;
                now(Action::PutManifest)
            }
            Event::StoreFailed(error) => self.again(Action::Store, error.to_string()),
            Event::Damaged(error) => now(Action::Done(Outcome::Damaged(error))),
            Event::ManifestPut(manifest) => {
                let expected_version = self.current.as_ref().map_or(0, Committed::version);
                // From here on it may be accepted, also if the one who proposes is interrupted.
                self.proposed = Some(Proposed {
                    manifest,
                    expected_version,
                    sent: true,
                });
                now(Action::Propose)
            }
            Event::ManifestFailed(error) => self.again(Action::PutManifest, error.to_string()),
            Event::Accepted => now(Action::Done(Outcome::Committed)),
            Event::NotAccepted(CommitError::NotApplied(cause)) => self.again(Action::Propose, cause),
            // Refused: but an earlier proposal of the same may have been accepted, and be the reason.
            Event::NotAccepted(CommitError::Rejected(_)) => now(Action::ReadCurrent),
            Event::NotAccepted(CommitError::Unknown(cause)) => self.again(Action::ReadCurrent, cause),
        }
    }

    fn on_current(&mut self, committed: Committed) -> Step {
        let version = committed.version();
        if let Some(proposed) = &self.proposed {
            if committed
                .pointer
                .as_ref()
                .is_some_and(|pointer| pointer.manifest_key == proposed.manifest)
            {
                return now(Action::Done(Outcome::Committed));
            }
            if version == proposed.expected_version && committed.leader_epoch == self.epoch {
                self.current = Some(committed);
                return self.again(
                    Action::Propose,
                    "proposal is neither accepted nor refused".to_owned(),
                );
            }
        }
        // Neither a moved version nor a fenced epoch can be undone: what was proposed never will be accepted.
        self.proposed = None;
        if committed.leader_epoch != self.epoch {
            return now(Action::Done(Outcome::Superseded));
        }
        let misfit = self.misfit(&committed);
        self.current = Some(committed);
        match misfit {
            Some(tier_end) => now(Action::Done(Outcome::DoesNotFit { tier_end })),
            None if self.stored => now(Action::PutManifest),
            None => now(Action::Store),
        }
    }

    /// The end of the tier, if what is new does not begin there.
    fn misfit(&self, committed: &Committed) -> Option<Offset> {
        let base = self.base?;
        let tier_end = committed.pointer.as_ref().map(|pointer| pointer.end)?;
        // What lies between was deleted while only the local disk had it: nothing is missing.
        let deleted_between = base > tier_end && base <= committed.log_start;
        (base != tier_end && !deleted_between).then_some(tier_end)
    }

    fn again(&mut self, action: Action, cause: String) -> Step {
        self.failed += 1;
        if self.failed < self.attempts_max {
            return Step {
                wait: Some(self.failed),
                action,
            };
        }
        let outcome = if self.may_be_accepted() {
            Outcome::Unresolved(cause)
        } else {
            Outcome::Unavailable(cause)
        };
        now(Action::Done(outcome))
    }
}

fn now(action: Action) -> Step {
    Step { wait: None, action }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store_error::{Cause, CauseKind};
    use varve_cluster::controller::TierPointer;

    const EPOCH: LeaderEpoch = LeaderEpoch::new(5);

    fn committed(version: u64, end: i64, manifest: &str) -> Committed {
        let pointer = TierPointer {
            version,
            manifest_key: manifest.to_owned(),
            manifest_hash: String::new(),
            start: Offset::ZERO,
            end: Offset::new(end),
            bytes: 0,
            leader_epoch: EPOCH,
        };
        Committed {
            pointer: Some(pointer),
            leader_epoch: EPOCH,
            log_start: Offset::ZERO,
        }
    }

    fn unknown() -> Event {
        Event::NotAccepted(CommitError::Unknown("connection lost".to_owned()))
    }

    /// An upload whose manifest `m` was put on top of version 3, and is being proposed.
    fn proposing() -> Upload {
        let mut upload = Upload::new(EPOCH, Some(Offset::new(10)), 8);
        assert_eq!(
            upload.step(Event::Current(committed(3, 10, "old"))),
            now(Action::Store)
        );
        assert_eq!(upload.step(Event::Stored), now(Action::PutManifest));
        assert_eq!(
            upload.step(Event::ManifestPut("m".to_owned())),
            now(Action::Propose)
        );
        upload
    }

    #[test]
    fn an_unknown_outcome_is_looked_up_and_found_accepted() {
        let mut upload = proposing();
        assert_eq!(upload.step(unknown()).action, Action::ReadCurrent);
        let step = upload.step(Event::Current(committed(4, 20, "m")));
        assert_eq!(step, now(Action::Done(Outcome::Committed)));
    }

    #[test]
    fn an_unknown_outcome_that_did_not_happen_proposes_the_same_again_and_stores_nothing_twice() {
        let mut upload = proposing();
        upload.step(unknown());
        assert_eq!(
            upload.step(Event::Current(committed(3, 10, "old"))).action,
            Action::Propose
        );
    }

    #[test]
    fn a_refusal_caused_by_our_own_earlier_proposal_is_a_success() {
        let mut upload = proposing();
        upload.step(unknown());
        upload.step(Event::Current(committed(3, 10, "old")));
        let refused = Event::NotAccepted(CommitError::Rejected("version".to_owned()));
        assert_eq!(upload.step(refused), now(Action::ReadCurrent));
        assert_eq!(
            upload.step(Event::Current(committed(4, 20, "m"))),
            now(Action::Done(Outcome::Committed))
        );
    }

    #[test]
    fn a_deposed_leader_stops() {
        let mut upload = proposing();
        upload.step(Event::NotAccepted(CommitError::Rejected("epoch".to_owned())));
        let other = Committed {
            leader_epoch: EPOCH.plus(1),
            ..committed(3, 10, "old")
        };
        assert_eq!(
            upload.step(Event::Current(other)),
            now(Action::Done(Outcome::Superseded))
        );
        assert!(!upload.may_be_accepted());
    }

    #[test]
    fn a_proposal_without_an_answer_stays_protected() {
        let mut upload = proposing();
        let mut step = upload.step(unknown());
        while !matches!(step.action, Action::Done(_)) {
            step = upload.step(Event::CurrentFailed(MetadataError::Unavailable(
                "no quorum".to_owned(),
            )));
        }
        assert!(matches!(step.action, Action::Done(Outcome::Unresolved(_))));
        assert!(upload.may_be_accepted());
    }

    #[test]
    fn a_segment_that_does_not_continue_the_tier_is_not_uploaded() {
        let mut upload = Upload::new(EPOCH, Some(Offset::new(15)), 8);
        let step = upload.step(Event::Current(committed(3, 10, "old")));
        assert_eq!(
            step,
            now(Action::Done(Outcome::DoesNotFit {
                tier_end: Offset::new(10)
            }))
        );
    }

    #[test]
    fn what_was_deleted_before_it_was_tiered_may_be_skipped() {
        let mut upload = Upload::new(EPOCH, Some(Offset::new(15)), 8);
        let deleted = Committed {
            log_start: Offset::new(15),
            ..committed(3, 10, "old")
        };
        assert_eq!(upload.step(Event::Current(deleted)), now(Action::Store));
    }

    #[test]
    fn a_store_that_is_away_is_tried_again_with_waits_and_then_given_up_for_now() {
        let mut upload = Upload::new(EPOCH, Some(Offset::new(10)), 3);
        upload.step(Event::Current(committed(3, 10, "old")));
        let away = || {
            let cause = Cause {
                kind: CauseKind::Unreachable,
                code: None,
                text: "refused".to_owned(),
            };
            Event::StoreFailed(StoreError::NotApplied(cause))
        };
        assert_eq!(
            upload.step(away()),
            Step {
                wait: Some(1),
                action: Action::Store
            }
        );
        assert_eq!(
            upload.step(away()),
            Step {
                wait: Some(2),
                action: Action::Store
            }
        );
        assert!(matches!(
            upload.step(away()).action,
            Action::Done(Outcome::Unavailable(_))
        ));
    }
}
