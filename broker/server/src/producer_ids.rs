//! Hands out producer ids from blocks that the metadata quorum gives this broker; what is left of a block at a
//! restart is never used.

use crate::broker::Broker;
use crate::metadata::ProposeError;
use std::ops::Range;
use tokio::sync::Mutex;
use varve_cluster::controller::{Command, Outcome};

/// Ids in a block, as in Apache Kafka.
const BLOCK: u32 = 1000;

/// See the module's first line.
#[derive(Debug, Default)]
pub(crate) struct ProducerIds(Mutex<Range<i64>>);

impl ProducerIds {
    /// The next id; asks for a block when the last one is used up.
    pub(crate) async fn next(&self, broker: &Broker) -> Result<i64, ProposeError> {
        let mut block = self.0.lock().await;
        if let Some(id) = block.next() {
            return Ok(id);
        }
        let ask = Command::AllocateProducerIds {
            broker: broker.id(),
            epoch: broker.epoch,
            count: BLOCK,
        };
        match broker.metadata.propose(ask).await? {
            Outcome::ProducerIds { first, count } => *block = first..first + i64::from(count),
            other => unreachable!("producer ids were asked for, the answer was {other:?}"),
        }
        Ok(block
            .next()
            .unwrap_or_else(|| unreachable!("a block has {BLOCK} ids")))
    }
}
