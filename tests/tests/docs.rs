//! What the documents say is true of this tree: the files, functions, keys, metrics and commands they name exist.
//! `VARVE_BLESS=1` writes the generated pages anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use varve_cluster::topic_config;
use varve_server::config::keys;
use varve_server::exposition::{FAMILIES, Family, Kind};
use varve_tests::source::{self, root};

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{} cannot be read: {e}", path.display()))
}

/// Fails with all complaints at once.
fn nothing_in(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// Every page there is, by its path from the root.
fn pages() -> Vec<(PathBuf, String)> {
    let root = root();
    let mut found = source::files(&root.join("docs"), &[".md"]);
    found.push(root.join("README.md"));
    found
        .into_iter()
        .map(|path| {
            (
                path.strip_prefix(&root).expect("found below the root").to_owned(),
                read(&path),
            )
        })
        .collect()
}

/// The text between single backticks, with the number of its line; fenced code is left out.
fn quoted(page: &str) -> Vec<(usize, &str)> {
    let mut found = vec![];
    let mut fenced = false;
    for (number, line) in (1..).zip(page.lines()) {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            found.extend(line.split('`').skip(1).step_by(2).map(|text| (number, text)));
        }
    }
    found
}

/// The commands in a page's `sh` blocks: continued lines joined, prompts and comments off.
fn commands(page: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = vec![];
    let (mut shell, mut continued) = (false, false);
    for (number, line) in (1..).zip(page.lines()) {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            (shell, continued) = (language == "sh", false);
            continue;
        }
        if !shell {
            continue;
        }
        let (text, goes_on) = line.strip_suffix('\\').map_or((line, false), |text| (text, true));
        match found.last_mut().filter(|_| continued) {
            Some((_, command)) => command.push_str(text),
            None => found.push((number, text.to_owned())),
        }
        continued = goes_on;
    }
    found
}

#[test]
fn files_and_functions_named_in_the_documents_exist() {
    let mut complaints = vec![];
    let mut checked = 0;
    for (page, text) in pages() {
        for (line, name) in quoted(&text) {
            let (file, function) = name
                .split_once("::")
                .map_or((name, None), |(file, rest)| (file, Some(rest)));
            if !file.contains('/') || ![".rs", ".py"].iter().any(|ending| file.ends_with(ending)) {
                continue;
            }
            checked += 1;
            let Ok(code) = std::fs::read_to_string(root().join(file)) else {
                complaints.push(format!("{}:{line}: no such file: {file}", page.display()));
                continue;
            };
            let Some(last) = function.and_then(|function| function.rsplit("::").next()) else {
                continue;
            };
            let defined = ["fn", "struct", "enum", "trait", "const", "type", "static"];
            let found = |keyword: &&str| {
                code.match_indices(&format!("{keyword} {last}"))
                    .any(|(at, found)| {
                        !code[at + found.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_')
                    })
            };
            if !defined.iter().any(found) {
                complaints.push(format!("{}:{line}: {file} has no {last}", page.display()));
            }
        }
    }
    assert!(
        checked > 50,
        "only {checked} names were found: is docs/architecture.md still written with `path/file.rs::function`?"
    );
    nothing_in(complaints);
}

/// GitHub's anchors of a page's headings.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        text.chars()
            .filter(|c| c.is_alphanumeric() || "-_ ".contains(*c))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut complaints = vec![];
    for (page, text) in pages() {
        let targets = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split_once(')'))
            .map(|(target, _)| target);
        for target in targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:")) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() {
                page.clone()
            } else {
                page.parent().unwrap().join(file)
            };
            let place = root().join(&path);
            if !place.exists() {
                complaints.push(format!("{}: nothing at {target}", page.display()));
            } else if !anchor.is_empty() && !anchors(&read(&place)).contains(anchor) {
                complaints.push(format!(
                    "{}: {} has no heading #{anchor}",
                    page.display(),
                    path.display()
                ));
            }
        }
    }
    nothing_in(complaints);
}

/// Writes the page if asked to; otherwise it must be what would be written.
fn current(path: &str, expected: &str) {
    let place = root().join(path);
    if std::env::var_os("VARVE_BLESS").is_some() {
        std::fs::write(&place, expected).expect("the page can be written");
    }
    let is = std::fs::read_to_string(&place).unwrap_or_default();
    assert!(
        is == expected,
        "{path} is not current: VARVE_BLESS=1 cargo test --workspace --test docs"
    );
}

/// A cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

fn broker_kind(kind: keys::Kind) -> &'static str {
    match kind {
        keys::Kind::Boolean => "boolean",
        keys::Kind::String => "string",
        keys::Kind::Int => "int",
        keys::Kind::Long => "long",
        keys::Kind::List => "list",
    }
}

fn topic_kind(kind: topic_config::Kind) -> &'static str {
    match kind {
        topic_config::Kind::Boolean => "boolean",
        topic_config::Kind::String => "string",
        topic_config::Kind::Int => "int",
        topic_config::Kind::Long => "long",
        topic_config::Kind::List => "list",
    }
}

fn code(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!("`{text}`")
    }
}

