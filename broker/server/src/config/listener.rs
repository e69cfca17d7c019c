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

/// One node is its own quorum: whatever names the quorum may only name this node.
pub(super) fn check_quorum(read: &Reader<'_>, node_id: i32) -> Result<(), ConfigError> {
    if let Some(voters) = read.given("controller.quorum.voters")
        && list(voters)
            .iter()
            .any(|voter| voter.split('@').next() != Some(&node_id.to_string()))
    {
        return Err(bad(
            "controller.quorum.voters",
            voters,
            "one node is its own quorum: name only this node.id",
        ));
    }
    if let Some(servers) = read.given("controller.quorum.bootstrap.servers")
        && list(servers).len() > 1
    {
        return Err(bad(
            "controller.quorum.bootstrap.servers",
            servers,
            "one node is its own quorum: name only its controller listener",
        ));
    }
    Ok(())
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
