//! Which leader epoch wrote which offsets: the lineage by which replicas find where they part.
//!
//! ```text
//! entries (epoch, start):   (3, 0)        (5, 100)     (6, 170)
//! offsets:                  0 ........ 99 100 ..... 169 170 ...... log_end
//! ```
//! Epochs and starts both strictly increase. Entries stay for data that is only in the tier, and for data below the
//! log start whose file is still there.

use crate::offsets::{LeaderEpoch, Offset};
use crate::our_bytes::{BytesIn, count_u32};

/// One reign: it wrote from `start` up to the next entry's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEntry {
    pub epoch: LeaderEpoch,
    pub start: Offset,
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EpochChain {
    entries: Vec<EpochEntry>,
}

impl EpochChain {
    pub const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// `epoch` writes from `start` on. Without effect if it is not newer than the latest.
    /// Epochs that began there or later have written nothing and are forgotten.
    pub fn begin(&mut self, epoch: LeaderEpoch, start: Offset) {
        if self.latest().is_some_and(|latest| latest >= epoch) {
            return;
        }
        self.truncate_from(start);
        self.entries.push(EpochEntry { epoch, start });
    }

    pub fn latest(&self) -> Option<LeaderEpoch> {
        self.entries.last().map(|entry| entry.epoch)
    }

    pub fn entries(&self) -> &[EpochEntry] {
        &self.entries
    }

    /// As OffsetForLeaderEpoch wants it: the largest epoch not above `epoch`, and where it ends.
    /// `None` if `epoch` is newer than any here (the answer is -1, -1), or the chain is empty.
    /// An epoch older than all here is answered by itself and the start of the oldest.
    pub fn end_offset_for(&self, epoch: LeaderEpoch, log_end: Offset) -> Option<(LeaderEpoch, Offset)> {
        if self.latest()? < epoch {
            return None;
        }
        let above = self.entries.partition_point(|entry| entry.epoch <= epoch);
        let end = self.entries.get(above).map_or(log_end, |next| next.start);
        let floor = above.checked_sub(1).map_or(epoch, |at| self.entries[at].epoch);
        Some((floor, end))
    }

