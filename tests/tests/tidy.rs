//! The rules of the house that no compiler knows: who may import whom, what a file looks like, what may come into
//! the build. Runs in about a second; every failure names the file and what to do.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use varve_tests::source::{self, CRATES, Source, root};

/// Production lines of a file; a new one stays below the first, none grows over the second.
const LINES_NEW: usize = 600;
const LINES_MAX: usize = 800;

/// Files that are longer than a new one may be, with the length they must not outgrow. This list only shrinks.
const LONG_FILES: &[(&str, usize)] = &[];

/// Files that say nothing about what they are for.
const EMPTY_NAMES: [&str; 6] = ["util", "utils", "common", "helper", "helpers", "misc"];

/// Deciding, not doing: these know no runtime, no clock and no chance. `log` and `cluster` are pure as a whole.
const PURE: &[&str] = &[
    "broker/cluster/src/",
    "broker/log/src/",
    "cache/src/admission.rs",
    "cache/src/chunk.rs",
    "cache/src/read_ahead.rs",
    "lakehouse-sink/src/columns.rs",
    "lakehouse-sink/src/json.rs",
    "lakehouse-sink/src/json_columns.rs",
    "lakehouse-sink/src/progress.rs",
    "lakehouse-sink/src/schema.rs",
    "lakehouse-sink/src/settings.rs",
    "tiering/src/keys.rs",
    "tiering/src/manifest.rs",
    "tiering/src/object.rs",
    "tiering/src/read_plan.rs",
    "tiering/src/retention.rs",
    "tiering/src/upload.rs",
];

/// What pure crates may not depend on, by the beginning of its name: runtimes, sockets, stores, their clients.
const IMPURE_CRATES: [&str; 19] = [
    "async-",
    "aws-",
    "axum",
    "foyer",
    "futures",
    "h2",
    "hyper",
    "iceberg",
    "kafka-protocol",
    "mio",
    "native-tls",
    "object_store",
    "opendal",
    "reqwest",
    "rustls",
    "smol",
    "socket2",
    "tokio",
    "tower",
];

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path} cannot be read: {e}"))
}

/// Fails with all complaints at once.
fn nothing_in(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// Every source file, read once.
fn sources() -> impl Iterator<Item = &'static Source> {
    static SOURCES: OnceLock<Vec<Source>> = OnceLock::new();
    SOURCES.get_or_init(source::all).iter()
}

fn production() -> impl Iterator<Item = &'static Source> {
    sources().filter(|source| !source.test)
}

/// The names under `[dependencies]` and its like in a manifest.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut found = vec![];
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line.ends_with("dependencies]");
        } else if inside && let Some((name, _)) = line.split_once(['.', '=', ' ']) {
            found.push(name.to_owned());
        }
    }
    found
}

#[test]
fn crates_import_only_what_stands_before_them() {
    let mut complaints = vec![];
    for (place, (name, home)) in CRATES.iter().enumerate() {
        let manifest = read(&format!("{home}/Cargo.toml"));
        let names: Vec<&str> = CRATES[..place].iter().map(|(name, _)| *name).collect();
        for dependency in dependencies(&manifest)
            .iter()
            .filter(|name| name.starts_with("varve-"))
        {
            if !names.contains(&dependency.as_str()) {
                complaints.push(format!("{home}/Cargo.toml: {name} may not import {dependency}"));
            }
        }
    }
    let cache = dependencies(&read("cache/Cargo.toml"));
    complaints.extend(
        cache
            .iter()
            .filter(|d| d.starts_with("varve-"))
            .map(|d| format!("cache imports {d}: it needs none of ours")),
    );
    nothing_in(complaints);
}

#[test]
fn every_crate_is_in_the_line() {
    let manifest = read("Cargo.toml");
    let members = manifest.lines().find(|line| line.starts_with("members")).unwrap();
    let listed: BTreeSet<&str> = members.split('"').skip(1).step_by(2).collect();
    assert_eq!(listed, CRATES.iter().map(|(_, home)| *home).collect());
}

/// What cargo knows about the packages of a build for Linux, all of which that build has fetched.
fn metadata() -> &'static serde_json::Value {
    static METADATA: OnceLock<serde_json::Value> = OnceLock::new();
    METADATA.get_or_init(|| {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let linux = ["--filter-platform", "x86_64-unknown-linux-gnu"];
        let arguments = ["metadata", "--format-version", "1", "--locked", "--offline"];
        let done = Command::new(cargo)
            .args(arguments)
            .args(linux)
            .current_dir(root())
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        serde_json::from_slice(&done.stdout).unwrap()
    })
}

/// The packages that production code of `crates` is built with.
fn built_with(crates: &[&str]) -> BTreeSet<String> {
    let list = |value: &'static serde_json::Value| value.as_array().unwrap().iter();
    let text = |value: &'static serde_json::Value| value.as_str().unwrap();
    let names: BTreeMap<&str, &str> = list(&metadata()["packages"])
        .map(|p| (text(&p["id"]), text(&p["name"])))
        .collect();
    let nodes: BTreeMap<&str, _> = list(&metadata()["resolve"]["nodes"])
        .map(|node| (text(&node["id"]), node))
        .collect();
    let mut next: Vec<&str> = names
        .iter()
        .filter(|(_, name)| crates.contains(name))
        .map(|(id, _)| *id)
        .collect();
    let mut reached = BTreeSet::new();
    while let Some(id) = next.pop() {
        if !reached.insert(id) {
            continue;
        }
        let dependencies = list(&nodes[id]["deps"]);
        // The kind of an ordinary dependency is null; the others are for tests and build scripts.
        let ordinary = dependencies.filter(|d| list(&d["dep_kinds"]).any(|kind| kind["kind"].is_null()));
        next.extend(ordinary.map(|dependency| text(&dependency["pkg"])));
    }
    reached.into_iter().map(|id| names[id].to_owned()).collect()
}

