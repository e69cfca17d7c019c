//! The HTTP listener: `/metrics`, `/health/live`, `/health/ready`, `/tier`.

use crate::broker::Broker;
use anyhow::Context as _;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use std::net::{TcpListener, ToSocketAddrs};
use std::sync::Arc;
use tokio::sync::watch;

/// Takes the port, before anything else is started.
pub(crate) fn bind(listener: &str) -> anyhow::Result<TcpListener> {
    let address = listener
        .to_socket_addrs()
        .ok()
        .and_then(|mut found| found.next())
        .with_context(|| {
            format!("not an address: write host:port or none. varve.http.listener={listener}")
        })?;
    let socket = TcpListener::bind(address).with_context(|| {
        format!("the address cannot be taken: stop what holds it or choose another port. varve.http.listener={listener}")
    })?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Serves until the node stops.
pub(crate) async fn serve(broker: Arc<Broker>, socket: TcpListener, mut stopped: watch::Receiver<bool>) {
    let pages = Router::new()
        .route("/metrics", get(metrics))
        .route("/health/live", get(async || "live\n"))
        .route("/health/ready", get(ready))
        .route("/tier", get(tier))
        .with_state(broker);
    let serving = async {
        let socket = tokio::net::TcpListener::from_std(socket)?;
        let stop = async move {
            // Its sender lives as long as the node.
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        axum::serve(socket, pages).with_graceful_shutdown(stop).await
    };
    if let Err(error) = serving.await {
        tracing::error!(%error, "the HTTP listener has stopped");
    }
}

async fn metrics(State(broker): State<Arc<Broker>>) -> Response {
    let text = crate::exposition::text(&broker);
    (
        [(
            header::CONTENT_TYPE,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        )],
        text,
    )
        .into_response()
}

/// Ready: the groups this broker coordinates are loaded, so no client is sent away.
async fn ready(State(broker): State<Arc<Broker>>) -> Response {
    let view = broker.view();
    let me = view.brokers.get(&broker.id());
    let missing = if !me.is_some_and(|me| me.is_active() && me.epoch == broker.epoch) {
        "the controller has not let this broker in yet\n"
    } else if !broker.groups.loaded() {
        "consumer groups are being loaded\n"
    } else {
        return "ready\n".into_response();
    };
    (StatusCode::SERVICE_UNAVAILABLE, missing).into_response()
}

/// Where each partition's log begins and ends, from left to right.
async fn tier(State(broker): State<Arc<Broker>>) -> Json<Vec<serde_json::Value>> {
    let mut partitions = broker.partitions.all();
    partitions.sort_by(|a, b| a.id.cmp(&b.id));
    Json(partitions.iter().map(|partition| describe(partition)).collect())
}

fn describe(partition: &crate::partition::Partition) -> serde_json::Value {
    let offsets = partition.offsets();
    let tier = partition.tier();
    serde_json::json!({
        "topic": partition.id.topic.as_str(),
        "partition": partition.id.index,
        "log_start": offsets.log_start.value(),
        "local_start": offsets.local_start.value(),
        "tier_end": tier.as_ref().map(|tier| tier.end.value()),
        "high_watermark": offsets.high_watermark.value(),
        "log_end": offsets.log_end.value(),
        "tier_bytes": tier.as_ref().map_or(0, |tier| tier.bytes),
        "tier_manifest": tier.as_ref().map(|tier| tier.manifest_key.clone()),
    })
}
