//! The next manifest of a partition, made from the committed one. Pure.

use crate::TierPartition;
use crate::commit::{Committed, Proposal};
use crate::keys::{Keys, ManifestName};
use crate::manifest::{ENTRIES_MAX, Entry, Manifest};
use bytes::Bytes;
use std::sync::Arc;
use varve_cluster::controller::TierPointer;
use varve_log::Offset;

/// What is to change.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) added: Vec<Arc<Entry>>,
    /// Leader epochs up to the end of `added`; without it those of the old manifest stay.
    pub(crate) epoch_chain: Option<Bytes>,
    /// Entries that end here or before leave.
    pub(crate) keep_from: Offset,
}

/// A manifest that is not in the bucket yet, and what will be proposed once it is.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) encoded: Bytes,
    pub(crate) proposal: Proposal,
    pub(crate) dropped: Vec<Arc<Entry>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoDraft {
    NothingToChange,
    Full { entries: usize },
}

/// `old` is the manifest that `current` points at.
pub(crate) fn draft(
    partition: TierPartition,
    keys: &Keys,
    name: ManifestName,
    current: &Committed,
    old: Option<&Manifest>,
    wanted: Wanted,
) -> Result<Draft, NoDraft> {
    let tier_end = current.pointer.as_ref().map(|pointer| pointer.end);
    let first_added = wanted.added.first().map(|entry| entry.base());
    let base = first_added.or(tier_end).unwrap_or(Offset::ZERO);
    // Across data that was deleted before it was tiered nothing continues: what is older is deleted as well.
    let continues = tier_end.is_none_or(|end| end == base);
    let before = old.map(|old| old.entries.clone()).unwrap_or_default();
    let leaves = |entry: &Arc<Entry>| !continues || entry.end() <= wanted.keep_from;
    let (dropped, mut entries): (Vec<_>, Vec<_>) = before.into_iter().partition(leaves);
    if wanted.added.is_empty() && dropped.is_empty() {
        return Err(NoDraft::NothingToChange);
    }
    entries.extend(wanted.added);
    if entries.len() > ENTRIES_MAX {
        return Err(NoDraft::Full {
            entries: entries.len(),
        });
    }
    let old_chain = old.map(|old| old.epoch_chain.clone());
    let epoch_chain = wanted.epoch_chain.or(old_chain).unwrap_or_default();
    let ManifestName { epoch, version, .. } = name;
    let manifest = Manifest {
        partition,
        version,
        epoch,
        entries,
        epoch_chain,
    };
    let encoded = manifest.encode();
    let end = manifest.end().or(tier_end).unwrap_or(base);
    let pointer = TierPointer {
        version,
        manifest_key: keys.manifest(partition, name),
        manifest_hash: Manifest::hash(&encoded),
        start: manifest.start().unwrap_or(end),
        end,
        bytes: manifest.bytes(),
        leader_epoch: epoch,
    };
    let expected_version = current.version();
    let proposal = Proposal {
        partition,
        leader_epoch: epoch,
        expected_version,
        base,
        pointer,
    };
    Ok(Draft {
        manifest: Arc::new(manifest),
        encoded,
        proposal,
        dropped,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::tests::manifest;
    use uuid::Uuid;
    use varve_log::LeaderEpoch;

    fn committed(old: &Manifest, log_start: i64) -> Committed {
        let pointer = TierPointer {
            version: old.version,
            manifest_key: "old".to_owned(),
            manifest_hash: String::new(),
            start: old.start().unwrap(),
            end: old.end().unwrap(),
            bytes: old.bytes(),
            leader_epoch: old.epoch,
        };
        let leader_epoch = LeaderEpoch::new(9);
        Committed {
            pointer: Some(pointer),
            leader_epoch,
            log_start: Offset::new(log_start),
        }
    }

    fn make(old: &Manifest, added: Vec<Arc<Entry>>, keep_from: i64) -> Result<Draft, NoDraft> {
        let epoch = LeaderEpoch::new(9);
        let name = ManifestName {
            epoch,
            version: old.version + 1,
            attempt: Uuid::from_u128(3),
        };
        let wanted = Wanted {
            added,
            epoch_chain: None,
            keep_from: Offset::new(keep_from),
        };
        draft(
            old.partition,
            &Keys::new("c"),
            name,
            &committed(old, keep_from),
            Some(old),
            wanted,
        )
    }

    #[test]
    fn what_is_new_comes_behind_what_was_there() {
        let old = manifest(0, &[5, 5]);
        let draft = make(&old, manifest(10, &[7]).entries, 0).unwrap();
        let pointer = &draft.proposal.pointer;
        assert_eq!((pointer.start, pointer.end), (Offset::ZERO, Offset::new(17)));
        assert_eq!((draft.proposal.expected_version, pointer.version), (3, 4));
        assert_eq!(Manifest::decode(&draft.encoded).as_ref(), Ok(&*draft.manifest));
        assert_eq!(draft.manifest.epoch_chain, old.epoch_chain);
    }

    #[test]
    fn only_entries_wholly_below_leave() {
        let draft = make(&manifest(0, &[5, 5, 5]), vec![], 9).unwrap();
        assert_eq!(
            (draft.dropped.len(), draft.proposal.pointer.start),
            (1, Offset::new(5))
        );
        assert_eq!(draft.proposal.base, Offset::new(15));
        assert_eq!(
            make(&manifest(0, &[5, 5]), vec![], 4).unwrap_err(),
            NoDraft::NothingToChange
        );
    }

    #[test]
    fn an_emptied_tier_remembers_where_it_ended() {
        let draft = make(&manifest(0, &[5, 5]), vec![], 10).unwrap();
        let pointer = draft.proposal.pointer;
        assert_eq!((pointer.start, pointer.end), (Offset::new(10), Offset::new(10)));
    }

    #[test]
    fn over_deleted_data_only_the_new_stays() {
        let draft = make(&manifest(0, &[5, 5]), manifest(20, &[5]).entries, 20).unwrap();
        assert_eq!((draft.dropped.len(), draft.manifest.entries.len()), (2, 1));
        assert_eq!(
            (draft.proposal.base, draft.proposal.pointer.start),
            (Offset::new(20), Offset::new(20))
        );
    }
}
