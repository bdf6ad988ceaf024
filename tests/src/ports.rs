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
    let Ok(connections) = std::fs::read_to_string("/proc/net/tcp") else { return 0 };
    let is_one = |line: &&str| {
        // number: local address:port, remote address:port, state, bytes to send:bytes to read, …
        let fields: Vec<&str> = line.split_whitespace().collect();
        let of_port = fields.get(1).is_some_and(|local| local.ends_with(&format!(":{port:04X}")));
        const ESTABLISHED: &str = "01";
        let unread =
            fields.get(4).and_then(|queues| queues.split_once(':')).is_some_and(|(_, unread)| unread != "00000000");
        of_port && fields.get(3) == Some(&ESTABLISHED) && unread
    };
    connections.lines().filter(is_one).count()
}

/// How many bytes they sent.
#[cfg(feature = "cassandra")]
pub fn unread_bytes(port: u16) -> u64 {
    let Ok(connections) = std::fs::read_to_string("/proc/net/tcp") else { return 0 };
    let unread = |line: &str| {
        // As above.
        let fields: Vec<&str> = line.split_whitespace().collect();
        const ESTABLISHED: &str = "01";
        let is_of_port = fields.get(1)?.ends_with(&format!(":{port:04X}")) && fields.get(3) == Some(&ESTABLISHED);
        let (_, unread) = fields.get(4)?.split_once(':')?;
        is_of_port.then(|| u64::from_str_radix(unread, 16).ok())?
    };
    connections.lines().filter_map(unread).sum()
}

/// Established connections to a server on loopback, at its own end, as the kernel counts them.
pub fn connections_to(port: u16) -> Result<usize> {
    const ESTABLISHED: &str = "01";
    let table = std::fs::read_to_string("/proc/net/tcp").context("/proc/net/tcp")?;
    let local = format!(":{port:04X}");
    let is_one = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        words.next().is_some_and(|address| address.ends_with(&local)) && words.nth(1) == Some(ESTABLISHED)
    };
    Ok(table.lines().filter(|line| is_one(line)).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_counts_at_the_end_of_the_server() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, free().unwrap())).unwrap();
        let port = server.local_addr().unwrap().port();
        assert_eq!(connections_to(port).unwrap(), 0);
        let _client = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let _accepted = server.accept().unwrap();
        assert_eq!(connections_to(port).unwrap(), 1);
    }

    #[test]
    fn no_port_is_given_out_twice() {
        let ports: std::collections::BTreeSet<u16> = (0..100).map(|_| free().unwrap()).collect();
        assert_eq!(ports.len(), 100);
    }
}
