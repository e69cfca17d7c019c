//! What commands print: aligned columns for people, JSON for programs.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde_json::Value;

/// Rows under a heading, columns as wide as they need to be.
pub(super) struct Table {
    heading: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new<const COLUMNS: usize>(heading: [&'static str; COLUMNS]) -> Self {
        Self {
            heading: heading.to_vec(),
            rows: Vec::new(),
        }
    }

    pub(super) fn row<const COLUMNS: usize>(&mut self, cells: [String; COLUMNS]) {
        assert!(
            COLUMNS == self.heading.len(),
            "a row has as many cells as the heading"
        );
        self.rows.push(cells.to_vec());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Numbers stand to the right of their column, words to the left.
    pub(super) fn render(&self) -> String {
        let mut text = String::new();
        let columns: Vec<_> = (0..self.heading.len()).map(|nth| self.column(nth)).collect();
        let heading = self.heading.iter().map(|cell| (*cell).to_owned()).collect();
        for row in std::iter::once(&heading).chain(&self.rows) {
            let mut line = String::new();
            for (cell, column) in row.iter().zip(&columns) {
                let padding = " ".repeat(column.width - cell.chars().count());
                let (left, right) = if column.numeric {
                    (padding.as_str(), "")
                } else {
                    ("", padding.as_str())
                };
                // Writing to a string cannot fail.
                let _ = write!(line, "{left}{cell}{right}  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    fn column(&self, nth: usize) -> Column {
        let cells = || self.rows.iter().filter_map(|row| row.get(nth));
        let numeric = |cell: &String| cell.starts_with(|first: char| first.is_ascii_digit() || first == '-');
        Column {
            width: cells()
                .map(|cell| cell.chars().count())
                .fold(self.heading[nth].chars().count(), usize::max),
            numeric: !self.rows.is_empty() && cells().all(numeric),
        }
    }
}

struct Column {
    width: usize,
    numeric: bool,
}

/// Prints text as it is.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Says something beside the results, on stderr. If nobody listens there, it is not worth failing for.
pub(super) fn remark(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Prints one JSON value on a line of its own.
pub(super) fn print_json(value: &Value) -> io::Result<()> {
    print(&format!("{value}\n"))
}

/// 1234567 → "1,234,567".
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes as people say them, in powers of ten as disks and networks are sold: "104.9 MB".
pub(super) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if number < 1000 {
        return format!("{number} B");
    }
    let mut scaled = number as f64 / 1000.0;
    let mut unit = 0;
    while scaled >= 999.95 && unit + 1 < UNITS.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    format!("{scaled:.1} {}", UNITS[unit])
}

/// A cell that may have nothing to show.
pub(super) fn cell(content: Option<impl ToString>) -> String {
    content.map_or_else(|| "-".to_owned(), |content| content.to_string())
}

/// Bytes of a record as JSON: text where they are text, base64 under `{"base64": …}` where not.
pub(super) fn json_bytes(bytes: Option<&[u8]>) -> Value {
    use base64::Engine as _;
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => Value::Null,
        Some((_, Ok(text))) => Value::from(text),
        Some((bytes, Err(_))) => {
            serde_json::json!({ "base64": base64::engine::general_purpose::STANDARD.encode(bytes) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_right_and_words_left() {
        let mut table = Table::new(["topic", "lag"]);
        table.row(["orders".to_owned(), "7".to_owned()]);
        table.row(["a".to_owned(), "1200".to_owned()]);

        assert_eq!(table.render(), "topic    lag\norders     7\na       1200\n");
    }

    #[test]
    fn large_numbers_are_readable() {
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(999), "999");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(104_857_600), "104.9 MB");
        assert_eq!(bytes(999_999_999), "1.0 GB");
    }

    #[test]
    fn bytes_that_are_no_text_survive_json() {
        assert_eq!(json_bytes(Some(b"ok")), serde_json::json!("ok"));
        assert_eq!(json_bytes(Some(&[0xff])), serde_json::json!({ "base64": "/w==" }));
        assert_eq!(json_bytes(None), Value::Null);
    }
}
