//! As much of HTTP/1.1 as a pass-through needs: where a head ends, how long a body is, and moving both along.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::Instant;

use anyhow::{Context as _, bail};
use rustix::pipe::{SpliceFlags, fcntl_setpipe_size, pipe, splice};

use crate::shape;

pub(crate) const SLOW_DOWN: &[u8] =
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: 88\r\n\r\n\
<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>try again</Message></Error>   ";

const HEAD_BYTES_MAX: usize = 64 << 10;
/// What moves between two looks at the clock, and the pipe's size.
const BLOCK_BYTES: usize = 256 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Exactly(u64),
    Chunked,
    UntilClosed,
}

/// A start line and its headers, kept as they came.
pub(crate) struct Head {
    raw: Vec<u8>,
    start: [String; 3],
    length: Option<u64>,
    chunked: bool,
    expects_continue: bool,
    closes: bool,
}

impl Head {
    fn parse(raw: Vec<u8>) -> anyhow::Result<Self> {
        let text = std::str::from_utf8(&raw).context("a head is text")?;
        let mut lines = text.split("\r\n");
        let mut words = lines.next().unwrap_or_default().splitn(3, ' ').map(str::to_owned);
        let start = [(); 3].map(|()| words.next().unwrap_or_default());
        let mut head = Self {
            raw: Vec::new(),
            start,
            length: None,
            chunked: false,
            expects_continue: false,
            closes: false,
        };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => head.length = Some(value.parse().context("content-length")?),
                "transfer-encoding" => head.chunked = value.eq_ignore_ascii_case("chunked"),
                "expect" => head.expects_continue = value.eq_ignore_ascii_case("100-continue"),
                "connection" => head.closes = value.eq_ignore_ascii_case("close"),
                _ => {}
            }
        }
        head.raw = raw;
        Ok(head)
    }

    pub(crate) fn method(&self) -> &str {
        &self.start[0]
    }

    /// The method, the first word of the query and the name's extension: `PUT partNumber`, `GET .seg`.
    pub(crate) fn kind(&self) -> String {
        let (path, query) = self.start[1].split_once('?').unwrap_or((&self.start[1], ""));
        let word = query.split(['&', '=']).next().unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default();
        let extension = name
            .rsplit_once('.')
            .map(|(_, extension)| format!(".{extension}"))
            .unwrap_or_default();
        [self.method(), word, &extension]
            .iter()
            .filter(|part| !part.is_empty())
            .copied()
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Of an answer; a request has none and says 0.
    pub(crate) fn status(&self) -> u16 {
        self.start[1].parse().unwrap_or(0)
    }

    pub(crate) fn expects_continue(&self) -> bool {
        self.expects_continue
    }

    pub(crate) fn closes(&self) -> bool {
        self.closes
    }

    /// What follows the head: of a request when `asked` is none, else of the answer to it.
    pub(crate) fn body(&self, asked: Option<&Self>) -> Body {
        let empty =
            asked.is_some_and(|request| request.method() == "HEAD" || matches!(self.status(), 204 | 304));
        match self.length {
            _ if empty => Body::Exactly(0),
            _ if self.chunked => Body::Chunked,
            Some(length) => Body::Exactly(length),
            None if asked.is_none() => Body::Exactly(0),
            None => Body::UntilClosed,
        }
    }
}

/// One direction of a pair of connections.
pub(crate) struct Lane<'a> {
    pub(crate) from: &'a TcpStream,
    pub(crate) to: &'a TcpStream,
    /// Read with a head, but behind it.
    ahead: Vec<u8>,
    pipe: (OwnedFd, OwnedFd),
}

impl<'a> Lane<'a> {
    pub(crate) fn new(from: &'a TcpStream, to: &'a TcpStream) -> anyhow::Result<Self> {
        let pipe = pipe()?;
        fcntl_setpipe_size(&pipe.0, BLOCK_BYTES)?;
        Ok(Self {
            from,
            to,
            ahead: Vec::new(),
            pipe,
        })
    }

    /// None when the peer closed between two messages.
    pub(crate) fn read_head(&mut self) -> anyhow::Result<Option<Head>> {
        let Some(raw) = self.read_through(b"\r\n\r\n")? else {
            return Ok(None);
        };
        Head::parse(raw).map(Some)
    }

    pub(crate) fn pass_head(&mut self, head: &Head) -> anyhow::Result<()> {
        Ok(self.to.write_all(&head.raw)?)
    }

    /// Everything up to and with `mark`.
    fn read_through(&mut self, mark: &[u8]) -> anyhow::Result<Option<Vec<u8>>> {
        let mut block = [0; 8 << 10];
        loop {
            if let Some(at) = self.ahead.windows(mark.len()).position(|window| window == mark) {
                let rest = self.ahead.split_off(at + mark.len());
                return Ok(Some(std::mem::replace(&mut self.ahead, rest)));
            }
            if self.ahead.len() > HEAD_BYTES_MAX {
                bail!("no end of a head within {HEAD_BYTES_MAX} bytes");
            }
            match self.from.read(&mut block)? {
                0 if self.ahead.is_empty() => return Ok(None),
                0 => bail!("closed in the middle of a head"),
                n => self.ahead.extend_from_slice(&block[..n]),
            }
        }
    }

