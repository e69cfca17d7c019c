//! The quickstart's directory: the data of its node or nodes, their bucket, and the configuration to start them again
//! with.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

use super::Size;

/// Written first and looked for later: a directory without it is not ours to fill.
const CONFIG: &str = "server.properties";
/// Kafka's own port, the one beside it that nobody but the quorum uses, and the one HTTP pages of streaming brokers are
/// looked for at. The nth node has the nth from there.
const PORTS: [u16; 3] = [9092, 9192, 9644];
/// Ports that are tried from there on.
const TRIES: u16 = 400;
const CLUSTER_ID: &str = "cluster.id";

pub(super) struct Home {
    dir: PathBuf,
    nodes: Vec<Ports>,
    cluster_id: String,
    /// Whether an earlier quickstart left its data here.
    pub(super) used_before: bool,
}

struct Ports {
    kafka: u16,
    controller: u16,
    http: u16,
}

impl Home {
    /// Takes a new or empty directory, or one of an earlier run of that size; any other is left alone.
    pub(super) fn open(dir: Option<&Path>, size: Size) -> anyhow::Result<Self> {
        let default = match size {
            Size::One => "varve-quickstart",
            Size::Three => "varve-quickstart-3",
        };
        let dir = dir.unwrap_or_else(|| Path::new(default));
        ensure!(
            !dir.exists() || dir.is_dir(),
            "{} is a file: name a directory with --dir",
            dir.display()
        );
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        let earlier = [Size::One, Size::Three].map(|size| node_dir(&dir, size, 1).join(CONFIG).exists());
        let used_before = match (size, earlier) {
            (Size::One, [true, _]) | (Size::Three, [false, true]) => true,
            (Size::One | Size::Three, [false, false]) => false,
            (Size::One, [false, true]) | (Size::Three, [true, _]) => bail!(
                "{} holds a quickstart with another number of brokers: name another directory with --dir",
                dir.display()
            ),
        };
        let empty = fs::read_dir(&dir)?.next().is_none();
        ensure!(
            used_before || empty,
            "{} holds something else: name an empty or a new directory with --dir",
            dir.display()
        );
        let mut taken = vec![];
        let nodes = (0..size.brokers()).map(|_| Ports::find(&mut taken));
        let home = Self {
            nodes: nodes.collect::<anyhow::Result<_>>()?,
            cluster_id: cluster_id(&node_dir(&dir, size, 1).join(CONFIG))?,
            dir,
            used_before,
        };
        if !home.used_before {
            home.write_config()?;
        }
        Ok(home)
    }