#[test]
fn the_page_of_keys_is_current() {
    let mut page = String::from(
        "# Configuration\n\n<!-- Generated: VARVE_BLESS=1 cargo test --workspace --test docs -->\n\n\
         `varve server --config server.properties [KEY=VALUE…]`: flags win over the environment, the environment over the\n\
         file, the file over the defaults below. A key that is unknown, or that would have no effect, is refused by name.\n\
         In the environment a key is upper case with `_` for dots; Kafka's keys begin with `KAFKA_`, Varve's own do not:\n\
         `num.partitions` is `KAFKA_NUM_PARTITIONS`, `varve.bucket` is `VARVE_BUCKET`.\n\n\
         ## The broker\n\n| key | type | default | meaning |\n|---|---|---|---|\n",
    );
    for key in keys::KEYS {
        let default = key.default.map(code).unwrap_or_default();
        let _ = writeln!(
            page,
            "| `{}` | {} | {default} | {} |",
            key.name,
            broker_kind(key.kind),
            cell(key.doc)
        );
    }
    page.push_str(
        "\n## Topics\n\nSet when a topic is created or later with `varve topic`, `kafka-configs` or any admin client. A topic that does not\n\
         set a key takes the broker's value for the key in the third column, which may stand in `server.properties`, and\n\
         the default after that.\n\n| key | type | broker key | default | meaning |\n|---|---|---|---|---|\n",
    );
    for key in topic_config::KEYS.iter().filter(|key| !key.hidden) {
        let synonyms: Vec<String> = key.synonyms.iter().map(|synonym| code(synonym.name)).collect();
        let (kind, synonyms, default) = (topic_kind(key.kind), synonyms.join(", "), code(key.default));
        let _ = writeln!(
            page,
            "| `{}` | {kind} | {synonyms} | {default} | {} |",
            key.name,
            cell(key.doc)
        );
    }
    current("docs/configuration.md", &page);
}

#[test]
fn the_page_of_metrics_is_current() {
    let mut page = String::from(
        "# Metrics\n\n<!-- Generated: VARVE_BLESS=1 cargo test --workspace --test docs -->\n\n\
         `http://<varve.http.listener>/metrics`, in the OpenMetrics text format. Names that dashboards for Apache Kafka know\n\
         (as the Prometheus JMX exporter spells them) are kept; Varve's own begin with `varve_`.\n\n\
         A histogram's samples end in `_bucket`, `_sum` and `_count`. [dashboard.json](dashboard.json) is a dashboard of them for Grafana.\n\n\
         | metric | type | labels | meaning |\n|---|---|---|---|\n",
    );
    for family in FAMILIES {
        let (end, kind) = match family.kind {
            Kind::Counter => ("_total", "counter"),
            Kind::Gauge => ("", "gauge"),
            Kind::Histogram => ("", "histogram"),
        };
        let labels: Vec<_> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(
            page,
            "| `{}{end}` | {kind} | {} | {} |",
            family.name,
            labels.join(", "),
            cell(family.help)
        );
    }
    current("docs/metrics.md", &page);
}

/// A key of the configuration, or a property of our tables.
fn is_known(name: &str) -> bool {
    let property =
        |name: &str| read(&root().join("lakehouse-sink/src/progress.rs")).contains(&format!("\"{name}\""));
    keys::find(name).is_some()
        || topic_config::find(name).is_some()
        || topic_config::broker_default_keys().any(|key| key == name)
        || property(name)
}

/// A family or one of its series.
fn is_of(family: &Family, name: &str) -> bool {
    let ending = name.strip_prefix(family.name);
    ending.is_some_and(|ending| ending.is_empty() || family.kind.endings().contains(&ending))
}

#[test]
fn keys_and_metrics_named_in_the_documents_exist() {
    let mut complaints = vec![];
    for (page, text) in pages() {
        for (line, name) in quoted(&text) {
            let name = name.split(['=', ' ']).next().unwrap_or_default();
            let wrong = if name.starts_with("varve.") && !name.ends_with('*') {
                !is_known(name)
            } else if name.starts_with("varve_") && name != "varve_" {
                !FAMILIES.iter().any(|family| is_of(family, name)) && !name.contains("::")
            } else {
                false
            };
            if wrong {
                complaints.push(format!("{}:{line}: there is no {name}", page.display()));
            }
        }
    }
    nothing_in(complaints);
}

/// The words of a simple command, quotes taken off; what follows `|`, `>`, `<` or `#` is not ours.
fn words(command: &str) -> Vec<String> {
    let mut found = vec![];
    let (mut word, mut quote, mut begun) = (String::new(), None, false);
    for c in command.chars() {
        match (c, quote) {
            (c, Some(q)) if c == q => quote = None,
            (c, Some(_)) => word.push(c),
            ('\'' | '"', None) => (quote, begun) = (Some(c), true),
            ('|' | '>' | '<' | '#' | '&', None) if !begun => break,
            (c, None) if c.is_whitespace() => {
                if begun {
                    found.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            (c, None) => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        found.push(word);
    }
    found
}

#[test]
fn commands_in_the_documents_are_understood() {
    let mut complaints = vec![];
    let mut checked = 0;
    for (page, text) in pages() {
        for (line, command) in commands(&text) {
            for part in command.split(" | ") {
                let words = words(part);
                let ours = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                    ["varve", ..] => &words[1..],
                    ["cargo", "run", "--release", "--", ..] => &words[4..],
                    _ => continue,
                };
                checked += 1;
                if let Err(error) = varve_server::cli::check(ours) {
                    complaints.push(format!("{}:{line}: `{part}`: {error}", page.display()));
                }
            }
        }
    }
    assert!(checked > 5, "only {checked} commands were found");
    nothing_in(complaints);
}
