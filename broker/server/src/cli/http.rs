//! One page of a node's HTTP listener: `/tier`, `/metrics`. Plain HTTP, small answers, nothing else.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context as _, bail};

/// No page of a node is larger.
const PAGE_BYTES_MAX: u64 = 64 << 20;
const WAIT: Duration = Duration::from_secs(10);

/// The body of `path` at `base`, which is `http://host:port` or `host:port`.
pub(super) fn get(base: &str, path: &str) -> anyhow::Result<String> {
    let address = base.trim_end_matches('/').trim_start_matches("http://");
    let answer = ask(address, path).with_context(|| {
        format!("no page at http://{address}{path}: check the address, it is the node's varve.http.listener")
    })?;
    let (head, body) = answer.split_once("\r\n\r\n").context("not an HTTP answer")?;
    match head.split_whitespace().nth(1) {
        Some("200") => Ok(body.to_owned()),
        Some(status) => bail!("http://{address}{path} answers with status {status}"),
        None => bail!("what listens at {address} does not speak HTTP"),
    }
}

fn ask(address: &str, path: &str) -> anyhow::Result<String> {
    let socket = address
        .to_socket_addrs()?
        .next()
        .context("the name resolves to no address")?;
    let mut stream = TcpStream::connect_timeout(&socket, WAIT)?;
    stream.set_read_timeout(Some(WAIT))?;
    // Version 1.0: the answer ends with the connection and is never cut into chunks.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(PAGE_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

/// The sum of a counter's samples whose labels contain `labels`, such as `tier="bucket"`.
pub(super) fn counter(page: &str, name: &str, labels: &str) -> Option<u64> {
    let sample = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, of) = series.split_once('{').unwrap_or((series, ""));
        (found == name && of.contains(labels)).then(|| value.parse::<u64>().ok())?
    };
    page.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(sample)
        .reduce(|sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# TYPE x counter\nx_total{tier=\"local\"} 5\nx_total{tier=\"bucket\"} 7\ny 1\nx 9\n";

    #[test]
    fn samples_are_picked_by_whole_name_and_label() {
        assert_eq!(counter(PAGE, "x_total", "tier=\"bucket\""), Some(7));
        assert_eq!(counter(PAGE, "x_total", ""), Some(12));
        assert_eq!(counter(PAGE, "y", ""), Some(1));
        assert_eq!(counter(PAGE, "z", ""), None);
    }
}
