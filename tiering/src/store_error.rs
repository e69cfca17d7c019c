//! What went wrong with an object store, in terms of what to do about it.

use object_store::client::{HttpError, HttpErrorKind};

/// S3's name for a bucket that is not there.
pub(crate) const NO_SUCH_BUCKET: &str = "NoSuchBucket";

/// By what the caller does next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Nothing changed. Trying again is safe.
    #[error("{0}")]
    NotApplied(Cause),
    /// It may have happened. Look before trying again.
    #[error("outcome is unknown: {0}")]
    Unknown(Cause),
    /// Not there. Never the end of anything: who asked has old metadata, or data is lost.
    #[error("object does not exist. key={key}")]
    Missing { key: String },
    /// What came back is not what was stored. Not retried further.
    #[error("{reason}. key={key}")]
    Corrupt { key: String, reason: &'static str },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Cause {
    pub kind: CauseKind,
    /// S3's own name for it, if the server sent one.
    pub code: Option<String>,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CauseKind {
    /// Too many requests, an error of the server's own, or no answer in time.
    Busy,
    /// No connection.
    Unreachable,
    /// The server knows us and says no, or does not know us. Asking again will not help.
    Refused,
    Other,
}

/// What goes wrong below.
pub(crate) enum Fault {
    Store(object_store::Error),
    Slow,
}

impl Fault {
    fn code(&self) -> Option<String> {
        match self {
            Self::Store(error) => s3_code(&error.to_string()),
            Self::Slow => None,
        }
    }

    pub(crate) fn text(&self) -> String {
        match self {
            Self::Store(error) => one_line(error),
            Self::Slow => "no answer in time".to_owned(),
        }
    }
}

pub(crate) fn slow() -> object_store::Error {
    object_store::Error::Generic {
        store: "object store",
        source: "no answer in time".into(),
    }
}

/// Reading changes nothing: whatever went wrong, it may be tried again.
pub(crate) fn for_read(key: &str, fault: Fault) -> StoreError {
    match classify(key, fault) {
        StoreError::Unknown(cause) => StoreError::NotApplied(cause),
        other => other,
    }
}

pub(crate) fn for_write(key: &str, fault: Fault) -> StoreError {
    let (code, said) = (fault.code(), fault.text());
    match classify(key, fault) {
        // There is nothing to miss when writing but the bucket, or whom the server takes us for: some answer an
        // unknown access key with 404 as well.
        StoreError::Missing { key } => {
            let of_bucket = code
                .as_deref()
                .is_none_or(|code| matches!(code, "NoSuchBucket" | "NoSuchKey"));
            let (code, text) = if of_bucket {
                (
                    Some(NO_SUCH_BUCKET.to_owned()),
                    format!("bucket does not exist. key={key}"),
                )
            } else {
                (code, format!("{said}. key={key}"))
            };
            StoreError::NotApplied(Cause {
                kind: CauseKind::Refused,
                code,
                text,
            })
        }
        other => other,
    }
}

fn classify(key: &str, fault: Fault) -> StoreError {
    use object_store::Error;
    let text = format!("{}. key={key}", fault.text());
    let code = fault.code();
    let cause = |kind| Cause {
        kind,
        code: code.clone(),
        text: text.clone(),
    };
    let error = match fault {
        Fault::Slow => return StoreError::Unknown(cause(CauseKind::Busy)),
        Fault::Store(error) => error,
    };
    match &error {
        Error::NotFound { .. } => StoreError::Missing { key: key.to_owned() },
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            StoreError::NotApplied(cause(CauseKind::Refused))
        }
        Error::Generic { source, .. } => match (status(source.as_ref()), http_kind(source.as_ref())) {
            (Some(429), _) => StoreError::NotApplied(cause(CauseKind::Busy)),
            (Some(500..), _) => StoreError::Unknown(cause(CauseKind::Busy)),
            (Some(_), _) => StoreError::NotApplied(cause(CauseKind::Refused)),
            (None, Some(HttpErrorKind::Connect)) => StoreError::NotApplied(cause(CauseKind::Unreachable)),
            // A local disk, or an answer that never came.
            _ => StoreError::Unknown(cause(CauseKind::Busy)),
        },
        _ => StoreError::NotApplied(cause(CauseKind::Other)),
    }
}

/// The client keeps the type of its error to itself; what it says has been stable: "… status code: 503 Slow Down".
fn status(error: &(dyn std::error::Error + 'static)) -> Option<u16> {
    chain(error).find_map(|error| {
        let text = error.to_string();
        let (_, rest) = text.split_once("status code: ")?;
        rest.get(..3)?.parse().ok()
    })
}

fn http_kind(error: &(dyn std::error::Error + 'static)) -> Option<HttpErrorKind> {
    chain(error).find_map(|error| error.downcast_ref::<HttpError>().map(HttpError::kind))
}

fn chain<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// The text of an element of the error document that S3 answers with, if `text` has one.
fn s3_element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let document = &text[text.find("<Error>")?..];
    let (_, rest) = document.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0)
}

fn s3_code(text: &str) -> Option<String> {
    s3_element(text, "Code").map(|code| code.trim().to_owned())
}

/// Code and message of the error document.
fn s3_error(text: &str) -> Option<String> {
    let code = s3_code(text)?;
    Some(match s3_element(text, "Message") {
        Some(message) => format!("{code}: {message}"),
        None => code,
    })
}

/// Server errors carry pages of XML; a log line wants the sentence.
pub(crate) fn one_line(error: &object_store::Error) -> String {
    let text = error.to_string();
    let said = s3_error(&text).unwrap_or(text);
    let mut line: String = said.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((cut, _)) = line.char_indices().nth(400) {
        line.truncate(cut);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_error_document_code_and_message_are_told() {
        let text = "403: <?xml version=\"1.0\"?><Error><Code>SignatureDoesNotMatch</Code>\
                    <Message>Check your secret.</Message><RequestId>7</RequestId></Error>";
        assert_eq!(
            s3_error(text).as_deref(),
            Some("SignatureDoesNotMatch: Check your secret.")
        );
        assert_eq!(
            s3_error("<Error><Code>NoSuchKey</Code></Error>").as_deref(),
            Some("NoSuchKey")
        );
        assert_eq!(s3_error("connection refused"), None);
    }
}
