//! Kafka's wire format: what arrives on a socket becomes typed messages here, and answers become bytes.
//!
//! Promises: no input makes a decoder panic, and none makes it allocate more than the frame itself could
//! justify. Records are neither copied nor opened: in a request they are slices of the frame, in a response
//! they stay where they are (memory or file) until the socket takes them.
//!
//! Each API has a module here (`wire::fetch::FetchRequest`, `wire::fetch::response::PartitionData`),
//! generated from Kafka's schemas in `schemas/` by `tests/src/bin/gen_wire`.
//! Which versions are spoken is decided in `versions`, not by the schemas.

pub mod error_code;
pub mod frame;
mod generated;
pub mod message;
pub mod prim;
pub mod records;
pub mod versions;

pub use error_code::ErrorCode;
pub use frame::{RequestHeader, decode_header, decode_request, encode_response};
pub use generated::*;
pub use message::Error;
pub use records::{Part, Records};
pub use versions::Api;
