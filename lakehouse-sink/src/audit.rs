//! Does the table hold every offset exactly once? Answered from the rows themselves, not from what metadata says.

use crate::progress::{self, Distrust};
use crate::scan::TableReader;
use crate::schema;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use std::collections::BTreeMap;
use varve_cluster::TopicId;
use varve_log::Offset;

/// One partition's rows. Without any row, `first` and `last` stand around the offset that comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionAudit {
    pub rows: u64,
    pub first: Offset,
    pub last: Offset,
    /// Rows whose offset another row has already.
    pub duplicates: u64,
    /// Offsets from the first row up to what comes next that no row has: markers, records of batches that cannot be
    /// opened, or a loss.
    pub missing: u64,
    /// What the table says comes next. It must be above `last`.
    pub next: Option<Offset>,
}

#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("the table could not be read")]
    Unreadable(#[from] iceberg::Error),
    #[error(transparent)]
    Distrust(#[from] Distrust),
}

/// Runs of consecutive offsets in the order they were read: a table written in order needs few of them.
#[derive(Default)]
struct Runs(Vec<(i64, i64)>);

impl Runs {
    fn add(&mut self, offset: i64) {
        match self.0.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(offset) => *last = offset,
            _ => self.0.push((offset, offset)),
        }
    }

    fn tally(mut self) -> Option<PartitionAudit> {
        self.0.sort_unstable();
        let (first, _) = *self.0.first()?;
        let (mut rows, mut distinct) = (0, 0);
        let mut last = first - 1;
        for (start, end) in self.0 {
            rows += end - start + 1;
            distinct += (end - last.max(start - 1)).max(0);
            last = last.max(end);
        }
        let unsigned = |count: i64| u64::try_from(count).unwrap_or_default();
        Some(PartitionAudit {
            rows: unsigned(rows),
            first: Offset::new(first),
            last: Offset::new(last),
            duplicates: unsigned(rows - distinct),
            missing: unsigned(last - first + 1 - distinct),
            next: None,
        })
    }
}

impl TableReader {
    /// Reads partition and offset of every row.
    pub async fn audit(&self, topic_id: TopicId) -> Result<BTreeMap<i32, PartitionAudit>, AuditError> {
        let progress = progress::of_table(&self.metadata, topic_id)?;
        let mut runs: BTreeMap<i32, Runs> = BTreeMap::new();
        self.read(&[schema::PARTITION, schema::OFFSET], |columns| {
            let partitions = columns[0].as_primitive::<Int32Type>().values();
            let offsets = columns[1].as_primitive::<Int64Type>().values();
            for (partition, offset) in partitions.iter().zip(offsets) {
                runs.entry(*partition).or_default().add(*offset);
            }
            Ok(())
        })
        .await?;
        let mut audits: BTreeMap<_, _> = runs
            .into_iter()
            .filter_map(|(partition, runs)| Some((partition, runs.tally()?)))
            .collect();
        for (partition, next) in progress {
            audits
                .entry(partition)
                .or_insert_with(|| PartitionAudit::without_rows(next))
                .goes_on_at(next);
        }
        Ok(audits)
    }
}

impl PartitionAudit {
    fn without_rows(next: Offset) -> Self {
        Self {
            rows: 0,
            first: next,
            last: next.plus(-1),
            duplicates: 0,
            missing: 0,
            next: None,
        }
    }

    /// What the table has passed behind its last row is missing like what it passed between two.
    fn goes_on_at(&mut self, next: Offset) {
        self.next = Some(next);
        self.missing += u64::try_from(next.since(self.last) - 1).unwrap_or(0);
    }

    /// Held against the log itself: what it still has before the first row is missing from the table.
    #[must_use]
    pub fn against_log(mut self, log_start: Offset) -> Self {
        self.missing += u64::try_from(self.first.since(log_start)).unwrap_or(0);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audit(offsets: &[i64]) -> PartitionAudit {
        let mut runs = Runs::default();
        offsets.iter().for_each(|offset| runs.add(*offset));
        runs.tally().unwrap()
    }

    #[test]
    fn rows_in_any_order_are_complete_without_gap_or_repetition() {
        let all = audit(&[5, 6, 7, 0, 1, 2, 3, 4]);
        assert_eq!((all.rows, all.duplicates, all.missing), (8, 0, 0));
        assert_eq!((all.first, all.last), (Offset::new(0), Offset::new(7)));
    }

    #[test]
    fn what_the_table_passed_at_either_end_is_missing_too() {
        let mut end = audit(&[5, 6, 7]);
        end.goes_on_at(Offset::new(10));
        assert_eq!((end.missing, end.next), (2, Some(Offset::new(10))));
        assert_eq!(end.against_log(Offset::new(3)).missing, 4);
        assert_eq!(end.against_log(Offset::new(6)).missing, 2);

        let mut nothing = PartitionAudit::without_rows(Offset::new(4));
        nothing.goes_on_at(Offset::new(4));
        assert_eq!((nothing.rows, nothing.missing), (0, 0));
        assert_eq!(nothing.against_log(Offset::ZERO).missing, 4);
    }

    #[test]
    fn repetitions_and_gaps_are_counted_by_row() {
        let twice = audit(&[0, 1, 2, 3, 1, 2, 2, 9]);
        assert_eq!((twice.rows, twice.duplicates, twice.missing), (8, 3, 5));
    }
}
