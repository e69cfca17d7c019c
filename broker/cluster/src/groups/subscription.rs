//! A look into what consumers send as their protocol metadata. It is theirs, not ours: whatever does not
//! read as a subscription is none.

/// The topics in a `ConsumerProtocolSubscription` of any version: they come first after the version.
#[must_use]
pub fn topics_of_subscription(metadata: &[u8]) -> Option<Vec<&str>> {
    let (_version, rest) = metadata.split_first_chunk::<2>()?;
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let count = usize::try_from(i32::from_be_bytes(*count)).ok()?;
    // Each topic takes two bytes at least: a count that lies cannot make us allocate.
    if count > rest.len() / 2 {
        return None;
    }
    let mut topics = Vec::with_capacity(count);
    for _ in 0..count {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let length = usize::try_from(i16::from_be_bytes(*length)).ok()?;
        let (name, after) = after.split_at_checked(length)?;
        topics.push(std::str::from_utf8(name).ok()?);
        rest = after;
    }
    Some(topics)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_read_and_anything_else_is_not() {
        let mut metadata = vec![0, 1, 0, 0, 0, 2, 0, 1, b'a', 0, 2, b'b', b'c', 9, 9];
        assert_eq!(topics_of_subscription(&metadata), Some(vec!["a", "bc"]));
        metadata.truncate(11);
        assert_eq!(topics_of_subscription(&metadata), None);
        assert_eq!(topics_of_subscription(&[0, 1, 0x7f, 0xff, 0xff, 0xff]), None);
        assert_eq!(topics_of_subscription(b"connect!"), None);
        assert_eq!(topics_of_subscription(&[]), None);
    }
}