    /// Writes down how this run was configured. Only once the nodes run: an earlier one may still hold the directory,
    /// and then its own configuration is the true one.
    pub(super) fn write_config(&self) -> anyhow::Result<()> {
        for id in self.ids() {
            let file = self.config_file(id);
            let lines: String = self
                .properties(id)
                .iter()
                .map(|(key, value)| format!("{key}={value}\n"))
                .collect();
            fs::create_dir_all(self.node_dir(id))
                .and_then(|()| fs::write(&file, format!("# Written by `varve quickstart`.\n{lines}")))
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
    }

    pub(super) fn properties(&self, id: usize) -> Vec<(&'static str, String)> {
        let Ports {
            kafka,
            controller,
            http,
        } = self.nodes[id - 1];
        let mut listeners = format!("PLAINTEXT://127.0.0.1:{kafka}");
        let mut among_others = vec![];
        if self.size() == Size::Three {
            listeners.push_str(&format!(",CONTROLLER://127.0.0.1:{controller}"));
            let voters = self.ids().zip(&self.nodes);
            let voters = voters.map(|(id, ports)| format!("{id}@127.0.0.1:{}", ports.controller));
            among_others = vec![
                (CLUSTER_ID, self.cluster_id.clone()),
                ("controller.quorum.voters", voters.collect::<Vec<_>>().join(",")),
                ("default.replication.factor", "3".to_owned()),
                ("offsets.topic.replication.factor", "3".to_owned()),
                ("min.insync.replicas", "2".to_owned()),
            ];
        }
        let mut properties = vec![
            ("process.roles", "broker,controller".to_owned()),
            ("node.id", id.to_string()),
            ("listeners", listeners),
            ("log.dirs", self.node_dir(id).join("data").display().to_string()),
            ("varve.bucket", self.bucket_url()),
            ("varve.http.listener", format!("127.0.0.1:{http}")),
            // A demo shows in seconds what otherwise takes minutes.
            ("log.retention.check.interval.ms", "500".to_owned()),
        ];
        properties.extend(among_others);
        properties
    }

    /// The nodes' numbers, from 1 on.
    pub(super) fn ids(&self) -> impl Iterator<Item = usize> + use<> {
        1..=self.nodes.len()
    }

    pub(super) fn size(&self) -> Size {
        match self.nodes.len() {
            1 => Size::One,
            _ => Size::Three,
        }
    }

    /// Where clients find the cluster.
    pub(super) fn bootstrap(&self) -> String {
        let address = |ports: &Ports| format!("127.0.0.1:{}", ports.kafka);
        self.nodes.iter().map(address).collect::<Vec<_>>().join(",")
    }

    /// Where a node's pages are.
    pub(super) fn http(&self, id: usize) -> String {
        format!("127.0.0.1:{}", self.nodes[id - 1].http)
    }

    pub(super) fn config_file(&self, id: usize) -> PathBuf {
        self.node_dir(id).join(CONFIG)
    }

    pub(super) fn node_dir(&self, id: usize) -> PathBuf {
        node_dir(&self.dir, self.size(), id)
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

fn node_dir(dir: &Path, size: Size, id: usize) -> PathBuf {
    match size {
        Size::One => dir.to_owned(),
        Size::Three => dir.join(format!("broker-{id}")),
    }
}

/// The one of the earlier run, whose nodes know it, or a new one.
fn cluster_id(config: &Path) -> anyhow::Result<String> {
    let text = match config.exists() {
        true => fs::read_to_string(config)?,
        false => String::new(),
    };
    let of = |line: &str| {
        line.strip_prefix(CLUSTER_ID)?
            .strip_prefix('=')
            .map(str::to_owned)
    };
    let new = || URL_SAFE_NO_PAD.encode(Uuid::new_v4().as_bytes());
    Ok(text.lines().find_map(of).unwrap_or_else(new))
}

impl Ports {
    fn find(taken: &mut Vec<u16>) -> anyhow::Result<Self> {
        let mut next = |usual| {
            let port = port(usual, taken)?;
            taken.push(port);
            anyhow::Ok(port)
        };
        let [kafka, controller, http] = PORTS;
        Ok(Self {
            kafka: next(kafka)?,
            controller: next(controller)?,
            http: next(http)?,
        })
    }
}

/// The port everybody expects, or the first after it that nobody has. All of these lie below what the system gives to
/// outgoing connections, so a broker that was killed finds its port free.
fn port(usual: u16, taken: &[u16]) -> anyhow::Result<u16> {
    let is_free = |port: &u16| !taken.contains(port) && TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (usual..usual + TRIES).find(is_free).with_context(|| {
        format!(
            "no port from {usual} to {} is free on 127.0.0.1",
            usual + TRIES - 1
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_directory_with_something_else_in_it_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "do not touch").unwrap();

        let refusal = Home::open(Some(dir.path()), Size::One).err().unwrap();

        assert!(refusal.to_string().contains("--dir"), "{refusal}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_is_no_directory() {
        let file = tempfile::NamedTempFile::new().unwrap();

        assert!(Home::open(Some(file.path()), Size::One).is_err());
    }

    #[test]
    fn the_directory_of_an_earlier_run_is_taken_up_again() {
        for size in [Size::One, Size::Three] {
            let dir = tempfile::tempdir().unwrap();

            let first = Home::open(Some(dir.path()), size).unwrap();
            let second = Home::open(Some(dir.path()), size).unwrap();

            assert!(!first.used_before && second.used_before);
            assert_eq!(
                size == Size::Three,
                first.cluster_id == second.cluster_id,
                "{size:?}"
            );
        }
    }

    #[test]
    fn a_run_with_another_number_of_brokers_is_left_alone() {
        for (earlier, later) in [(Size::One, Size::Three), (Size::Three, Size::One)] {
            let dir = tempfile::tempdir().unwrap();
            Home::open(Some(dir.path()), earlier).unwrap();

            let refusal = Home::open(Some(dir.path()), later).err().unwrap();

            assert!(refusal.to_string().contains("another number"), "{refusal}");
        }
    }

    #[test]
    fn three_brokers_are_configured_apart_and_share_bucket_and_quorum() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(Some(dir.path()), Size::Three).unwrap();

        let configs: Vec<Config> = home
            .ids()
            .map(|id| {
                let properties = home.properties(id);
                let pairs: Vec<_> = properties
                    .iter()
                    .map(|(key, value)| (*key, value.as_str()))
                    .collect();
                Config::from_properties(&pairs).unwrap()
            })
            .collect();

        let mut ports: Vec<String> = home.bootstrap().split(',').map(str::to_owned).collect();
        ports.extend(home.ids().map(|id| home.http(id)));
        ports.extend(configs[0].quorum.voters.iter().map(|voter| voter.address.clone()));
        ports.sort();
        ports.dedup();
        assert_eq!(ports.len(), 9);
        for (one, id) in configs.iter().zip(1..) {
            assert_eq!(one.node_id, id);
            assert_eq!(one.quorum.voters, configs[0].quorum.voters);
            assert_eq!(one.cluster_id, configs[0].cluster_id);
        }
        assert_ne!(configs[0].log_dirs, configs[1].log_dirs);
    }
}
