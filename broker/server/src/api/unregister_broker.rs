//! UnregisterBroker: a broker that is gone for good is taken out of the cluster. Partitions it was a replica of keep it
//! among their replicas until they are reassigned, but what it held counts no more.

use super::Caller;
use super::refusal::{Refusal, rehearse, told};
use crate::broker::Broker;
use crate::wire::ErrorCode;
use crate::wire::unregister_broker::{UnregisterBrokerRequest, UnregisterBrokerResponse};
use std::sync::Arc;
use varve_cluster::BrokerId;
use varve_cluster::controller::{Command, State};

pub(super) async fn handle(
    broker: &Arc<Broker>,
    _: &Caller,
    request: UnregisterBrokerRequest,
) -> UnregisterBrokerResponse {
    let done = match plan(&broker.view(), BrokerId::new(request.broker_id)) {
        Ok(command) => broker.propose(command).await.map(drop).map_err(Refusal::from),
        Err(refusal) => Err(refusal),
    };
    let (error_code, error_message) = told(&done);
    UnregisterBrokerResponse {
        error_code,
        error_message,
        ..Default::default()
    }
}

fn plan(view: &State, broker: BrokerId) -> Result<Command, Refusal> {
    if !view.brokers.contains_key(&broker) {
        return Err(Refusal::new(
            ErrorCode::BrokerIdNotRegistered,
            format!("Broker ID {broker} is not currently registered"),
        ));
    }
    let command = Command::UnregisterBroker { broker };
    rehearse(view, &command)?;
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::super::test_cluster::{add_broker, with_replicas};
    use super::*;

    #[test]
    fn only_who_is_registered_can_be_taken_out() {
        let mut view = with_replicas("orders", &[1, 2]);
        let command = plan(&view, BrokerId::new(2)).unwrap();
        view.apply(view.applied + 1, &command).unwrap();

        let again = plan(&view, BrokerId::new(2)).unwrap_err();
        assert_eq!(again.error, ErrorCode::BrokerIdNotRegistered);
        let partition = view.topic_named("orders").unwrap().partition(0).unwrap();
        assert_eq!(partition.isr, [BrokerId::new(1)]);
        add_broker(&mut view, 2, 22);
        assert!(plan(&view, BrokerId::new(2)).is_ok(), "it may come back");
    }
}
