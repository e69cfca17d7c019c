//! The command line: `varve server` runs a node, everything else talks to one as any Kafka client does.
//!
//! Results go to stdout and nothing else does; progress, hints and errors go to stderr. With `--json` stdout carries
//! one JSON object, or one a line. The exit code is 0 only if all that was asked for was done.

mod bucket;
mod client;
mod consume;
mod group;
mod http;
mod output;
mod produce;
mod progress;
mod quickstart;
mod server;
#[cfg(feature = "sql")]
mod sql;
mod table;
mod tier;
mod topic;
mod when;

use std::io;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use client::{Client, Waits};

/// A Kafka-compatible event log whose history settles into object storage and stays readable there.
#[derive(Debug, Parser)]
#[command(name = "varve", version, max_term_width = 100, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// See it all work in under a minute: produce, tier, replay from the bucket, query as a table.
    Quickstart(quickstart::Arguments),
    /// Run a node.
    Server(server::Arguments),
    /// Create, list, describe, change and delete topics.
    #[command(subcommand)]
    Topic(topic::Command),
    /// Send the lines of stdin, or of a file, to a topic.
    Produce(produce::Arguments),
    /// Print a topic's records, from any point of its history on.
    Consume(consume::Arguments),
    /// List consumer groups, show their lag, move or delete them.
    #[command(subcommand)]
    Group(group::Command),
    /// Show which part of a topic is where.
    #[command(subcommand)]
    Tier(tier::Command),
    /// Describe and audit topics as Iceberg tables.
    #[command(subcommand)]
    Table(table::Command),
    /// Ask the tables a question in SQL.
    #[cfg(feature = "sql")]
    Sql(sql::Question),
    /// Ask the tables a question in SQL; this build has no engine for it.
    #[cfg(not(feature = "sql"))]
    Sql(NoSql),
}

/// Whatever is asked of a build without an SQL engine.
#[cfg(not(feature = "sql"))]
#[derive(Debug, Args)]
struct NoSql {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _query: Vec<String>,
}

#[cfg(not(feature = "sql"))]
const NO_SQL: &str = "this build has no SQL engine: build one with `cargo build --release --features sql`, or use the \
                      image. Any engine that knows Iceberg reads the same tables; `varve table describe TOPIC` says \
                      where they are";

/// Which cluster, and how to answer: the same for every command that talks to one.
#[derive(Debug, Args)]
struct Cluster {
    /// Where to find the cluster: HOST:PORT, several with commas.
    #[arg(
        long,
        short = 'b',
        env = "VARVE_BOOTSTRAP_SERVER",
        default_value = "127.0.0.1:9092",
        value_name = "HOST:PORT"
    )]
    bootstrap_server: String,
    /// Answer in JSON.
    #[arg(long)]
    json: bool,
}

impl Cluster {
    fn connect(&self) -> client::Result<Client> {
        Client::connect(&self.bootstrap_server, Waits::default())
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Quickstart(arguments) => quickstart::run(&arguments),
        Command::Server(arguments) => server::run(&arguments),
        Command::Topic(command) => topic::run(command),
        Command::Produce(arguments) => produce::run(arguments),
        Command::Consume(arguments) => consume::run(arguments),
        Command::Group(command) => group::run(command),
        Command::Tier(command) => tier::run(command),
        Command::Table(command) => table::run(command),
        #[cfg(feature = "sql")]
        Command::Sql(arguments) => sql::run(&arguments),
        #[cfg(not(feature = "sql"))]
        Command::Sql(_) => Err(anyhow::anyhow!(NO_SQL)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of our output has all it wanted, as in `varve consume … | head`.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::remark(&format!("varve: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Whether a command line, without the program's name, would be understood; if not, what is wrong with it. What the
/// documents and the image say is checked with this.
///
/// # Errors
/// The parser's own words.
pub fn check(arguments: &[String]) -> Result<(), String> {
    let line = std::iter::once("varve").chain(arguments.iter().map(String::as_str));
    Arguments::try_parse_from(line)
        .map(|_| ())
        .map_err(|error| error.to_string())
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// `KEY=VALUE`, as configurations are given on the command line.
fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_number_that_cannot_be_meant_is_named_as_such() {
        let words = |line: &str| check(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());

        for line in [
            "topic create t --partitions -1",
            "topic create t --replication-factor -1",
            "topic alter t --partitions 0",
        ] {
            let said = words(line).unwrap_err();
            assert!(said.contains("invalid value"), "{said}");
        }
        assert_eq!(words("topic create t --partitions 3"), Ok(()));
    }

    #[test]
    fn a_configuration_needs_a_key_but_may_have_an_empty_value() {
        assert_eq!(
            key_value("cleanup.policy="),
            Ok(("cleanup.policy".to_owned(), String::new()))
        );
        assert_eq!(key_value("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(key_value("=x").is_err());
        assert!(key_value("x").is_err());
    }
}
