//! `varve server`: one node, until it is told to stop.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::config::Config;
use crate::node::Node;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A file of properties with Kafka's keys, such as server.properties.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How log lines are written. RUST_LOG chooses which: `info` if not set.
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
    /// Die with the process of this number, which started this one.
    #[arg(long, hide = true, value_name = "PID")]
    parent: Option<i32>,
    /// Settings that win over the file's and the environment's.
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    Text,
    Json,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    log_to_stderr(arguments.log_format, "info");
    if let Some(parent) = arguments.parent {
        die_with(parent)?;
    }
    let config = Config::load(arguments.config.as_deref(), &arguments.overrides)?;
    let node = Node::start(config)?;
    let outcome = wait_for_end(node.failed());
    node.shutdown();
    outcome
}

/// From here on the kernel kills this process when its parent ends, in whichever way that happens.
fn die_with(parent: i32) -> anyhow::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // It may have ended before the kernel was asked.
    let now = rustix::process::getppid().map(rustix::process::Pid::as_raw_nonzero);
    anyhow::ensure!(
        now.is_some_and(|now| now.get() == parent),
        "the process that started this one has ended. parent={parent}"
    );
    Ok(())
}

/// What the libraries below us say at start is of no use to an operator.
const QUIET: &str = "foyer=warn,foyer_storage=warn,foyer_memory=warn,aws_config=error";

/// Log lines go to stderr, from `level` on unless RUST_LOG says otherwise.
pub(super) fn log_to_stderr(format: LogFormat, level: &str) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("{level},{QUIET}")));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
}

/// Returns when the process is asked to end, by Ctrl-C or SIGTERM, or with what `failure` ends with.
pub(super) fn wait_for_end(failure: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
            failed = failure => failed,
        }
    })
}
