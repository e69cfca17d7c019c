//! The page where tests read the counts and change the link. One request a connection, answered in turn.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use anyhow::{Context as _, bail};

use crate::counts::Counts;
use crate::shape::{Fault, FaultPlan, Shape};

pub(crate) fn serve(address: SocketAddr, shape: Arc<Shape>, counts: Arc<Counts>) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)?;
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            // A client that leaves early hurts nobody but itself.
            let _ = answer(&client, &shape, &counts);
        }
    });
    Ok(())
}

fn answer(mut client: &TcpStream, shape: &Shape, counts: &Counts) -> anyhow::Result<()> {
    let mut lines = BufReader::new(client).lines();
    let start = lines.next().context("no request")??;
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let target = start.split(' ').nth(1).context("no target")?;
    let (status, body) = match carry_out(target, shape, counts) {
        Ok(body) => ("200 OK", body),
        Err(error) => (
            "400 Bad Request",
            format!("{{\"error\":{:?}}}", error.to_string()),
        ),
    };
    let length = body.len() + 1;
    Ok(write!(
        client,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}\n"
    )?)
}

fn carry_out(target: &str, shape: &Shape, counts: &Counts) -> anyhow::Result<String> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut asked: BTreeMap<&str, &str> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
    match path {
        "/counts" => Ok(serde_json::to_string(&counts.so_far())?),
        "/reset" => Ok(serde_json::to_string(&counts.reset())?),
        "/set" => {
            for (name, value) in asked {
                shape.set(name, value.parse().context("a whole number is wanted")?)?;
            }
            Ok("{}".to_owned())
        }
        "/fault" => {
            let fault = Fault::named(asked.remove("kind").context("kind= is missing")?)?;
            let number = |text: Option<&str>, default: u64| text.map_or(Ok(default), str::parse);
            let plan = fault.map(|fault| {
                anyhow::Ok(FaultPlan {
                    fault,
                    method: asked.remove("method").map(str::to_owned),
                    every: number(asked.remove("every"), 1)?,
                    times: number(asked.remove("times"), u64::MAX)?,
                    seen: 0,
                })
            });
            let plan = plan.transpose()?;
            if let Some(unknown) = asked.keys().next() {
                bail!("no such setting: {unknown}");
            }
            let said = serde_json::to_string(&plan)?;
            shape.plan_fault(plan);
            Ok(said)
        }
        other => bail!("no such page: {other}"),
    }
}
