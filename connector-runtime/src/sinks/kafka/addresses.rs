//! Where librdkafka connects to, and whether it may.
//!
//! It looks names up and opens its sockets itself. So the addresses of every broker are looked at before it is told of
//! them or has something to send to them, and each connection that it begins is read from its own log.

use std::net::SocketAddr;

use crate::sink::TargetFault;
use crate::sinks::shared::dial::{self, DialError};
use crate::sinks::shared::network::Network;

/// The port of a broker that is named without one.
const PORT: u16 = 9_092;

/// None of these brokers (`host:port,…`) has an address in a denied network. A name that cannot be looked up is
/// librdkafka's to complain about.
pub(super) async fn check_servers(servers: &str, deny_networks: &[Network]) -> Result<(), TargetFault> {
    if deny_networks.is_empty() {
        return Ok(());
    }
    for server in servers.split(',') {
        let server = server.trim();
        let (host, port) = match server.rsplit_once(':') {
            Some((host, port)) if !host.ends_with(':') => (host, port.parse().unwrap_or(PORT)),
            Some(_) | None => (server, PORT),
        };
        check(host, port, deny_networks).await?;
    }
    Ok(())
}

/// One denied address is enough: which of a name's addresses is connected to is not ours to choose.
pub(super) async fn check(host: &str, port: u16, deny_networks: &[Network]) -> Result<(), TargetFault> {
    if deny_networks.is_empty() {
        return Ok(());
    }
    match dial::all_allowed(host, port, deny_networks).await {
        Err(error @ DialError::Denied(_)) => Err(error.fault()),
        Ok(()) | Err(DialError::Lookup { .. } | DialError::Connect { .. }) => Ok(()),
    }
}

/// The address in librdkafka's line about a connection that it begins; `None` for any other line.
pub(super) fn connecting_to(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once(": Connecting to ipv")?;
    // `4#127.0.0.1:9092 (plaintext) with socket 12`
    let (_, address) = rest.split_once('#')?;
    address.split(' ').next()?.parse().ok()
}

pub(super) fn denied(address: SocketAddr, deny_networks: &[Network]) -> Option<TargetFault> {
    dial::is_denied(address.ip(), deny_networks).then(|| DialError::Denied(address.to_string()).fault())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::TargetFaultKind;

    #[test]
    fn the_address_is_read_from_the_line_of_a_connection_alone() {
        let line = "[thrd:127.0.0.1:9092/bootstrap]: 127.0.0.1:9092/bootstrap: Connecting to ipv4#127.0.0.1:9092 \
                    (plaintext) with socket 12";
        assert_eq!(connecting_to(line), "127.0.0.1:9092".parse().ok());
        let line = "[thrd:ssl://b:9093/2]: ssl://b:9093/2: Connecting to ipv6#[fd00::1]:9093 (ssl) with socket 7";
        assert_eq!(connecting_to(line), "[fd00::1]:9093".parse().ok());
        assert_eq!(connecting_to("b:9093/2: broker in state TRY_CONNECT connecting"), None);
    }

    #[tokio::test]
    async fn one_denied_server_is_enough() {
        let deny: Vec<Network> = ["127.0.0.2", "fd00::/8"].iter().map(|text| text.parse().expect("valid")).collect();
        for (servers, expect) in [
            ("127.0.0.1:9092", None),
            ("127.0.0.1:9092,127.0.0.2:9092", Some("127.0.0.2")),
            ("[fd00::5]:9092", Some("fd00::5")),
            ("not a host:9092", None),
        ] {
            let fault = check_servers(servers, &deny).await.err();
            assert_eq!(fault.is_some(), expect.is_some(), "{servers}: {fault:?}");
            if let (Some(fault), Some(expect)) = (fault, expect) {
                assert_eq!(fault.kind, TargetFaultKind::Misconfigured("TARGET_DENIED"));
                assert!(fault.message.contains(expect), "{}", fault.message);
            }
        }
    }
}
