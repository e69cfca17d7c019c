//! Judges a history file and prints the verdict as one line of JSON; the exit code is 1 when anything was found.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use varve_tests::{checker, history};

#[derive(Parser)]
struct Arguments {
    /// One event a line; see `varve_tests::history`.
    history: PathBuf,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let file = File::open(&arguments.history).context("opening the history")?;
    let verdict = checker::check(&history::parse(BufReader::new(file))?);
    println!("{}", serde_json::to_string(&verdict)?);
    Ok(ExitCode::from(u8::from(!verdict.is_clean())))
}
