//! InitProducerId: a number nobody has had before, for a producer that wants its retries recognised (KIP-98, KIP-360).

use super::Caller;
use crate::broker::Broker;
use crate::wire::ErrorCode;
use crate::wire::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};
use std::sync::Arc;

pub(super) async fn handle(
    broker: &Arc<Broker>,
    _: &Caller,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    if request.transactional_id.is_some() {
        // Transactions are not served: the coordinator that would own this id does not exist.
        return refused(ErrorCode::TransactionalIdAuthorizationFailed);
    }
    // A producer that lost track of its sequences goes on under its own id with the next epoch; the last epoch
    // there is means a new id (KIP-360).
    if request.producer_id >= 0 && (0..i16::MAX - 1).contains(&request.producer_epoch) {
        return granted(request.producer_id, request.producer_epoch + 1);
    }
    match broker.producer_ids.next(broker).await {
        Ok(id) => granted(id, 0),
        Err(error) => {
            tracing::warn!(%error, "no producer id could be had");
            refused(ErrorCode::CoordinatorNotAvailable)
        }
    }
}

fn granted(producer_id: i64, producer_epoch: i16) -> InitProducerIdResponse {
    InitProducerIdResponse {
        producer_id,
        producer_epoch,
        ..Default::default()
    }
}

fn refused(error: ErrorCode) -> InitProducerIdResponse {
    InitProducerIdResponse {
        error_code: error.code(),
        producer_id: -1,
        producer_epoch: -1,
        ..Default::default()
    }
}
