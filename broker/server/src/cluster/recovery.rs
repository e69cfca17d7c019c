//! When nobody is left who surely holds everything committed, the logs themselves are asked, and the most complete one
//! leads (KIP-966): after all brokers have gone at once, or where a topic allows unclean elections.
//!
//! With `varve.flush=group` the replicas last known to hold everything include one that has it on its disk, whatever went
//! with the power. With `os` this is what Kafka does, but for looking at all of their logs instead of trusting the leader's.

use varve_cluster::controller::command::ElectUnclean;
use varve_cluster::controller::unclean::waiting;
use varve_cluster::controller::{Command, State};

use super::Membership;

/// Looked at in one turn; the others have theirs next.
const AT_ONCE: usize = 1_000;

/// One look by the quorum's leader.
pub(super) async fn look(member: &Membership, state: &State) {
    let leaderless: Vec<_> = waiting(state, true).take(AT_ONCE).collect();
    let asked = leaderless
        .iter()
        .map(|one| ((one.topic.id, one.index), one.ask.clone()));
    let mut logs = member.logs(asked.collect::<Vec<_>>()).await;
    for one in leaderless {
        let logs = logs.remove(&(one.topic.id, one.index)).unwrap_or_default();
        if logs.len() < one.ask.len() {
            continue;
        }
        tracing::warn!(topic = %one.topic.name, partition = one.index, ?logs, "no replica surely holds everything: the most complete log leads");
        member.propose_aside(Command::ElectUnclean(ElectUnclean {
            topic_id: one.topic.id,
            partition: one.index,
            partition_epoch: one.partition.partition_epoch,
            logs,
            warrant: one.warrant,
        }));
    }
}