#[test]
fn log_and_cluster_cannot_wait_send_or_store() {
    let reached = built_with(&["varve-log", "varve-cluster"]);
    assert!(reached.contains("bytes"), "the graph was not read");
    let impure = reached
        .iter()
        .filter(|name| IMPURE_CRATES.iter().any(|impure| name.starts_with(impure)));
    nothing_in(
        impure
            .map(|name| format!("log or cluster reaches {name}: a runtime, a socket or a store"))
            .collect(),
    );
}

#[test]
fn what_decides_neither_waits_nor_asks_for_the_time() {
    let mut complaints = vec![];
    for pure in PURE {
        assert!(
            root().join(pure).exists(),
            "PURE names {pure}, which does not exist"
        );
    }
    for source in production().filter(|source| PURE.iter().any(|pure| source.path.starts_with(pure))) {
        for word in [
            "async ",
            ".await",
            "tokio::",
            "SystemTime::now",
            "Instant::now",
            "thread::sleep",
            "rand::",
        ] {
            for line in source.lines_with(word) {
                complaints.push(format!(
                    "{}:{line}: `{}` in a file that only decides",
                    source.path,
                    word.trim()
                ));
            }
        }
    }
    nothing_in(complaints);
}

/// The layout users were promised, and nothing beside it.
const TOP: [&str; 16] = [
    "Cargo.lock",
    "Cargo.toml",
    "Dockerfile",
    "LICENSE",
    "README.md",
    "broker",
    "cache",
    "clippy.toml",
    "deny.toml",
    "docker-compose.yml",
    "docs",
    "lakehouse-sink",
    "rustfmt.toml",
    "target",
    "tests",
    "tiering",
];

#[test]
fn the_top_level_is_the_promised_one() {
    let entries = std::fs::read_dir(root()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    let strangers = names.filter(|name| !name.starts_with('.') && !TOP.contains(&name.as_str()));
    nothing_in(
        strangers
            .map(|name| format!("{name} does not belong at the top"))
            .collect(),
    );
}

#[test]
fn every_file_says_what_it_is_for() {
    let mute = sources().filter(|source| !source.text.starts_with("//!"));
    nothing_in(
        mute.map(|source| {
            format!(
                "{}: begin with `//!`: what it is for, what it promises",
                source.path
            )
        })
        .collect(),
    );
}

#[test]
fn no_file_is_named_after_nothing() {
    let mut complaints = vec![];
    for source in sources() {
        let path = Path::new(&source.path);
        let parts = path
            .components()
            .filter_map(|part| part.as_os_str().to_str())
            .map(|part| part.trim_end_matches(".rs"));
        if parts.into_iter().any(|part| EMPTY_NAMES.contains(&part)) {
            complaints.push(format!("{}: name it after what it is for", source.path));
        }
    }
    nothing_in(complaints);
}

#[test]
fn files_stay_short() {
    let mut complaints = vec![];
    for source in production().filter(|source| !source.generated()) {
        let lines = source.production_lines();
        let allowed = LONG_FILES
            .iter()
            .find(|(path, _)| *path == source.path)
            .map_or(LINES_NEW - 1, |(_, lines)| *lines);
        if lines > allowed {
            complaints.push(format!(
                "{}: {lines} production lines, {allowed} allowed: find the second thing in it",
                source.path
            ));
        }
    }
    for (path, lines) in LONG_FILES {
        let now = production()
            .find(|source| source.path == *path)
            .map_or(0, |source| source.production_lines());
        if *lines >= LINES_MAX {
            complaints.push(format!("{path}: nothing may have {LINES_MAX} lines or more"));
        } else if now < LINES_NEW {
            complaints.push(format!("{path}: has {now} lines now: take it from LONG_FILES"));
        }
    }
    nothing_in(complaints);
}

#[test]
fn production_code_keeps_its_nerve() {
    let mut complaints = vec![];
    for source in production() {
        for (word, instead) in [
            (
                ".unwrap()",
                "pass the error up, or say why it cannot happen with `expect`",
            ),
            ("todo!", "finish it or leave it out"),
            ("unimplemented!", "finish it or leave it out"),
            ("dbg!", "use tracing"),
        ] {
            complaints.extend(
                source
                    .lines_with(word)
                    .iter()
                    .map(|line| format!("{}:{line}: {word}: {instead}", source.path)),
            );
        }
    }
    nothing_in(complaints);
}

#[test]
fn nothing_is_left_for_later() {
    let mut complaints = vec![];
    for source in sources().filter(|source| source.path != "tests/tests/tidy.rs") {
        for (number, line) in (1..).zip(source.text.lines()) {
            if ["FIXME", "TODO", "XXX", "HACK"]
                .iter()
                .any(|word| line.contains(&format!("{word}:")) || line.contains(&format!("{word} ")))
            {
                complaints.push(format!(
                    "{}:{number}: do it now or write it down as an issue",
                    source.path
                ));
            }
        }
    }
    nothing_in(complaints);
}
