//! Listeners: where we accept, and what clients are told.

use super::{ConfigError, Reader, bad, list};

/// One address to accept clients on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Its name, e.g. `PLAINTEXT`.
    pub name: String,
    /// Host or address; empty for every address.
    pub host: String,
    /// Port; 0 lets the system choose (tests).
    pub port: u16,
}

/// What clients of a listener are told to connect to. Port 0 stands for the port that was bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertised {
    /// Never empty.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// The client listeners of `listeners`: those of the quorum are left out.
pub(super) fn parse(read: &Reader<'_>) -> Result<Vec<Listener>, ConfigError> {
    let text = read.text("listeners");
    let protocols = protocols(read)?;
    let mut found: Vec<Listener> = vec![];
    for entry in list(&text) {
        let listener = endpoint("listeners", &entry)?;
        if is_quorums(read, &listener.name) {
            continue;
        }
        if !protocols.contains(&listener.name) {
            return Err(bad(
                "listeners",
                &entry,
                "give the listener's protocol in listener.security.protocol.map",
            ));
        }
        if found.iter().any(|other| other.name == listener.name) {
            return Err(bad("listeners", &entry, "each listener needs a name of its own"));
        }
        found.push(listener);
    }
    if found.is_empty() {
        return Err(bad(
            "listeners",
            &text,
            "name at least one listener for clients, e.g. PLAINTEXT://127.0.0.1:9092",
        ));
    }
    if let Some(name) = read.given("inter.broker.listener.name")
        && !found.iter().any(|listener| listener.name == *name)
    {
        return Err(bad(
            "inter.broker.listener.name",
            name,
            "must be one of the listeners",
        ));
    }
    Ok(found)
}

/// What each listener's clients are told, in the order of `listeners`.
pub(super) fn advertised(read: &Reader<'_>, listeners: &[Listener]) -> Result<Vec<Advertised>, ConfigError> {
    let given = match read.given("advertised.listeners") {
        Some(text) => list(text)
            .iter()
            .map(|entry| endpoint("advertised.listeners", entry))
            .collect::<Result<_, _>>()?,
        None => vec![],
    };
    for entry in &given {
        if !is_quorums(read, &entry.name) && !listeners.iter().any(|l| l.name == entry.name) {
            return Err(bad(
                "advertised.listeners",
                &entry.name,
                "names a listener that `listeners` does not have",
            ));
        }
    }
    listeners
        .iter()
        .map(|listener| {
            let told = given
                .iter()
                .find(|entry| entry.name == listener.name)
                .unwrap_or(listener);
            if matches!(told.host.as_str(), "" | "0.0.0.0" | "::") {
                let value = format!("{}://{}:{}", told.name, told.host, told.port);
                return Err(bad(
                    "advertised.listeners",
                    &value,
                    "clients need a host to connect to: set advertised.listeners",
                ));
            }
            Ok(Advertised {
                host: told.host.clone(),
                port: told.port,
            })
        })
        .collect()
}

/// One voter of the metadata quorum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voter {
    /// Its `node.id`.
    pub id: i32,
    /// host:port of its controller listener.
    pub address: String,
}

/// `controller.quorum.voters`; empty when it is absent: this node is its own quorum.
pub(super) fn voters(read: &Reader<'_>, node_id: i32) -> Result<Vec<Voter>, ConfigError> {
    const KEY: &str = "controller.quorum.voters";
    let text = read.given(KEY).cloned().unwrap_or_default();
    let mut voters: Vec<Voter> = vec![];
    for entry in list(&text) {
        let wrong = || bad(KEY, &entry, "write id@host:port");
        let (id, address) = entry.split_once('@').ok_or_else(wrong)?;
        let id = id.parse().map_err(|_not_a_number| wrong())?;
        address
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse::<u16>().ok())
            .ok_or_else(wrong)?;
        if voters.iter().any(|other| other.id == id) {
            return Err(bad(KEY, &entry, "each voter is named once"));
        }
        voters.push(Voter {
            id,
            address: address.to_owned(),
        });
    }
    if !voters.is_empty() && !voters.iter().any(|voter| voter.id == node_id) {
        return Err(bad(
            KEY,
            &text,
            "every node is a controller so far: name this node.id too",
        ));
    }
    if let Some(servers) = read.given("controller.quorum.bootstrap.servers")
        && list(servers).len() > 1
        && voters.is_empty()
    {
        return Err(bad(
            "controller.quorum.bootstrap.servers",
            servers,
            "name the voters with their ids in controller.quorum.voters",
        ));
    }
    Ok(voters)
}

/// Where the other controllers reach this one: the listener named first in `controller.listener.names`. Needed only
/// when there are others.
pub(super) fn controller(read: &Reader<'_>, voters: &[Voter]) -> Result<Option<Listener>, ConfigError> {
    if voters.len() < 2 {
        return Ok(None);
    }
    let text = read.text("listeners");
    for entry in list(&text) {
        let listener = endpoint("listeners", &entry)?;
        if is_quorums(read, &listener.name) {
            return Ok(Some(listener));
        }
    }
    Err(bad(
        "listeners",
        &text,
        "a controller needs a listener of its own, e.g. CONTROLLER://127.0.0.1:9093",
    ))
}

/// Index of the listener other brokers use; the first unless `inter.broker.listener.name` says otherwise.
pub(super) fn inter_broker(read: &Reader<'_>, listeners: &[Listener]) -> usize {
    let named = read.given("inter.broker.listener.name");
    let at = named.and_then(|name| listeners.iter().position(|listener| listener.name == *name));
    at.unwrap_or(0)
}

fn is_quorums(read: &Reader<'_>, name: &str) -> bool {
    list(&read.text("controller.listener.names"))
        .iter()
        .any(|other| other == name)
}

fn protocols(read: &Reader<'_>) -> Result<Vec<String>, ConfigError> {
    const KEY: &str = "listener.security.protocol.map";
    let mut names = vec![];
    for entry in list(&read.text(KEY)) {
        let (name, protocol) = entry
            .split_once(':')
            .ok_or_else(|| bad(KEY, &entry, "write NAME:PROTOCOL"))?;
        // Files made for Apache Kafka list protocols they do not use; only one in use must be ours.
        if protocol == "PLAINTEXT" {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn endpoint(key: &str, entry: &str) -> Result<Listener, ConfigError> {
    let wrong = || bad(key, entry, "write NAME://host:port");
    let (name, address) = entry.split_once("://").ok_or_else(wrong)?;
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok(Listener {
        name: name.to_owned(),
        host,
        port: port.parse().map_err(|_no_number| wrong())?,
    })
}
