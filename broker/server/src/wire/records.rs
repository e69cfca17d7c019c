//! The type of a schema field called "records": record batches that are carried, not read.

use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

/// A file that a response sends from.
pub type FileHandle = Arc<dyn varve_log::DiskFile>;

/// A run of bytes on its way to a socket.
#[derive(Clone)]
pub enum Part {
    Memory(Bytes),
    File {
        file: FileHandle,
        position: u64,
        len: usize,
    },
}

/// Record batches, wherever their bytes are at the moment, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Records {
    pub parts: Vec<Part>,
}

impl Records {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn len(&self) -> usize {
        self.parts.iter().map(Part::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.parts.iter().all(Part::is_empty)
    }

    /// All bytes as one run: free of a copy when there is one part, as in every decoded request.
    /// None if a part lies in a file.
    pub fn into_bytes(mut self) -> Option<Bytes> {
        if self.parts.len() == 1 {
            return self.parts.pop().and_then(Part::into_memory);
        }
        let mut joined = BytesMut::with_capacity(self.len());
        for part in self.parts {
            joined.extend_from_slice(&part.into_memory()?);
        }
        Some(joined.freeze())
    }
}

impl From<Bytes> for Records {
    fn from(bytes: Bytes) -> Self {
        Self {
            parts: vec![Part::Memory(bytes)],
        }
    }
}

impl Part {
    pub fn len(&self) -> usize {
        match self {
            Self::Memory(bytes) => bytes.len(),
            Self::File { len, .. } => *len,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn into_memory(self) -> Option<Bytes> {
        match self {
            Self::Memory(bytes) => Some(bytes),
            Self::File { .. } => None,
        }
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(bytes) => write!(f, "{} bytes in memory", bytes.len()),
            Self::File { position, len, .. } => write!(f, "{len} bytes in a file at {position}"),
        }
    }
}

impl From<varve_log::Slice> for Part {
    fn from(slice: varve_log::Slice) -> Self {
        Self::File {
            file: slice.file,
            position: slice.position,
            len: slice.len,
        }
    }
}

impl PartialEq for Part {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Memory(a), Self::Memory(b)) => a == b,
            (
                Self::File {
                    file: a,
                    position: at_a,
                    len: len_a,
                },
                Self::File {
                    file: b,
                    position: at_b,
                    len: len_b,
                },
            ) => Arc::ptr_eq(a, b) && at_a == at_b && len_a == len_b,
            (Self::Memory(_), Self::File { .. }) | (Self::File { .. }, Self::Memory(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_one_part_are_handed_out_without_a_copy() {
        let bytes = Bytes::from(vec![7; 100]);
        let address = bytes.as_ptr();

        assert_eq!(Records::from(bytes).into_bytes().unwrap().as_ptr(), address);
    }

    #[test]
    fn records_of_several_parts_are_joined_in_order() {
        let parts = vec![
            Part::Memory(Bytes::from_static(b"ab")),
            Part::Memory(Bytes::from_static(b"c")),
        ];

        assert_eq!(Records { parts }.into_bytes().unwrap(), "abc");
    }
}