    /// Moves a body along, never faster than `speed` bytes a second (0: as fast as it goes); gives its bytes.
    pub(crate) fn pass(&mut self, body: Body, speed: u64) -> anyhow::Result<u64> {
        match body {
            Body::Exactly(length) => self.pass_bytes(length, speed),
            Body::UntilClosed => self.pass_bytes(u64::MAX, speed),
            Body::Chunked => self.pass_chunks(speed),
        }
    }

    fn pass_bytes(&mut self, length: u64, speed: u64) -> anyhow::Result<u64> {
        let began = Instant::now();
        let ahead = usize::try_from(length)
            .unwrap_or(usize::MAX)
            .min(self.ahead.len());
        self.to.write_all(&self.ahead[..ahead])?;
        self.ahead.drain(..ahead);
        let mut done = ahead as u64;
        while done < length {
            let block = usize::try_from(length - done)
                .unwrap_or(usize::MAX)
                .min(BLOCK_BYTES);
            let mut waiting = splice(
                self.from,
                None,
                &self.pipe.1,
                None,
                block,
                SpliceFlags::MOVE | SpliceFlags::MORE,
            )?;
            if waiting == 0 {
                if length == u64::MAX {
                    break;
                }
                bail!("closed in the middle of a body");
            }
            done += waiting as u64;
            let more = if done < length {
                SpliceFlags::MORE
            } else {
                SpliceFlags::empty()
            };
            while waiting > 0 {
                waiting -= splice(
                    &self.pipe.0,
                    None,
                    self.to,
                    None,
                    waiting,
                    SpliceFlags::MOVE | more,
                )?;
            }
            shape::keep_pace(began, done, speed);
        }
        Ok(done)
    }

    fn pass_chunks(&mut self, speed: u64) -> anyhow::Result<u64> {
        let mut total = 0;
        loop {
            let line = self
                .read_through(b"\r\n")?
                .context("closed in front of a chunk")?;
            self.to.write_all(&line)?;
            let digits = std::str::from_utf8(&line)?
                .trim()
                .split(';')
                .next()
                .unwrap_or_default();
            let size = u64::from_str_radix(digits, 16).context("chunk size")?;
            if size == 0 {
                break;
            }
            self.pass_bytes(size + 2, speed)?;
            total += size;
        }
        loop {
            let trailer = self.read_through(b"\r\n")?.context("closed in a trailer")?;
            self.to.write_all(&trailer)?;
            if trailer == b"\r\n" {
                return Ok(total);
            }
        }
    }

    /// Reads a body to its end and keeps nothing of it.
    pub(crate) fn discard(&mut self, body: Body) -> anyhow::Result<()> {
        let mut left = match body {
            Body::Exactly(length) => length,
            // Faults are for requests of a broker, and its bodies say how long they are.
            Body::Chunked | Body::UntilClosed => bail!("a body of unknown length cannot be discarded"),
        };
        let ahead = usize::try_from(left).unwrap_or(usize::MAX).min(self.ahead.len());
        self.ahead.drain(..ahead);
        left -= ahead as u64;
        Ok(std::io::copy(&mut self.from.take(left), &mut std::io::sink()).map(|_| ())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Head {
        Head::parse(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn a_kind_is_the_method_the_first_query_word_and_the_extension() {
        assert_eq!(head("GET /b/t/0001.seg HTTP/1.1\r\n\r\n").kind(), "GET .seg");
        assert_eq!(
            head("PUT /b/k.seg?partNumber=2&uploadId=x HTTP/1.1\r\n\r\n").kind(),
            "PUT partNumber .seg"
        );
        assert_eq!(
            head("GET /b?list-type=2 HTTP/1.1\r\n\r\n").kind(),
            "GET list-type"
        );
    }

    #[test]
    fn an_answer_to_head_has_no_body_whatever_its_length_says() {
        let request = head("HEAD /b/k HTTP/1.1\r\n\r\n");
        let answer = head("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n");

        assert_eq!(answer.body(Some(&request)), Body::Exactly(0));
    }

    #[test]
    fn the_slow_down_answer_is_as_long_as_it_says() {
        let at = SLOW_DOWN
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .unwrap()
            + 4;
        let answer = Head::parse(SLOW_DOWN[..at].to_vec()).unwrap();

        assert_eq!(
            answer.body(Some(&head("PUT /b/k HTTP/1.1\r\n\r\n"))),
            Body::Exactly((SLOW_DOWN.len() - at) as u64)
        );
    }
}
