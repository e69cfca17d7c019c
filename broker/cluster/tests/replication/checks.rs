//! What must hold, whatever happened.

use std::collections::BTreeMap;

use bytes::Bytes;
use varve_log::{Header, Log, Offset, SealedSegment, split};

use super::node::{ALL, Node};

/// What has been committed so far, as the first leader that committed it had it.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    pub(crate) high_watermark: Offset,
    batches: BTreeMap<Offset, Bytes>,
    /// Base of a segment that was uploaded as one → its end and bytes.
    pub(crate) tiered: BTreeMap<Offset, (Offset, Bytes)>,
}

/// All local batches in order.
pub(crate) fn batches(log: &Log) -> Vec<(Header, Bytes)> {
    batches_from(log, log.local_base())
}

fn batches_from(log: &Log, mut from: Offset) -> Vec<(Header, Bytes)> {
    let mut all = Vec::new();
    while let Some(plan) = log.plan_replica_read(from, 4096, true).unwrap() {
        let slice = plan.run().unwrap();
        for one in split(&slice.read().unwrap()) {
            let bytes = one.unwrap();
            all.push((Header::parse(&bytes).unwrap(), bytes));
        }
        from = slice.next_offset;
    }
    all
}

pub(crate) fn bytes_of(segment: &SealedSegment) -> Bytes {
    let mut bytes = vec![0; usize::try_from(segment.bytes).unwrap()];
    segment.file().unwrap().read_exact_at(&mut bytes, 0).unwrap();
    bytes.into()
}

impl Truth {
    /// A leader says that everything below `high_watermark` is committed.
    pub(crate) fn commit(&mut self, node: &Node) {
        let high_watermark = node.known_high_watermark();
        // What others have committed before is compared when the node is checked.
        let Some(log) = node.log.as_ref().filter(|_| high_watermark > self.high_watermark) else {
            return;
        };
        for (header, bytes) in batches_from(log, self.high_watermark.max(log.local_base())) {
            if header.next_offset() <= high_watermark {
                self.batches.insert(header.base_offset, bytes);
            }
        }
        self.high_watermark = high_watermark;
    }

    /// R2: whoever leads has everything that was ever committed.
    pub(crate) fn check_leader(&self, node: &Node) {
        let log = node.log.as_ref().unwrap();
        assert!(
            log.log_end() >= self.high_watermark,
            "{} leads from {}, but {} was committed",
            node.id,
            log.log_end(),
            self.high_watermark
        );
        self.check_below(node, self.high_watermark);
    }

    /// R3, R6, R9, R11 of one replica.
    pub(crate) fn check(&self, node: &Node) {
        let Some(log) = &node.log else { return };
        let high_watermark = node.known_high_watermark();
        assert!(
            high_watermark <= self.high_watermark,
            "{} believes too much",
            node.id
        );
        assert!(high_watermark <= log.log_end(), "{} holds too little", node.id);
        self.check_below(node, high_watermark);
        for (header, _) in batches(log) {
            assert_eq!(
                log.epochs().epoch_at(header.base_offset),
                Some(header.leader_epoch),
                "chain of {}",
                node.id
            );
        }
        for segment in log.sealed() {
            if segment.end <= high_watermark
                && let Some((end, bytes)) = self.tiered.get(&segment.base)
            {
                assert_eq!(
                    (segment.end, &bytes_of(&segment)),
                    (*end, bytes),
                    "R11 at {}",
                    node.id
                );
            }
        }
    }

    fn check_below(&self, node: &Node, upto: Offset) {
        let log = node.log.as_ref().unwrap();
        for (header, bytes) in batches(log) {
            if header.next_offset() <= upto {
                assert_eq!(
                    self.batches.get(&header.base_offset),
                    Some(&bytes),
                    "{} at {}",
                    node.id,
                    header.base_offset
                );
            }
        }
    }

    /// T1 and T8: what is in the tier is what was committed, without a gap.
    pub(crate) fn check_tier(&self, tier_end: Offset) {
        let mut at = Offset::ZERO;
        for (base, (end, bytes)) in &self.tiered {
            assert_eq!(*base, at, "gap in the tier");
            for one in split(bytes) {
                let one = one.unwrap();
                let header = Header::parse(&one).unwrap();
                assert_eq!(self.batches.get(&header.base_offset), Some(&one));
            }
            at = *end;
        }
        assert_eq!(at, tier_end);
    }
}

/// R3 and R11 when all has healed: everybody has the same log, in the same files.
pub(crate) fn check_same(nodes: &[&Node]) {
    let tail = |node: &Node, from: Offset| -> Vec<Bytes> {
        let all = batches(node.log.as_ref().unwrap()).into_iter();
        all.filter(|(header, _)| header.base_offset >= from)
            .map(|(_, bytes)| bytes)
            .collect()
    };
    let files = |node: &Node, from: Offset| -> Vec<(Offset, Offset, Bytes)> {
        let sealed = node.log.as_ref().unwrap().sealed().into_iter();
        sealed
            .filter(|segment| segment.base >= from)
            .map(|segment| (segment.base, segment.end, bytes_of(&segment)))
            .collect()
    };
    let bases = nodes.iter().map(|node| node.log.as_ref().unwrap().local_base());
    let from = bases.max().unwrap_or(ALL);
    for pair in nodes.windows(2) {
        assert_eq!(tail(pair[0], from), tail(pair[1], from), "R3");
        assert_eq!(files(pair[0], from), files(pair[1], from), "R11");
    }
}