    /// Who wrote `offset`; `None` before the chain begins.
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let after = self.entries.partition_point(|entry| entry.start <= offset);
        after.checked_sub(1).map(|at| self.entries[at].epoch)
    }

    /// The log now ends at `end`: epochs that began there or later are gone.
    pub fn truncate_from(&mut self, end: Offset) {
        let kept = self.entries.partition_point(|entry| entry.start < end);
        self.entries.truncate(kept);
    }

    /// Nothing is left before `start`: epochs that ended there or before are gone, and the one that holds it
    /// begins at it.
    pub fn truncate_before(&mut self, start: Offset) {
        let gone = self
            .entries
            .partition_point(|entry| entry.start <= start)
            .saturating_sub(1);
        self.entries.drain(..gone);
        if let Some(first) = self.entries.first_mut() {
            first.start = first.start.max(start);
        }
    }

    /// The chain in bytes (little endian: count u32, then epoch i32 and start i64 each), for checkpoints and the tier.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + self.entries.len() * 12);
        out.extend_from_slice(&count_u32(self.entries.len()).to_le_bytes());
        for entry in &self.entries {
            out.extend_from_slice(&entry.epoch.value().to_le_bytes());
            out.extend_from_slice(&entry.start.value().to_le_bytes());
        }
        out
    }

    /// `None` unless `bytes` are exactly one encoded chain in order.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = BytesIn::new(bytes);
        let count = from.u32()?;
        let mut chain = Self::new();
        for _ in 0..count {
            let entry = EpochEntry {
                epoch: LeaderEpoch::new(from.i32()?),
                start: Offset::new(from.i64()?),
            };
            let in_order = chain
                .entries
                .last()
                .is_none_or(|l| l.epoch < entry.epoch && l.start < entry.start);
            if !in_order {
                return None;
            }
            chain.entries.push(entry);
        }
        from.is_empty().then_some(chain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chain(entries: &[(i32, i64)]) -> EpochChain {
        let mut chain = EpochChain::new();
        for &(epoch, start) in entries {
            chain.begin(LeaderEpoch::new(epoch), Offset::new(start));
        }
        chain
    }

    fn asked(chain: &EpochChain, epoch: i32) -> Option<(i32, i64)> {
        let answer = chain.end_offset_for(LeaderEpoch::new(epoch), Offset::new(200));
        answer.map(|(epoch, end)| (epoch.value(), end.value()))
    }

    #[test]
    fn an_epoch_ends_where_the_next_begins() {
        let chain = chain(&[(3, 10), (5, 100), (6, 170)]);
        assert_eq!(asked(&chain, 3), Some((3, 100)));
        assert_eq!(asked(&chain, 4), Some((3, 100)));
        assert_eq!(asked(&chain, 5), Some((5, 170)));
        assert_eq!(asked(&chain, 6), Some((6, 200)));
        assert_eq!(asked(&chain, 7), None);
        assert_eq!(asked(&chain, 1), Some((1, 10)));
    }

    #[test]
    fn an_epoch_that_wrote_nothing_is_forgotten() {
        assert_eq!(chain(&[(1, 0), (2, 50), (3, 50)]), chain(&[(1, 0), (3, 50)]));
    }

    #[test]
    fn an_older_epoch_changes_nothing() {
        assert_eq!(chain(&[(4, 0), (2, 50), (4, 60)]), chain(&[(4, 0)]));
    }

    #[test]
    fn truncating_to_the_log_end_trims_an_epoch_that_began_there() {
        let mut chain = chain(&[(1, 0), (2, 50)]);
        chain.truncate_from(Offset::new(50));
        assert_eq!(chain.latest(), Some(LeaderEpoch::new(1)));
    }

    #[test]
    fn the_epoch_that_holds_the_new_start_is_kept_from_there() {
        let mut cut = chain(&[(1, 0), (2, 50), (3, 90)]);
        cut.truncate_before(Offset::new(60));
        assert_eq!(cut, chain(&[(2, 60), (3, 90)]));
        cut.truncate_before(Offset::new(60));
        assert_eq!(cut, chain(&[(2, 60), (3, 90)]));
    }

    proptest! {
        // The chain against the plain truth: a list that says for each offset who wrote it.
        #[test]
        fn the_chain_answers_as_a_scan_of_the_log_would(
            moves in prop::collection::vec((0u8..4, 0usize..12), 1..60)
        ) {
            let mut chain = EpochChain::new();
            let mut log: Vec<i32> = Vec::new();
            let mut epoch = 0;
            for (kind, amount) in moves {
                match kind {
                    0 => epoch += 1,
                    1 => {
                        let end = log.len().saturating_sub(amount);
                        log.truncate(end);
                        chain.truncate_from(Offset::new(end as i64));
                    }
                    _ => {
                        if amount > 0 {
                            chain.begin(LeaderEpoch::new(epoch), Offset::new(log.len() as i64));
                        }
                        log.extend(std::iter::repeat_n(epoch, amount));
                    }
                }
            }
            for (offset, &wrote) in log.iter().enumerate() {
                prop_assert_eq!(chain.epoch_at(Offset::new(offset as i64)), Some(LeaderEpoch::new(wrote)));
            }
            let end = Offset::new(log.len() as i64);
            for asked in 0..=epoch {
                let in_scan = log.iter().copied().filter(|&wrote| wrote <= asked).max().map(|floor| {
                    let end = log.iter().rposition(|&wrote| wrote == floor).map_or(0, |at| at + 1);
                    (LeaderEpoch::new(floor), Offset::new(end as i64))
                });
                if log.last().is_some_and(|&newest| newest >= asked) && in_scan.is_some() {
                    prop_assert_eq!(chain.end_offset_for(LeaderEpoch::new(asked), end), in_scan);
                }
            }
            prop_assert_eq!(EpochChain::decode(&chain.encode()), Some(chain));
        }
    }
}
