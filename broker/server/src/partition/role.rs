//! Whether this broker leads a partition, follows its leader, or waits for one to be elected.

use varve_cluster::replica::{Follower, Leader};
use varve_log::{LeaderEpoch, Offset};

#[derive(Debug)]
pub(super) enum Role {
    Leading(Leader),
    Following(Follower),
    /// Nobody leads, or this broker has to fetch from the bucket what it lacks before it may.
    Waiting {
        epoch: LeaderEpoch,
        high_watermark: Offset,
    },
}

impl Role {
    pub(super) fn epoch(&self) -> LeaderEpoch {
        match self {
            Self::Leading(leader) => leader.epoch(),
            Self::Following(follower) => follower.epoch(),
            Self::Waiting { epoch, .. } => *epoch,
        }
    }

    /// Everything below is committed, as far as is known here.
    pub(super) fn high_watermark(&self) -> Offset {
        match self {
            Self::Leading(leader) => leader.high_watermark(),
            Self::Following(follower) => follower.high_watermark(),
            Self::Waiting { high_watermark, .. } => *high_watermark,
        }
    }

    pub(super) const fn leading(&self) -> Option<&Leader> {
        match self {
            Self::Leading(leader) => Some(leader),
            Self::Following(_) | Self::Waiting { .. } => None,
        }
    }

    pub(super) const fn leading_mut(&mut self) -> Option<&mut Leader> {
        match self {
            Self::Leading(leader) => Some(leader),
            Self::Following(_) | Self::Waiting { .. } => None,
        }
    }
}
