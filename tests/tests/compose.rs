//! What the image, the compose file and the dashboard say is true of this tree: brokers take their settings, commands are
//! understood, and every panel asks for metrics and labels that there are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use varve_cluster::topic_config;
use varve_server::config::{Config, keys};
use varve_server::exposition::{FAMILIES, Family};
use varve_tests::source::root;

fn read(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{} cannot be read: {e}", path.display()))
}

fn depth(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// What stands below the line `header` and deeper than it.
fn below(text: &str, header: &str) -> String {
    let lines = text.lines().skip_while(|line| *line != header).skip(1);
    let deeper: Vec<_> = lines
        .take_while(|line| line.is_empty() || depth(line) > depth(header))
        .collect();
    assert!(!deeper.is_empty(), "there is no {header}");
    deeper.join("\n")
}

/// `NAME: value` of a block, what it takes over from another left out.
fn pairs(block: &str) -> Vec<(String, String)> {
    let lines = block
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with(['#', '<']));
    lines
        .filter_map(|line| line.split_once(": "))
        .map(|(k, v)| (k.to_owned(), v.trim_matches('"').to_owned()))
        .collect()
}

/// The `ENV NAME=value` of the Dockerfile.
fn image_environment(dockerfile: &str) -> Vec<(String, String)> {
    let lines = dockerfile.lines().filter_map(|line| line.strip_prefix("ENV "));
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

/// The broker as it would start with these variables; later ones win.
fn started_with(environment: &[(String, String)]) -> Config {
    let names: Vec<&str> = keys::KEYS
        .iter()
        .map(|key| key.name)
        .chain(topic_config::broker_default_keys())
        .collect();
    let mut properties = BTreeMap::new();
    let ours = environment
        .iter()
        .filter(|(variable, _)| !variable.starts_with("AWS_"));
    for (variable, value) in ours {
        let key = names
            .iter()
            .find(|name| keys::environment_name(name) == *variable);
        properties.insert(
            *key.unwrap_or_else(|| panic!("{variable} sets no key")),
            value.as_str(),
        );
    }
    let pairs: Vec<(&str, &str)> = properties.into_iter().collect();
    Config::from_properties(&pairs).unwrap_or_else(|error| panic!("the broker would refuse this: {error}"))
}

#[test]
fn the_image_speaks_the_brokers_language() {
    let dockerfile = read("Dockerfile");
    let image = image_environment(&dockerfile);
    assert!(image.len() >= 4, "the environment was not found");
    started_with(&image);
    let list = |name: &str| {
        let line = dockerfile
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_else(|| panic!("no {name}"));
        serde_json::from_str::<Vec<String>>(line.trim()).unwrap()
    };
    assert_eq!(list("ENTRYPOINT"), ["varve"]);
    varve_server::cli::check(&list("CMD")).unwrap();
    assert!(dockerfile.contains("/health/ready"));
}

#[test]
fn three_brokers_of_the_compose_file_form_one_cluster() {
    let (image, compose) = (image_environment(&read("Dockerfile")), read("docker-compose.yml"));
    let shared = pairs(&below(&compose, "x-environment: &environment"));
    assert!(shared.len() > 10, "the environment was not found");
    let scraped = below(&compose, "  prometheus:");
    let configs = [1, 2, 3].map(|id| {
        let name = format!("broker-{id}");
        let service = below(&compose, &format!("  {name}:"));
        let mut environment = image.clone();
        environment.extend(shared.clone());
        environment.extend(pairs(&below(&service, "    environment:")));
        let config = started_with(&environment);
        assert_eq!(config.node_id, id);
        let voter = &config.quorum.voters[usize::try_from(id - 1).unwrap()];
        let listener = config.quorum.listener.as_ref().expect("a controller listener");
        assert_eq!(voter.address, format!("{name}:{}", listener.port));
        // Brokers reach each other by the service's name, clients on the machine by the port that is published.
        let inside = &config.advertised[config.inter_broker_listener];
        assert_eq!(inside.host, name);
        let outside = &config.advertised[0];
        let published = format!("127.0.0.1:{}:{}", outside.port, config.listeners[0].port);
        assert!(
            outside.host == "localhost" && service.contains(&published),
            "{published} is not published"
        );
        let pages = config.http_listener.as_deref().expect("pages");
        let (_, port) = pages.rsplit_once(':').unwrap();
        let scrapes = compose.contains(&format!("\"{name}:{port}\""));
        assert!(scrapes, "Prometheus does not ask {name}: {scraped}");
        config
    });
    for config in &configs {
        assert_eq!(config.cluster_id, configs[0].cluster_id);
        assert_eq!(config.quorum.voters, configs[0].quorum.voters);
    }
}

#[test]
fn images_are_pinned_and_files_are_there() {
    let compose = read("docker-compose.yml");
    let after = |word: &str| -> Vec<String> {
        let found = compose.lines().filter_map(|line| line.trim().strip_prefix(word));
        found.map(|value| value.trim().to_owned()).collect()
    };
    for image in after("image:").iter().filter(|image| *image != "varve") {
        let tag = image.rsplit_once(':').map(|(_, tag)| tag);
        assert!(
            tag.is_some_and(|tag| tag.contains(|c: char| c.is_ascii_digit())),
            "{image} is not pinned"
        );
    }
    let files = after("file:");
    assert!(!files.is_empty());
    for file in files {
        assert!(root().join(Path::new(&file)).is_file(), "there is no {file}");
    }
}

#[test]
fn the_traffic_of_the_compose_file_is_understood() {
    let script =
        below(&below(&read("docker-compose.yml"), "  traffic:"), "    command:").replace("\\\n", " ");
    let parts = script.split([';', '|', '>', '\n']).map(str::trim);
    let commands: Vec<&str> = parts
        .map(|part| part.strip_prefix("do ").unwrap_or(part))
        .filter_map(|part| part.strip_prefix("varve "))
        .collect();
    assert!(commands.len() >= 4, "{script}");
    for command in commands {
        let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        varve_server::cli::check(&words).unwrap_or_else(|error| panic!("`varve {command}`: {error}"));
    }
}

/// Words of PromQL that are no metric.
const WORDS: [&str; 8] = [
    "sum",
    "max",
    "by",
    "rate",
    "increase",
    "histogram_quantile",
    "topk",
    "unless",
];
/// Labels that Prometheus itself puts to every series.
const SCRAPED: [&str; 2] = ["instance", "job"];

/// What one expression asks for.
#[derive(Debug, Default)]
struct Asked {
    /// Each with the labels it is chosen by.
    metrics: Vec<(String, Vec<String>)>,
    /// Labels that are kept.
    by: Vec<String>,
}

fn asked(expression: &str) -> Asked {
    let mut asked = Asked::default();
    let mut rest = expression;
    let (mut grouping, mut choosing) = (false, false);
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len()).max(1);
        let (word, mut after) = rest.split_at(length);
        match first {
            '"' => after = after.split_once('"').expect("a string ends").1,
            '[' => after = after.split_once(']').expect("a range ends").1,
            '{' => choosing = true,
            '}' => choosing = false,
            ')' => grouping = false,
            c if !is_word(c) || c.is_ascii_digit() => {}
            _ if choosing => asked
                .metrics
                .last_mut()
                .expect("of a metric")
                .1
                .push(word.to_owned()),
            _ if grouping => asked.by.push(word.to_owned()),
            _ if WORDS.contains(&word) => grouping = word == "by",
            _ => asked.metrics.push((word.to_owned(), vec![])),
        }
        rest = after;
    }
    asked
}

