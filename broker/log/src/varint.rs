//! The zig-zag variable-length integers inside a record.

use crate::batch::BatchError;
use bytes::{Buf, Bytes};

pub(crate) fn put(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    loop {
        let [low, ..] = rest.to_le_bytes();
        rest >>= 7;
        if rest == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

/// As many as 64 bits need.
pub(crate) const BYTES_MAX: usize = 10;

/// At most [`BYTES_MAX`] bytes.
pub(crate) fn take(from: &mut Bytes) -> Result<i64, BatchError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        if !from.has_remaining() {
            return Err(BatchError::Corrupt("record ends inside a number"));
        }
        let byte = from.get_u8();
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()));
        }
    }
    Err(BatchError::Corrupt("number is longer than ten bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_put_is_taken(value: i64) {
            let mut out = Vec::new();
            put(&mut out, value);
            prop_assert_eq!(take(&mut out.into()), Ok(value));
        }
    }
}
