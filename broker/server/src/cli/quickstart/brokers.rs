//! Three brokers as processes of their own, started from this very binary, so that one of them can die as a machine
//! does. None of them outlives the quickstart, however that ends.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::{Home, LOOK, STEP_MAX};
use crate::cli::client::pause;
use crate::cli::http;

/// How long a broker may take to stop when it is asked to.
const STOP_MAX: Duration = Duration::from_secs(30);
/// Lines of a broker's log that are shown when it did not come up.
const LOG_LINES: usize = 10;

pub(super) struct Brokers {
    brokers: Vec<Broker>,
}

struct Broker {
    id: usize,
    settings: Vec<String>,
    log: PathBuf,
    http: String,
    /// `None` while it is dead.
    child: Option<Child>,
}

impl Brokers {
    /// Starts all of them; when it returns, they form a cluster.
    pub(super) fn start(home: &Home) -> anyhow::Result<Self> {
        let setting = |(key, value): (&str, String)| format!("{key}={value}");
        let broker = |id| Broker {
            id,
            settings: home.properties(id).into_iter().map(setting).collect(),
            log: home.node_dir(id).join("broker.log"),
            http: home.http(id),
            child: None,
        };
        let mut all = Self {
            brokers: home.ids().map(broker).collect(),
        };
        // None is ready before most of them are there.
        for broker in &mut all.brokers {
            broker.start()?;
        }
        for broker in &mut all.brokers {
            broker.wait_until_ready()?;
        }
        Ok(all)
    }

    /// As a machine dies: `kill -9`, nothing is put down.
    pub(super) fn kill(&mut self, id: i32) -> anyhow::Result<()> {
        self.numbered(id)?
            .kill()
            .context("the broker could not be killed")
    }

    /// Starts one that was killed, on the files it left.
    pub(super) fn start_again(&mut self, id: i32) -> anyhow::Result<()> {
        self.numbered(id)?.start()
    }

    /// When it returns, the broker has been let into the cluster.
    pub(super) fn wait_until_ready(&mut self, id: i32) -> anyhow::Result<()> {
        self.numbered(id)?.wait_until_ready()
    }

    /// Asks one after the other to end: as long as two are there, the third can leave in order.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        self.brokers.iter_mut().try_for_each(Broker::stop)
    }

    fn numbered(&mut self, id: i32) -> anyhow::Result<&mut Broker> {
        let found = self
            .brokers
            .iter_mut()
            .find(|broker| i32::try_from(broker.id) == Ok(id));
        found.with_context(|| format!("broker {id} is none of ours"))
    }
}

impl Drop for Brokers {
    /// Whatever is left after an error or a panic.
    fn drop(&mut self) {
        for broker in &mut self.brokers {
            // It may have ended by itself.
            let _ = broker.kill();
        }
    }
}

impl Broker {
    fn start(&mut self) -> anyhow::Result<()> {
        let log = self.log_file()?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["server", "--parent", &std::process::id().to_string()])
            .args(&self.settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C on the terminal is for the quickstart, which then stops its brokers in order.
            .process_group(0);
        // What this environment sets for brokers is not meant for the quickstart's.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("KAFKA_") || text.starts_with("VARVE_") {
                command.env_remove(&name);
            }
        }
        let child = command.spawn();
        self.child = Some(child.with_context(|| format!("broker {} could not be started", self.id))?);
        Ok(())
    }

    fn log_file(&self) -> anyhow::Result<File> {
        if let Some(dir) = self.log.parent() {
            fs::create_dir_all(dir)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&self.log);
        file.with_context(|| format!("cannot write {}", self.log.display()))
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        while http::get(&self.http, "/health/ready").is_err() {
            let ended = match &mut self.child {
                Some(child) => child.try_wait()?,
                None => None,
            };
            ensure!(
                ended.is_none() && begun.elapsed() < STEP_MAX,
                "broker {} did not come up; the end of {}:\n{}",
                self.id,
                self.log.display(),
                self.last_lines()
            );
            pause(LOOK);
        }
        Ok(())
    }

    fn last_lines(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        let Some(child) = &mut self.child else {
            return Ok(());
        };
        kill_process(Pid::from_child(child), Signal::TERM)?;
        let begun = Instant::now();
        while child.try_wait()?.is_none() {
            if begun.elapsed() > STOP_MAX {
                self.kill()?;
                anyhow::bail!("broker {} did not stop when asked and was killed", self.id);
            }
            pause(LOOK);
        }
        self.child = None;
        Ok(())
    }

    fn kill(&mut self) -> std::io::Result<()> {
        match self.child.take() {
            Some(mut child) => child.kill().and_then(|()| child.wait().map(drop)),
            None => Ok(()),
        }
    }
}
