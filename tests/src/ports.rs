//! Free loopback ports. They come from below the kernel's ephemeral range, so that no outgoing connection can take
//! one between the choice and the bind, or while its server is down for a restart.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result, bail};
use rand::Rng;

const LOWEST: u16 = 12_000;
const HIGHEST: u16 = 31_999;

/// Where this process goes on looking. Random at first: several test programs may run at once.
static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(rand::rng().random_range(LOWEST..=HIGHEST)));

/// A port that nobody listened on a moment ago and that this process has not given out before.
pub fn free() -> Result<u16> {
    for _ in LOWEST..=HIGHEST {
        let port = NEXT
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |port| {
                Some(if port >= HIGHEST { LOWEST } else { port + 1 })
            })
            .unwrap_or(LOWEST);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between {LOWEST} and {HIGHEST}")
}

/// Whether somebody sent bytes to a server on this port of 127.0.0.1 which it has not read yet: it is paused, or busy.
pub fn holds_unread(port: u16) -> bool {
    unread(port) > 0
}

/// Over how many connections somebody did.
pub fn unread(port: u16) -> usize {
    unread_of_each(port).unwrap_or_default().into_iter().filter(|bytes| *bytes > 0).count()
}

/// How many bytes they sent.
pub fn unread_bytes(port: u16) -> Result<u64> {
    Ok(unread_of_each(port)?.into_iter().sum())
}

/// Established connections to a server on loopback, at its own end, as the kernel counts them.
pub fn connections_to(port: u16) -> Result<usize> {
    Ok(unread_of_each(port)?.len())
}

/// For each of these connections the bytes that the server has not read.
fn unread_of_each(port: u16) -> Result<Vec<u64>> {
    const ESTABLISHED: &str = "01";
    let table = std::fs::read_to_string("/proc/net/tcp").context("/proc/net/tcp")?;
    let local = format!(":{port:04X}");
    let mut unread = Vec::new();
    for line in table.lines().skip(1) {
        // `0: 0100007F:7361 0100007F:8B5A 01 00000000:0003C0F0 …`: local, remote, state, unsent:unread.
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, address, _, state, queues, ..] = &fields[..] else { continue };
        if address.ends_with(&local) && *state == ESTABLISHED {
            let (_, bytes) = queues.split_once(':').with_context(|| format!("no queues in {line}"))?;
            unread.push(u64::from_str_radix(bytes, 16)?);
        }
    }
    Ok(unread)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_connection_counts_at_the_end_of_the_server() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, free().unwrap())).unwrap();
        let port = server.local_addr().unwrap().port();
        assert_eq!(connections_to(port).unwrap(), 0);
        let mut client = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let _accepted = server.accept().unwrap();
        assert_eq!(connections_to(port).unwrap(), 1);
        assert_eq!(unread_bytes(port).unwrap(), 0);
        client.write_all(b"12345").unwrap();
        assert_eq!((holds_unread(port), unread(port), unread_bytes(port).unwrap()), (true, 1, 5));
    }

    #[test]
    fn no_port_is_given_out_twice() {
        let ports: std::collections::BTreeSet<u16> = (0..100).map(|_| free().unwrap()).collect();
        assert_eq!(ports.len(), 100);
    }
}
