//! The in-sync replicas of what this broker leads: asked of the controller when a follower has caught up or fallen
//! behind (AlterPartition, KIP-497).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use varve_cluster::controller::Command;
use varve_cluster::controller::command::{AlterPartition, IsrMember};
use varve_cluster::replica::{IsrAnswer, IsrChange};
use varve_cluster::{BrokerEpoch, BrokerId};

use crate::broker::Broker;
use crate::metadata::ProposeError;
use crate::partition::Partition;

/// How often followers are looked at.
const INTERVAL: Duration = Duration::from_millis(200);

/// Runs until the node stops.
pub(crate) async fn run(broker: Arc<Broker>, mut stopped: watch::Receiver<bool>) {
    loop {
        let view = broker.view();
        let eligible = |id: BrokerId, epoch: BrokerEpoch| {
            view.brokers
                .get(&id)
                .is_some_and(|other| other.is_active() && other.epoch == epoch)
        };
        for partition in broker.partitions.all() {
            if let Some(change) = partition.isr_change(broker.clock.now(), eligible) {
                tokio::spawn(ask(Arc::clone(&broker), partition, change));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            _ = stopped.wait_for(|stop| *stop) => return,
        }
    }
}

async fn ask(broker: Arc<Broker>, partition: Arc<Partition>, change: IsrChange) {
    let member = |(id, epoch): &(BrokerId, Option<BrokerEpoch>)| IsrMember {
        broker: *id,
        epoch: epoch.unwrap_or(broker.epoch),
    };
    let alter = AlterPartition {
        topic_id: partition.id.topic_id,
        partition: partition.id.index,
        broker: broker.id(),
        broker_epoch: broker.epoch,
        leader_epoch: change.leader_epoch,
        partition_epoch: change.partition_epoch,
        isr: change.isr.iter().map(member).collect(),
        recovering: false,
    };
    let answer = match broker.propose(Command::AlterPartition(alter)).await {
        Ok(_) => IsrAnswer::SeeMetadata,
        Err(ProposeError::Rejected(varve_cluster::controller::Rejected::Ineligible { .. })) => {
            IsrAnswer::Refused
        }
        Err(ProposeError::Rejected(_)) => IsrAnswer::SeeMetadata,
        Err(ProposeError::NotApplied(_)) => IsrAnswer::Refused,
        Err(ProposeError::Unknown(_)) => IsrAnswer::Unknown,
    };
    partition.isr_answered(&change, answer);
}
