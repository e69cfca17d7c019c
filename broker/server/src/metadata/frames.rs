//! How metadata lies on disk: checksummed frames.
//!
//! ```text
//! length u32 · crc32c u32 · payload       (little endian; the checksum covers length and payload)
//! ```
//!
//! One frame is what one write carried and one sync made durable, so at most the last frame of a file can be
//! torn. A frame that does not read but has another behind it was whole once: that is corruption.

use crc_fast::CrcAlgorithm;

const HEADER_BYTES: usize = 8;
/// Larger than any state we write; a length above it is garbage.
const PAYLOAD_BYTES_MAX: usize = 1 << 30;

pub(super) fn encode(payload: &[u8]) -> std::io::Result<Vec<u8>> {
    let length = u32::try_from(payload.len())
        .ok()
        .filter(|_| payload.len() <= PAYLOAD_BYTES_MAX);
    let length = length.ok_or(std::io::ErrorKind::FileTooLarge)?.to_le_bytes();
    let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
    frame.extend_from_slice(&length);
    frame.extend_from_slice(&sum(length, payload).to_le_bytes());
    frame.extend_from_slice(payload);
    Ok(frame)
}

/// The payload of the frame at the start of `bytes`, and how many bytes the frame takes.
pub(super) fn decode(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (expected, rest) = rest.split_first_chunk::<4>()?;
    let bytes_long = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    // An empty frame is never written: a run of zeros is not a row of frames.
    if bytes_long == 0 || bytes_long > PAYLOAD_BYTES_MAX {
        return None;
    }
    let payload = rest.get(..bytes_long)?;
    (sum(*length, payload) == u32::from_le_bytes(*expected)).then_some((payload, HEADER_BYTES + bytes_long))
}

/// Whether a whole frame begins anywhere in `bytes`.
pub(super) fn any_in(bytes: &[u8]) -> bool {
    (0..bytes.len()).any(|at| decode(&bytes[at..]).is_some())
}

fn sum(length: [u8; 4], payload: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&length);
    digest.update(payload);
    u32::try_from(digest.finalize()).unwrap_or(0)
}

/// Only so that a file of ours is told from any other by its first bytes.
pub(super) const MAGIC: [u8; 8] = *b"VARVEMD1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_reads_as_written_and_nothing_else_does() {
        let frame = encode(b"{}").unwrap();
        assert_eq!(decode(&frame), Some((&b"{}"[..], frame.len())));
        assert_eq!(decode(&frame[..frame.len() - 1]), None);
        for at in 0..frame.len() {
            let mut bad = frame.clone();
            bad[at] ^= 1;
            assert_eq!(decode(&bad), None, "byte {at}");
        }
        assert_eq!(decode(&[0; 64]), None);
    }

    #[test]
    fn a_whole_frame_is_found_behind_garbage() {
        let mut bytes = vec![9; 13];
        assert!(!any_in(&bytes));
        bytes.extend(encode(b"x").unwrap());
        assert!(any_in(&bytes));
    }
}
