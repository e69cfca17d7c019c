//! Prints how much code there is: for each crate its lines of production code, its longest functions, its `unwrap()`s.
//! `cargo run --bin census` from the root; generated code is counted apart.

use std::io::Write as _;
use varve_tests::source::{self, CRATES, Source};

/// What clippy warns about (`clippy.toml`).
const LONG: usize = 70;

#[derive(Default)]
struct Count {
    files: usize,
    lines: usize,
    generated: usize,
    functions: Vec<usize>,
    unwraps: usize,
}

impl Count {
    fn add(&mut self, source: &Source) {
        if source.test {
            return;
        }
        if source.generated() {
            self.generated += source.production_lines();
            return;
        }
        self.files += 1;
        self.lines += source.production_lines();
        self.functions
            .extend(source.functions().iter().map(|function| function.lines));
        self.unwraps += source.lines_with(".unwrap()").len();
    }

    fn row(mut self, name: &str) -> String {
        self.functions.sort_unstable();
        let all = self.functions.len();
        let long = self.functions.iter().filter(|lines| **lines > LONG).count();
        let p90 = self.functions.get(all * 9 / 10).copied().unwrap_or(0);
        let share = if all == 0 {
            0.0
        } else {
            100.0 * long as f64 / all as f64
        };
        let Self {
            files,
            lines,
            generated,
            unwraps,
            ..
        } = self;
        format!(
            "{name:<22}{files:>6}{lines:>8}{generated:>11}{all:>11}{p90:>6}{long:>6}{share:>7.1} %{unwraps:>9}"
        )
    }
}

fn main() -> std::io::Result<()> {
    let sources = source::all();
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:<22}{:>6}{:>8}{:>11}{:>11}{:>6}{:>6}{:>9}{:>9}",
        "crate", "files", "lines", "generated", "functions", "p90", ">70", "share", "unwrap()"
    )?;
    let mut total = Count::default();
    for (name, home) in CRATES.into_iter().filter(|(name, _)| *name != "varve-tests") {
        let mut count = Count::default();
        for source in sources
            .iter()
            .filter(|source| source.path.starts_with(&format!("{home}/")))
        {
            count.add(source);
            total.add(source);
        }
        writeln!(out, "{}", count.row(name))?;
    }
    writeln!(out, "{}", total.row("production"))?;
    let tests = sources
        .iter()
        .map(|s| s.code.lines().filter(|l| !l.trim().is_empty()).count() - s.production_lines());
    writeln!(out, "{:<28}{:>8}", "test code", tests.sum::<usize>())
}
