//! What turns a generated structure into a Kafka message: its versions, its header, and the public traits of
//! the `kafka-protocol` crate, so that our messages fit wherever the crate's do.

use std::ops::RangeInclusive;

use bytes::Buf;
use kafka_protocol::protocol::buf::{ByteBuf, ByteBufMut};

use super::prim::{Reader, Version, Wire, Writer};
use super::records::Part;

/// A frame that cannot be answered. The connection it came from is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the message is malformed: {0}")]
    Malformed(&'static str),
    #[error("the API or its version is not served. api_key={api_key}, version={version}")]
    Unsupported { api_key: i16, version: i16 },
}

/// A request or response body, in any of its versions.
pub trait Body: Wire {
    const API_KEY: i16;
    const SCHEMA_VERSIONS: RangeInclusive<i16>;

    fn version(number: i16) -> Version;
}

pub(super) fn encode<M: Body, B: ByteBufMut>(message: &M, to: &mut B, number: i16) -> anyhow::Result<()> {
    for part in written::<M>(message, number)?.into_parts() {
        match part {
            Part::Memory(bytes) => to.put_slice(&bytes),
            Part::File { .. } => anyhow::bail!("records in a file go to a socket, not into a buffer"),
        }
    }
    Ok(())
}

pub(super) fn encoded_len<M: Body>(message: &M, number: i16) -> anyhow::Result<usize> {
    Ok(written::<M>(message, number)?.len())
}

fn written<M: Body>(message: &M, number: i16) -> anyhow::Result<Writer> {
    anyhow::ensure!(
        M::SCHEMA_VERSIONS.contains(&number),
        "no such version. version={number}"
    );
    let mut writer = Writer::default();
    message.put(&mut writer, M::version(number));
    Ok(writer)
}

/// Takes the message from the front of `from` and leaves what follows it.
pub(super) fn decode<M: Body, B: ByteBuf>(from: &mut B, number: i16) -> Result<M, Error> {
    if !M::SCHEMA_VERSIONS.contains(&number) {
        return Err(Error::Unsupported {
            api_key: M::API_KEY,
            version: number,
        });
    }
    let len = from.remaining();
    let mut reader = Reader::new(from.peek_bytes(0..len));
    let message = M::get(&mut reader, M::version(number))?;
    from.advance(len - reader.remaining());
    Ok(message)
}

/// Makes a message of a generated structure.
macro_rules! message {
    ($name:ident, key $key:expr, versions $min:literal..=$max:literal, flexible from $flexible:expr, header $header:expr) => {
        impl $crate::wire::message::Body for $name {
            const API_KEY: i16 = $key;
            const SCHEMA_VERSIONS: std::ops::RangeInclusive<i16> = $min..=$max;

            fn version(number: i16) -> $crate::wire::prim::Version {
                $crate::wire::prim::Version {
                    number,
                    flexible: number >= $flexible,
                }
            }
        }

        impl kafka_protocol::protocol::Message for $name {
            const VERSIONS: kafka_protocol::protocol::VersionRange = kafka_protocol::protocol::VersionRange {
                min: $min,
                max: $max,
            };
            const DEPRECATED_VERSIONS: Option<kafka_protocol::protocol::VersionRange> = None;
        }

        impl kafka_protocol::protocol::HeaderVersion for $name {
            fn header_version(version: i16) -> i16 {
                let [classic, flexible] = $header;
                if version >= $flexible {
                    flexible
                } else {
                    classic
                }
            }
        }

        impl kafka_protocol::protocol::Encodable for $name {
            fn encode<B: kafka_protocol::protocol::buf::ByteBufMut>(
                &self,
                to: &mut B,
                version: i16,
            ) -> anyhow::Result<()> {
                $crate::wire::message::encode(self, to, version)
            }

            fn compute_size(&self, version: i16) -> anyhow::Result<usize> {
                $crate::wire::message::encoded_len(self, version)
            }
        }

        impl kafka_protocol::protocol::Decodable for $name {
            fn decode<B: kafka_protocol::protocol::buf::ByteBuf>(
                from: &mut B,
                version: i16,
            ) -> anyhow::Result<Self> {
                Ok($crate::wire::message::decode(from, version)?)
            }
        }
    };
}
pub(super) use message;

/// Ties a request to its response.
macro_rules! request {
    ($request:ident => $response:ident, key $key:literal) => {
        impl kafka_protocol::protocol::Request for $request {
            const KEY: i16 = $key;
            type Response = $response;
        }
    };
}
pub(super) use request;
