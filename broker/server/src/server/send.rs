//! Answers onto a socket: memory by `writev`, ranges of segment files by `sendfile`, so record bytes over
//! [`COPY_MAX`] never enter user space.

use crate::wire::records::Part;
use bytes::Bytes;
use rustix::fd::AsFd;
use rustix::net::SendFlags;
use std::io::{self, IoSlice};
use tokio::io::Interest;
use tokio::net::TcpStream;
use varve_log::DiskFile;

/// File ranges up to this are read and sent with what stands beside them: one system call instead of two.
const COPY_MAX: usize = 4 << 10;
/// Most pieces in one `writev`; the kernel's limit is 1024.
const PIECES_MAX: usize = 256;

/// Sends everything, in order.
pub(crate) async fn all(socket: &TcpStream, parts: &[Part]) -> io::Result<()> {
    let mut memory: Vec<Bytes> = Vec::with_capacity(parts.len());
    for part in parts {
        match part {
            Part::Memory(bytes) => memory.push(bytes.clone()),
            Part::File { file, position, len } if *len <= COPY_MAX || file.fd().is_none() => {
                memory.push(read(&**file, *position, *len)?);
            }
            Part::File { file, position, len } => {
                send_memory(socket, &mut memory, true).await?;
                send_file(socket, &**file, *position, *len).await?;
            }
        }
    }
    send_memory(socket, &mut memory, false).await
}

fn read(file: &dyn DiskFile, position: u64, len: usize) -> io::Result<Bytes> {
    let mut copy = vec![0; len];
    file.read_exact_at(&mut copy, position)?;
    Ok(copy.into())
}

/// `more`: file bytes follow at once, so a short packet would be a waste.
async fn send_memory(socket: &TcpStream, memory: &mut Vec<Bytes>, more: bool) -> io::Result<()> {
    let flags = if more {
        SendFlags::MORE | SendFlags::NOSIGNAL
    } else {
        SendFlags::NOSIGNAL
    };
    let mut next = 0;
    while next < memory.len() {
        let sent = socket
            .async_io(Interest::WRITABLE, || {
                let pieces: Vec<IoSlice<'_>> = memory[next..]
                    .iter()
                    .take(PIECES_MAX)
                    .map(|bytes| IoSlice::new(bytes))
                    .collect();
                let mut control = rustix::net::SendAncillaryBuffer::default();
                Ok(rustix::net::sendmsg(
                    socket.as_fd(),
                    &pieces,
                    &mut control,
                    flags,
                )?)
            })
            .await?;
        consume(memory, &mut next, sent);
    }
    memory.clear();
    Ok(())
}

fn consume(memory: &mut [Bytes], next: &mut usize, mut sent: usize) {
    while let Some(first) = memory.get_mut(*next) {
        if sent < first.len() {
            *first = first.slice(sent..);
            return;
        }
        sent -= first.len();
        *next += 1;
    }
}

async fn send_file(socket: &TcpStream, file: &dyn DiskFile, position: u64, len: usize) -> io::Result<()> {
    let Some(source) = file.fd() else {
        return Err(io::Error::other("a file without a descriptor"));
    };
    let (mut position, end) = (position, position + len as u64);
    while position < end {
        let left = usize::try_from(end - position).unwrap_or(usize::MAX);
        let mut at = position;
        let sent = socket
            .async_io(Interest::WRITABLE, || {
                at = position;
                Ok(rustix::fs::sendfile(socket.as_fd(), source, Some(&mut at), left)?)
            })
            .await?;
        if sent == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "segment file is shorter than its index says",
            ));
        }
        position += sent as u64;
    }
    Ok(())
}
