//! What clients saw of a log, as one list of events: the input of the checker.
//!
//! A history is a text file, one event a line, in the order in which the test learned of it. Tests in other languages
//! write it with `print`. Sequences count up per partition, each value is sent once, so that a value names itself:
//!
//! ```text
//! sent 0 17            partition, sequence: handed to the producer
//! acked 0 17 205       … and the offset it was acknowledged at
//! refused 0 18         the producer gave it up: it may be in the log or not
//! read live 0 205 17   reader, partition, offset, sequence
//! ended final 0 206    this reader saw all of the partition below this offset
//! ```

use std::fmt;
use std::io::BufRead;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Sent {
        partition: u32,
        sequence: u64,
    },
    Acked {
        partition: u32,
        sequence: u64,
        offset: u64,
    },
    Refused {
        partition: u32,
        sequence: u64,
    },
    Read {
        reader: String,
        partition: u32,
        offset: u64,
        sequence: u64,
    },
    Ended {
        reader: String,
        partition: u32,
        offset: u64,
    },
}

/// A line that is no event. Histories are never repaired: a broken one proves nothing.
#[derive(Debug)]
pub struct Unreadable {
    pub line: usize,
    pub text: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not an event. line={}, text={:?}", self.line, self.text)
    }
}

impl std::error::Error for Unreadable {}

pub fn parse(input: impl BufRead) -> Result<Vec<Event>, Unreadable> {
    let mut events = Vec::new();
    for (index, line) in input.lines().enumerate() {
        let unreadable = |text: &str| Unreadable {
            line: index + 1,
            text: text.to_owned(),
        };
        let text = line.map_err(|error| unreadable(&error.to_string()))?;
        events.push(event(&text).ok_or_else(|| unreadable(&text))?);
    }
    Ok(events)
}

fn event(line: &str) -> Option<Event> {
    let words: Vec<&str> = line.split(' ').collect();
    let partition = |text: &str| text.parse::<u32>().ok();
    let number = |text: &str| text.parse::<u64>().ok();
    Some(match words.as_slice() {
        ["sent", p, s] => Event::Sent {
            partition: partition(p)?,
            sequence: number(s)?,
        },
        ["acked", p, s, o] => Event::Acked {
            partition: partition(p)?,
            sequence: number(s)?,
            offset: number(o)?,
        },
        ["refused", p, s] => Event::Refused {
            partition: partition(p)?,
            sequence: number(s)?,
        },
        ["read", r, p, o, s] => Event::Read {
            reader: (*r).to_owned(),
            partition: partition(p)?,
            offset: number(o)?,
            sequence: number(s)?,
        },
        ["ended", r, p, o] => Event::Ended {
            reader: (*r).to_owned(),
            partition: partition(p)?,
            offset: number(o)?,
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_event_is_read_back() {
        let text = "sent 0 1\nacked 0 1 5\nrefused 2 9\nread live 0 5 1\nended live 0 6\n";

        let events = parse(text.as_bytes()).unwrap();

        assert_eq!(events.len(), 5);
        assert_eq!(
            events[1],
            Event::Acked {
                partition: 0,
                sequence: 1,
                offset: 5
            }
        );
        assert_eq!(
            events[4],
            Event::Ended {
                reader: "live".to_owned(),
                partition: 0,
                offset: 6
            }
        );
    }

    #[test]
    fn a_torn_line_makes_the_whole_history_worthless() {
        let torn = parse("sent 0 1\nacked 0 1".as_bytes()).unwrap_err();

        assert_eq!((torn.line, torn.text.as_str()), (2, "acked 0 1"));
    }
}
