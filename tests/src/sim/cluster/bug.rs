//! Known bugs of replication and tiering that can be put back into the simulated brokers, and nowhere else: each is a
//! rule that somebody once did without.

/// See the module. What it stands for, and who had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A new follower cuts its log to the high watermark it knows, instead of asking where the lineages part (KIP-101).
    TruncateToHighWatermark,
    /// A follower never tells its last epoch, so logs that went another way are continued (KIP-320).
    NoDivergenceCheck,
    /// A follower cuts to what the leader says without looking at its own end of that epoch (KIP-279).
    OneLookupOnly,
    /// The high watermark does not wait for replicas that may have joined the ISR already (KIP-497).
    HighWatermarkOverCommittedIsr,
    /// A change of the ISR of unknown outcome is taken for one that did not happen.
    UnknownIsrChangeForgotten,
    /// A replica may join the ISR by what it fetched in an earlier life (KIP-903, KAFKA-14617).
    StaleFetchJoinsIsr,
    /// The high watermark moves with fewer replicas in sync than `min.insync.replicas` (KIP-966).
    MinIsrNotStrict,
    /// A follower says that it has on its disk what is only in its files.
    DurableBeforeSync,
    /// A follower says that it holds what it has not written yet.
    AckQueued,
    /// `acks=all` is answered when the leader has the records.
    AckBeforeCommitted,
    /// A batch that was sent again is acknowledged at once, whether the first copy is committed or not.
    DuplicateAckedUncommitted,
    /// Producers are not remembered by a replica that begins anew from the bucket.
    ProducersForgottenAtRebuild,
    /// Producers are forgotten when the log is cut, also what of them is left.
    ProducersForgottenAtCut,
    /// "Latest" is answered before a new leader knows its predecessor's high watermark (KIP-207).
    LatestBeforeSettled,
    /// Consumers are shown what is written, committed or not.
    ReadUncommitted,
    /// Followers roll segments where they please (Aiven 562, Redpanda 14152).
    FollowersRoll,
    /// What is sealed is uploaded before it is committed.
    UploadUncommitted,
    /// A segment is uploaded before all who may lead next have begun the one behind it.
    UploadBeforeSealedEverywhere,
    /// Whoever led once may commit to the tier: no leader epoch, no version, as it knows the manifest.
    UploaderNotFenced,
    /// A commit whose answer was lost is made again on top of itself: the manifest then has the segment twice.
    CommitTwice,
    /// Local files go as soon as they are uploaded, before that is committed (Redpanda 8959).
    RetentionBeforeCommit,
    /// Local retention does not look at the tier at all (Redpanda 26052).
    RetentionIgnoresTier,
    /// Object names are made of base offsets only, and used again (Redpanda 9404).
    ObjectNamesReused,
    /// The manifest is committed before the segment is known to be stored.
    CommitBeforeStored,
    /// A new manifest is made from the one this leader wrote last, not from the one that is committed.
    StaleManifest,
    /// Objects that no manifest names go at once, also those of an upload that is about to be committed
    /// (SlateDB 604).
    CollectUnreferenced,
}

impl Bug {
    pub const ALL: [Self; 26] = [
        Self::TruncateToHighWatermark,
        Self::NoDivergenceCheck,
        Self::OneLookupOnly,
        Self::HighWatermarkOverCommittedIsr,
        Self::UnknownIsrChangeForgotten,
        Self::StaleFetchJoinsIsr,
        Self::MinIsrNotStrict,
        Self::DurableBeforeSync,
        Self::AckQueued,
        Self::AckBeforeCommitted,
        Self::DuplicateAckedUncommitted,
        Self::ProducersForgottenAtRebuild,
        Self::ProducersForgottenAtCut,
        Self::LatestBeforeSettled,
        Self::ReadUncommitted,
        Self::FollowersRoll,
        Self::UploadUncommitted,
        Self::UploadBeforeSealedEverywhere,
        Self::UploaderNotFenced,
        Self::CommitTwice,
        Self::RetentionBeforeCommit,
        Self::RetentionIgnoresTier,
        Self::ObjectNamesReused,
        Self::CommitBeforeStored,
        Self::StaleManifest,
        Self::CollectUnreferenced,
    ];
}