/// The labels of a series, by its name on the page; `None` if there is no such series.
fn labels(series: &str) -> Option<BTreeSet<&'static str>> {
    let of = |family: &&Family| {
        let ending = series.strip_prefix(family.name);
        ending.is_some_and(|ending| family.kind.endings().contains(&ending))
    };
    let family = FAMILIES.iter().find(of)?;
    let bucket = series.ends_with("_bucket").then_some("le");
    Some(
        family
            .labels
            .iter()
            .copied()
            .chain(bucket)
            .chain(SCRAPED)
            .collect(),
    )
}

fn complaints(expression: &str, legend: &str) -> Vec<String> {
    let asked = asked(expression);
    let mut complaints = vec![];
    if asked.metrics.is_empty() {
        complaints.push("it asks for nothing".to_owned());
    }
    let shown = legend
        .split("{{")
        .skip(1)
        .filter_map(|part| part.split_once("}}"));
    let shown: Vec<String> = shown.map(|(label, _)| label.trim().to_owned()).collect();
    for (metric, chosen) in &asked.metrics {
        let Some(labels) = labels(metric) else {
            complaints.push(format!("there is no {metric}"));
            continue;
        };
        for label in chosen.iter().chain(&asked.by).chain(&shown) {
            if !labels.contains(label.as_str()) {
                complaints.push(format!("{metric} has no label {label}"));
            }
        }
    }
    let dropped = |label: &&String| !asked.by.is_empty() && !asked.by.contains(label);
    complaints.extend(
        shown
            .iter()
            .filter(dropped)
            .map(|label| format!("{label} is not kept")),
    );
    complaints
}

#[test]
fn every_panel_asks_for_metrics_and_labels_that_there_are() {
    let dashboard: serde_json::Value = serde_json::from_str(&read("docs/dashboard.json")).unwrap();
    let compose = read("docker-compose.yml");
    let mut wrong = vec![];
    let mut checked = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        let source = panel["datasource"]["uid"].as_str().unwrap();
        assert!(
            compose.contains(&format!("uid: {source},")),
            "there is no datasource {source}"
        );
        for target in panel["targets"].as_array().unwrap() {
            let text = |key: &str| target[key].as_str().unwrap();
            checked += 1;
            let found = complaints(text("expr"), text("legendFormat"));
            wrong.extend(found.iter().map(|found| format!("{}: {found}", panel["title"])));
        }
    }
    assert!(checked > 25, "only {checked} expressions were found");
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn an_expression_with_a_wrong_name_is_noticed() {
    let of = |expression: &str, legend: &str| complaints(expression, legend).join("; ");

    assert_eq!(
        of("sum by (tier) (rate(varve_fetch_bytes_total[5m]))", "{{tier}}"),
        ""
    );
    assert_eq!(
        of(
            r#"histogram_quantile(0.99, sum by (le) (rate(varve_request_seconds_bucket{request=~"a|b"}[1m])))"#,
            "p99"
        ),
        ""
    );
    assert_eq!(of("sum(varve_fetch_bytes)", ""), "there is no varve_fetch_bytes");
    assert_eq!(
        of("rate(varve_fetch_bytes_total{from=\"x\"}[5m])", ""),
        "varve_fetch_bytes_total has no label from"
    );
    assert_eq!(
        of("sum by (topic) (kafka_log_log_size)", "{{partition}}"),
        "partition is not kept"
    );
    assert_eq!(of("sum(1)", ""), "it asks for nothing");
}
