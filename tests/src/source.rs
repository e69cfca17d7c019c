//! Our own source code, read as text: what is production, what is test, where functions begin and end.
//!
//! No parser: comments and literals are blanked, braces are matched, and that is enough for the rules of the house
//! (`tests/tests/tidy.rs`) and for the count of lines (`census`). Code that rustfmt accepts is read correctly.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// The crates in the order in which they may import each other: each only from those before it.
pub const CRATES: [(&str, &str); 7] = [
    ("varve-log", "broker/log"),
    ("varve-cluster", "broker/cluster"),
    ("varve-cache", "cache"),
    ("varve-tiering", "tiering"),
    ("varve-lakehouse-sink", "lakehouse-sink"),
    ("varve-server", "broker/server"),
    ("varve-tests", "tests"),
];

/// The root of the repository: cargo says where, and a binary started by hand remembers where it was built.
pub fn root() -> PathBuf {
    let tests = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    Path::new(&tests)
        .parent()
        .expect("the crate lies below the root")
        .to_owned()
}

/// One file of Rust.
#[derive(Debug)]
pub struct Source {
    /// From the root, with `/`.
    pub path: String,
    /// As it is.
    pub text: String,
    /// The same length in lines, with comments blanked and literals made of `"`.
    pub code: String,
    /// The same without tests; empty if all of it is test.
    pub production: String,
    /// Nothing in it is production code.
    pub test: bool,
    tests: Vec<Range<usize>>,
}

/// A function with a body.
#[derive(Debug)]
pub struct Function {
    /// Without its module.
    pub name: String,
    /// Where `fn` stands, from 1.
    pub line: usize,
    /// Lines of code between its braces.
    pub lines: usize,
}

/// Every file of Rust in the repository.
pub fn all() -> Vec<Source> {
    let root = root();
    let mut sources = vec![];
    for (_, home) in CRATES {
        collect(&root, &root.join(home), &mut sources);
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    mark_test_modules(&mut sources);
    sources
}

/// Every file below `dir` whose name ends with one of `endings`, from the root.
pub fn files(dir: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = vec![];
    let Ok(entries) = std::fs::read_dir(dir) else {
        return found;
    };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(files(&path, endings));
        } else if path.is_file() && endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn collect(root: &Path, dir: &Path, sources: &mut Vec<Source>) {
    for path in files(dir, &[".rs"]) {
        let text = std::fs::read_to_string(&path).expect("a source file is text");
        let path = path
            .strip_prefix(root)
            .expect("below the root")
            .to_string_lossy()
            .replace('\\', "/");
        if !sources.iter().any(|source| source.path == path) {
            sources.push(Source::new(path, text));
        }
    }
}

/// `#[cfg(test)] mod cases;` makes the file of that module a test.
fn mark_test_modules(sources: &mut [Source]) {
    let mut marked = vec![];
    for source in sources.iter() {
        let parent = Path::new(&source.path)
            .parent()
            .unwrap_or_else(|| Path::new(""))
            .to_string_lossy()
            .into_owned();
        for range in &source.tests {
            let item = &source.code[range.clone()];
            if let Some(module) = item
                .trim_end_matches(';')
                .split("mod ")
                .nth(1)
                .filter(|_| item.ends_with(';'))
            {
                marked.push(format!("{parent}/{module}.rs"));
                marked.push(format!("{parent}/{module}/mod.rs"));
            }
        }
    }
    for source in sources.iter_mut().filter(|source| marked.contains(&source.path)) {
        source.test = true;
        source.production.clear();
    }
}

impl Source {
    fn new(path: String, text: String) -> Self {
        let code = blank(&text);
        let tests = test_items(&code);
        let test = path.starts_with("tests/") || path.contains("/tests/") || path.contains("/examples/");
        let production = if test {
            String::new()
        } else {
            without(&code, &tests)
        };
        Self {
            path,
            text,
            code,
            production,
            test,
            tests,
        }
    }

    /// Whether a tool wrote it.
    pub fn generated(&self) -> bool {
        self.path.contains("/generated/")
    }

    /// Lines with production code on them.
    pub fn production_lines(&self) -> usize {
        self.production
            .lines()
            .filter(|line| !line.trim().is_empty())
            .count()
    }

    /// The lines (from 1) of production code that hold `what`; a word at its end must end there.
    pub fn lines_with(&self, what: &str) -> Vec<usize> {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let open = what.ends_with(word);
        let holds = |line: &str| {
            line.match_indices(what)
                .any(|(at, _)| !(open && line[at + what.len()..].starts_with(word)))
        };
        (1..)
            .zip(self.production.lines())
            .filter(|(_, line)| holds(line))
            .map(|(number, _)| number)
            .collect()
    }

    /// The functions of its production code.
    pub fn functions(&self) -> Vec<Function> {
        let code = &self.production;
        let mut found = vec![];
        let mut from = 0;
        while let Some(at) = code[from..].find("fn ").map(|at| from + at) {
            from = at + 3;
            let before = code[..at].chars().next_back();
            let name: String = code[from..]
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            if name.is_empty() || before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let Some(body) = body(code, from) else { continue };
            let inside = code[body].trim_matches(['{', '}']);
            let lines = inside.lines().filter(|line| !line.trim().is_empty()).count();
            found.push(Function {
                name,
                line: code[..at].matches('\n').count() + 1,
                lines,
            });
        }
        found
    }
}

/// From the first `{` at the level of `from` to its `}`; `None` if a `;` comes first.
fn body(code: &str, from: usize) -> Option<Range<usize>> {
    let mut depth = 0i32;
    for (at, c) in code[from..].char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            ';' if depth == 0 => return None,
            '{' if depth == 0 => return Some(from + at..close(code, from + at)),
            _ => {}
        }
    }
    None
}

