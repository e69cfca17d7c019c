//! Judges a history: was anything acknowledged lost, written twice, out of order, or changed afterwards?
//!
//! The rules are those that hold for one idempotent producer a partition, whatever crashes in between:
//! an acknowledged record is in the log where the acknowledgement said; no value stands at two offsets; values stand in
//! the order in which they were sent; an offset holds one value for ever, whoever reads it and whichever tier answers;
//! a reader's offsets only grow. Offsets may be sparse: a gap between offsets is no finding.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::history::Event;

/// How many of each there were, and the first few of them by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub sent: usize,
    pub acknowledged: usize,
    pub refused: usize,
    pub read: usize,
    /// Acknowledged, and not in the log below the end that the last reader saw.
    pub lost: usize,
    /// One value at two offsets, or acknowledged at another offset than it stands at.
    pub duplicated: usize,
    /// A later value before an earlier one in one partition.
    pub reordered: usize,
    /// One offset, two values: a reader saw what another reader did not.
    pub inconsistent: usize,
    /// A reader was given an offset that it had already passed.
    pub nonmonotonic: usize,
    /// In the log, though nobody sent it.
    pub invented: usize,
    pub examples: Vec<String>,
}

impl Verdict {
    pub fn is_clean(&self) -> bool {
        self.findings() == 0
    }

    pub fn findings(&self) -> usize {
        self.lost + self.duplicated + self.reordered + self.inconsistent + self.nonmonotonic + self.invented
    }

    fn note(&mut self, what: String) {
        const EXAMPLES_MAX: usize = 20;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(what);
        }
    }
}

#[derive(Default)]
struct Partition {
    sent: BTreeSet<u64>,
    acked: BTreeMap<u64, u64>,
    /// The log as its readers saw it: offset to value.
    log: BTreeMap<u64, u64>,
    /// Up to where it is known that everything was read by somebody.
    end: u64,
    position: BTreeMap<String, u64>,
}

pub fn check(events: &[Event]) -> Verdict {
    let mut verdict = Verdict::default();
    let mut partitions: BTreeMap<u32, Partition> = BTreeMap::new();
    for event in events {
        match event {
            Event::Sent { partition, sequence } => {
                verdict.sent += 1;
                partitions.entry(*partition).or_default().sent.insert(*sequence);
            }
            Event::Acked {
                partition,
                sequence,
                offset,
            } => {
                verdict.acknowledged += 1;
                let twice = partitions
                    .entry(*partition)
                    .or_default()
                    .acked
                    .insert(*sequence, *offset);
                if let Some(other) = twice {
                    verdict.duplicated += 1;
                    verdict.note(format!(
                        "acknowledged twice. partition={partition}, sequence={sequence}, offsets={other} {offset}"
                    ));
                }
            }
            Event::Refused { .. } => verdict.refused += 1,
            Event::Read {
                reader,
                partition,
                offset,
                sequence,
            } => {
                verdict.read += 1;
                let log = partitions.entry(*partition).or_default();
                read(&mut verdict, log, reader, *partition, *offset, *sequence);
            }
            Event::Ended {
                partition, offset, ..
            } => {
                let log = partitions.entry(*partition).or_default();
                log.end = log.end.max(*offset);
            }
        }
    }
    for (partition, log) in &partitions {
        judge(&mut verdict, *partition, log);
    }
    verdict
}

fn read(
    verdict: &mut Verdict,
    log: &mut Partition,
    reader: &str,
    partition: u32,
    offset: u64,
    sequence: u64,
) {
    if let Some(before) = log.position.insert(reader.to_owned(), offset)
        && offset <= before
    {
        verdict.nonmonotonic += 1;
        verdict.note(format!(
            "went back. reader={reader}, partition={partition}, from={before}, to={offset}"
        ));
    }
    if let Some(other) = log.log.insert(offset, sequence)
        && other != sequence
    {
        verdict.inconsistent += 1;
        verdict.note(format!(
            "two values at one offset. partition={partition}, offset={offset}, values={other} {sequence}"
        ));
    }
}

