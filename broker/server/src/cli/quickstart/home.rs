//! The quickstart's directory: the node's data, its bucket, and the configuration to start it again with.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

/// Written first and looked for later: a directory without it is not ours to fill.
const CONFIG: &str = "server.properties";
const DEFAULT: &str = "varve-quickstart";
/// Kafka's own port, and the one HTTP pages of streaming brokers are looked for at.
const PORTS: (u16, u16) = (9092, 9644);

pub(super) struct Home {
    dir: PathBuf,
    kafka_port: u16,
    http_port: u16,
    /// Whether an earlier quickstart left its data here.
    pub(super) used_before: bool,
}

impl Home {
    /// Takes a new or empty directory, or one of an earlier run; any other is left alone.
    pub(super) fn open(dir: Option<&Path>) -> anyhow::Result<Self> {
        let dir = dir.unwrap_or_else(|| Path::new(DEFAULT));
        ensure!(
            !dir.exists() || dir.is_dir(),
            "{} is a file: name a directory with --dir",
            dir.display()
        );
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        let used_before = dir.join(CONFIG).exists();
        let empty = fs::read_dir(&dir)?.next().is_none();
        ensure!(
            used_before || empty,
            "{} holds something else: name an empty or a new directory with --dir",
            dir.display()
        );
        let home = Self {
            dir,
            kafka_port: port(PORTS.0)?,
            http_port: port(PORTS.1)?,
            used_before,
        };
        if !home.used_before {
            home.write_config()?;
        }
        Ok(home)
    }

    /// Writes down how this run was configured. Only once the node runs: an earlier one may still hold the directory,
    /// and then its own configuration is the true one.
    pub(super) fn write_config(&self) -> anyhow::Result<()> {
        let file = self.config_file();
        let lines: String = self
            .properties()
            .iter()
            .map(|(key, value)| format!("{key}={value}\n"))
            .collect();
        fs::write(&file, format!("# Written by `varve quickstart`.\n{lines}"))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    pub(super) fn properties(&self) -> Vec<(&'static str, String)> {
        let in_dir = |name| self.dir.join(name).display().to_string();
        vec![
            ("process.roles", "broker,controller".to_owned()),
            ("node.id", "1".to_owned()),
            ("listeners", format!("PLAINTEXT://127.0.0.1:{}", self.kafka_port)),
            ("log.dirs", in_dir("data")),
            ("varve.bucket", self.bucket_url()),
            ("varve.http.listener", format!("127.0.0.1:{}", self.http_port)),
            // A demo shows in seconds what otherwise takes minutes.
            ("log.retention.check.interval.ms", "500".to_owned()),
        ]
    }

    pub(super) fn config_file(&self) -> PathBuf {
        self.dir.join(CONFIG)
    }

    pub(super) fn bucket_dir(&self) -> PathBuf {
        self.dir.join("bucket")
    }

    pub(super) fn bucket_url(&self) -> String {
        format!("file://{}", self.bucket_dir().display())
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }
}

/// The port everybody expects, or any free one if somebody has it already.
fn port(usual: u16) -> anyhow::Result<u16> {
    let free = |port| TcpListener::bind(("127.0.0.1", port)).and_then(|socket| socket.local_addr());
    let address = free(usual)
        .or_else(|_taken| free(0))
        .context("no port is free on 127.0.0.1")?;
    Ok(address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_something_else_in_it_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "do not touch").unwrap();

        let refusal = Home::open(Some(dir.path())).err().unwrap();

        assert!(refusal.to_string().contains("--dir"), "{refusal}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_is_no_directory() {
        let file = tempfile::NamedTempFile::new().unwrap();

        assert!(Home::open(Some(file.path())).is_err());
    }

    #[test]
    fn the_directory_of_an_earlier_run_is_taken_up_again() {
        let dir = tempfile::tempdir().unwrap();

        assert!(!Home::open(Some(dir.path())).unwrap().used_before);
        assert!(Home::open(Some(dir.path())).unwrap().used_before);
    }
}