/// One past the `}` that closes the `{` at `open`.
fn close(code: &str, open: usize) -> usize {
    let mut depth = 0i32;
    for (at, c) in code[open..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => continue,
        }
        if depth == 0 {
            return open + at + 1;
        }
    }
    code.len()
}

/// What `#[cfg(test)]` stands before, the attribute included.
fn test_items(code: &str) -> Vec<Range<usize>> {
    const MARK: &str = "#[cfg(test)]";
    let mut found: Vec<Range<usize>> = vec![];
    for (at, _) in code.match_indices(MARK) {
        if found.last().is_some_and(|last| last.contains(&at)) {
            continue;
        }
        let end = body(code, at + MARK.len()).map_or_else(
            || {
                code[at..]
                    .find(';')
                    .map_or(code.len(), |semicolon| at + semicolon + 1)
            },
            |body| body.end,
        );
        found.push(at..end);
    }
    found
}

/// The code with spaces where `ranges` were; lines stay where they are.
fn without(code: &str, ranges: &[Range<usize>]) -> String {
    let mut bytes = code.as_bytes().to_vec();
    for byte in ranges.iter().flat_map(|range| range.clone()) {
        if bytes[byte] != b'\n' {
            bytes[byte] = b' ';
        }
    }
    String::from_utf8(bytes).expect("whole items were taken out and ASCII was put in")
}

/// Comments become spaces, literals become `"`, everything else stays where it is. The result is ASCII where the
/// input was blanked, and has the same lines.
fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let begins = matches!(next, '/' | '"' | '\'' | 'r');
        let (length, filler) = if begins {
            literal(rest, out.chars().next_back())
        } else {
            (0, None)
        };
        let Some(filler) = filler else {
            out.push(next);
            rest = &rest[next.len_utf8()..];
            continue;
        };
        for c in rest[..length].chars() {
            out.push(if c.is_whitespace() { c } else { filler });
        }
        rest = &rest[length..];
    }
    out
}

/// The length of the comment or literal that `rest` begins with, and what to put in its place.
fn literal(rest: &str, before: Option<char>) -> (usize, Option<char>) {
    let end_of = |end: &str, skip: usize| {
        rest[skip..]
            .find(end)
            .map_or(rest.len(), |at| skip + at + end.len())
    };
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), Some(' '));
    }
    if rest.starts_with("/*") {
        return (end_of("*/", 2), Some(' '));
    }
    if rest.starts_with('"') {
        return (quoted(rest, '"'), Some('"'));
    }
    let word_before = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with('r') && !word_before {
        let hashes = rest[1..].chars().take_while(|c| *c == '#').count();
        if rest[1 + hashes..].starts_with('"') {
            return (
                end_of(&format!("\"{}", "#".repeat(hashes)), hashes + 2),
                Some('"'),
            );
        }
    }
    if let Some(after) = rest.strip_prefix('\'') {
        let escaped = after.starts_with('\\');
        let character = after.chars().nth(1) == Some('\'');
        if escaped || character {
            return (quoted(rest, '\''), Some('"'));
        }
    }
    (0, None)
}

/// The length of a literal in `quote`s, escapes passed over.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r##"//! Words about fn nothing() { }.

/// Says "}" and '{'.
fn first<'a>(text: &'a str) -> [u8; 2] {
    let _ = ("a } \" {", 'x', '\'', r#"raw " } "#, b"bytes }");
    // a comment {
    [1, 2]
}

trait Later { fn second(&self); }

#[cfg(test)]
mod tests {
    #[test]
    fn third() { Some(1).unwrap(); }
}

fn fourth() { Some(1).unwrap(); }
"##;

    fn example() -> Source {
        Source::new("cache/src/example.rs".to_owned(), EXAMPLE.to_owned())
    }

    #[test]
    fn functions_are_found_where_they_are() {
        let found: Vec<_> = example()
            .functions()
            .into_iter()
            .map(|f| (f.name, f.line, f.lines))
            .collect();
        assert_eq!(found, [("first".to_owned(), 4, 2), ("fourth".to_owned(), 18, 1)]);
    }

    #[test]
    fn tests_comments_and_literals_are_not_production_code() {
        assert_eq!(example().lines_with(".unwrap()"), [18]);
        assert_eq!(example().production_lines(), 6);
        assert_eq!(example().code.lines().count(), EXAMPLE.lines().count());
    }

    #[test]
    fn the_file_of_a_test_module_is_a_test() {
        let mut sources = vec![
            Source::new(
                "cache/src/lib.rs".to_owned(),
                "#[cfg(test)]\nmod cases;\nmod real;\n".to_owned(),
            ),
            Source::new("cache/src/cases.rs".to_owned(), "fn a() {}".to_owned()),
            Source::new("cache/src/real.rs".to_owned(), "fn b() {}".to_owned()),
        ];
        mark_test_modules(&mut sources);
        let tests: Vec<bool> = sources.iter().map(|source| source.test).collect();
        assert_eq!(tests, [false, true, false]);
    }
}