fn judge(verdict: &mut Verdict, partition: u32, log: &Partition) {
    let mut places: BTreeMap<u64, u64> = BTreeMap::new();
    let mut newest: Option<u64> = None;
    for (&offset, &sequence) in &log.log {
        if !log.sent.contains(&sequence) {
            verdict.invented += 1;
            verdict.note(format!(
                "nobody sent this. partition={partition}, offset={offset}, sequence={sequence}"
            ));
        }
        let first = *places.entry(sequence).or_insert(offset);
        if first != offset {
            verdict.duplicated += 1;
            verdict.note(format!(
                "one value twice. partition={partition}, sequence={sequence}, offsets={first} {offset}"
            ));
        } else if newest.is_some_and(|newest| sequence < newest) {
            verdict.reordered += 1;
            verdict.note(format!(
                "out of order. partition={partition}, offset={offset}, sequence={sequence}"
            ));
        }
        newest = newest.max(Some(sequence));
    }
    for (&sequence, &offset) in &log.acked {
        match places.get(&sequence) {
            // Past the end nobody has looked: unseen, and the test that stopped there proves less than it thinks.
            None => {
                verdict.lost += 1;
                let seen = if offset < log.end {
                    "absent"
                } else {
                    "beyond the end that was read"
                };
                verdict.note(format!(
                    "lost: {seen}. partition={partition}, sequence={sequence}, offset={offset}, end={}",
                    log.end
                ));
            }
            Some(&place) if place != offset => {
                verdict.duplicated += 1;
                verdict.note(format!(
                    "acknowledged elsewhere. partition={partition}, sequence={sequence}, said={offset}, is={place}"
                ));
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::parse;

    /// Ten records of one partition, acknowledged and read in order by two readers.
    fn good() -> Vec<String> {
        let mut lines: Vec<String> = (0..10)
            .flat_map(|s| {
                [
                    format!("sent 0 {s}"),
                    format!("acked 0 {s} {}", s + 100),
                    format!("read live 0 {} {s}", s + 100),
                ]
            })
            .collect();
        lines.extend((0..10).map(|s| format!("read final 0 {} {s}", s + 100)));
        lines.push("ended final 0 110".to_owned());
        lines
    }

    fn verdict(lines: &[String]) -> Verdict {
        check(&parse(lines.join("\n").as_bytes()).unwrap())
    }

    fn without(unwanted: impl Fn(&str) -> bool) -> Vec<String> {
        good().into_iter().filter(|line| !unwanted(line)).collect()
    }

    #[test]
    fn a_good_history_is_clean() {
        let verdict = verdict(&good());

        assert!(verdict.is_clean(), "{verdict:?}");
        assert_eq!((verdict.sent, verdict.acknowledged, verdict.read), (10, 10, 20));
    }

    #[test]
    fn a_refused_record_may_be_in_the_log_or_not() {
        let mut lines = good();
        lines.extend(
            [
                "sent 0 10",
                "refused 0 10",
                "sent 0 11",
                "refused 0 11",
                "read late 0 110 11",
            ]
            .map(str::to_owned),
        );

        assert!(verdict(&lines).is_clean());
    }

    #[test]
    fn an_acknowledged_record_that_nobody_reads_is_lost() {
        let verdict = verdict(&without(|line| line.starts_with("read") && line.ends_with(" 4")));

        assert_eq!((verdict.lost, verdict.findings()), (1, 1));
    }

    #[test]
    fn a_log_that_lost_its_tail_is_lost_too_though_its_end_says_otherwise() {
        let mut lines =
            without(|line| line.starts_with("read") && line.ends_with(" 9") || line.starts_with("ended"));
        lines.push("ended final 0 109".to_owned());

        assert_eq!(verdict(&lines).lost, 1);
    }

    #[test]
    fn a_value_at_two_offsets_is_a_duplicate() {
        let mut lines = good();
        lines.push("read final 0 110 9".to_owned());

        assert_eq!((verdict(&lines).duplicated, verdict(&lines).findings()), (1, 1));
    }

    #[test]
    fn a_record_that_stands_elsewhere_than_its_acknowledgement_said_is_found() {
        let mut lines = good();
        lines
            .iter_mut()
            .filter(|line| *line == "acked 0 3 103")
            .for_each(|line| *line = "acked 0 3 203".to_owned());

        assert_eq!(verdict(&lines).duplicated, 1);
    }

    #[test]
    fn a_later_value_before_an_earlier_one_is_reordered() {
        let swapped: Vec<String> = good()
            .into_iter()
            .map(|line| match line.as_str() {
                "acked 0 5 105" => "acked 0 5 106".to_owned(),
                "acked 0 6 106" => "acked 0 6 105".to_owned(),
                "read live 0 105 5" => "read live 0 105 6".to_owned(),
                "read live 0 106 6" => "read live 0 106 5".to_owned(),
                "read final 0 105 5" => "read final 0 105 6".to_owned(),
                "read final 0 106 6" => "read final 0 106 5".to_owned(),
                _ => line,
            })
            .collect();

        assert_eq!(
            (verdict(&swapped).reordered, verdict(&swapped).findings()),
            (1, 1)
        );
    }

    #[test]
    fn an_offset_that_changes_its_value_is_inconsistent() {
        let mut lines = good();
        lines.push("sent 0 77".to_owned());
        lines.push("read late 0 104 77".to_owned());

        assert_eq!(verdict(&lines).inconsistent, 1);
    }

    #[test]
    fn a_reader_that_goes_back_is_found() {
        let mut lines = good();
        lines.push("read live 0 104 4".to_owned());

        assert_eq!((verdict(&lines).nonmonotonic, verdict(&lines).findings()), (1, 1));
    }

    #[test]
    fn a_value_that_nobody_sent_is_invented() {
        let mut lines = good();
        lines.push("read final 0 110 4711".to_owned());

        assert_eq!((verdict(&lines).invented, verdict(&lines).findings()), (1, 1));
    }

    #[test]
    fn partitions_are_judged_apart() {
        let mut lines = good();
        lines.extend(good().iter().map(|line| line.replacen(" 0 ", " 1 ", 1)));

        assert!(verdict(&lines).is_clean());
    }

    proptest::proptest! {
        /// Whatever single read disappears or is told twice at a new place, the checker notices.
        #[test]
        fn any_single_damage_is_found(victim in 0u64..10, kind in 0u8..3) {
            let lines: Vec<String> = match kind {
                0 => without(|line| line.starts_with("read") && line.ends_with(&format!(" {victim}"))),
                1 => good().into_iter().chain([format!("read final 0 {} {victim}", 150 + victim)]).collect(),
                _ => good().into_iter().map(|line| {
                    if line == format!("read final 0 {} {victim}", 100 + victim) {
                        format!("read final 0 {} {}", 100 + victim, (victim + 1) % 10)
                    } else { line }
                }).collect(),
            };

            proptest::prop_assert!(!verdict(&lines).is_clean());
        }
    }
}
