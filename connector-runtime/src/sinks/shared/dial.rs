//! Where a connection may go: names are looked up here, and addresses in denied networks are left out.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::TcpStream;

use super::network::Network;
use crate::sink::{TargetFault, TargetFaultKind};
use crate::sinks::offered::chain;

#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("{host} cannot be looked up")]
    Lookup {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error("{0} lies in a network of connectors.deny_networks")]
    Denied(String),
    #[error("cannot connect to {address}")]
    Connect {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
}

impl DialError {
    pub(crate) fn fault(&self) -> TargetFault {
        let kind = match self {
            Self::Denied(_) => TargetFaultKind::Misconfigured("TARGET_DENIED"),
            Self::Lookup { .. } | Self::Connect { .. } => TargetFaultKind::Down,
        };
        TargetFault::new(kind, chain(self))
    }
}

/// The addresses of `host` that may be connected to; never empty. An IPv6 address may stand in brackets.
///
/// Whoever connects must connect to one of these and not look the name up again, so that no name can lead to a denied
/// address.
pub(crate) async fn resolve(host: &str, port: u16, deny_networks: &[Network]) -> Result<Vec<SocketAddr>, DialError> {
    let mut allowed = lookup(host, port).await?;
    allowed.retain(|address| !is_denied(address.ip(), deny_networks));
    if allowed.is_empty() { Err(DialError::Denied(bare(host).to_owned())) } else { Ok(allowed) }
}

/// For a client that looks names up itself and connects to whichever address it likes: each of them must be allowed.
#[cfg(feature = "kafka")]
pub(crate) async fn all_allowed(host: &str, port: u16, deny_networks: &[Network]) -> Result<(), DialError> {
    match lookup(host, port).await?.into_iter().find(|address| is_denied(address.ip(), deny_networks)) {
        Some(address) => Err(DialError::Denied(format!("{} ({})", bare(host), address.ip()))),
        None => Ok(()),
    }
}

async fn lookup(host: &str, port: u16) -> Result<Vec<SocketAddr>, DialError> {
    let failed = |source| DialError::Lookup { host: bare(host).to_owned(), source };
    let found: Vec<SocketAddr> = tokio::net::lookup_host((bare(host), port)).await.map_err(failed)?.collect();
    if found.is_empty() {
        return Err(failed(io::Error::new(io::ErrorKind::NotFound, "the name has no address")));
    }
    Ok(found)
}

/// Of `host` or `host:port`; an IPv6 address stands in brackets where a port follows. The host is without them.
#[cfg(any(feature = "cassandra", feature = "mongodb"))]
pub(crate) fn host_and_port(text: &str, port: u16) -> (&str, u16) {
    let text = text.trim();
    let (host, own) = match text.rsplit_once(':') {
        Some((host, own)) if !host.contains(':') || host.ends_with(']') => (host, own.parse().ok()),
        Some(_) | None => (text, None),
    };
    (bare(host), own.unwrap_or(port))
}

fn bare(host: &str) -> &str {
    host.trim_matches(['[', ']'])
}

/// To the first address that answers. Bounded by the caller.
pub(crate) async fn connect(host: &str, port: u16, deny_networks: &[Network]) -> Result<TcpStream, DialError> {
    let mut last = None;
    for address in resolve(host, port, deny_networks).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Small packets must not wait for the acknowledgements of those before.
                stream.set_nodelay(true).map_err(|source| DialError::Connect { address, source })?;
                return Ok(stream);
            }
            Err(source) => last = Some(DialError::Connect { address, source }),
        }
    }
    Err(last.unwrap_or_else(|| DialError::Denied(host.to_owned())))
}

pub(crate) fn is_denied(address: IpAddr, deny_networks: &[Network]) -> bool {
    // The unspecified address connects to this machine.
    let address = match address {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        IpAddr::V4(_) | IpAddr::V6(_) => address,
    };
    deny_networks.iter().any(|network| network.contains(address))
}

#[cfg(all(test, any(feature = "cassandra", feature = "mongodb")))]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_a_port_of_its_own_or_the_common_one() {
        for (text, expect) in [
            ("db", ("db", 7)),
            (" db:1", ("db", 1)),
            ("c.example.org", ("c.example.org", 7)),
            ("::1", ("::1", 7)),
            ("[::1]", ("::1", 7)),
            ("[fd00::2]:3", ("fd00::2", 3)),
            ("10.0.0.1:9042", ("10.0.0.1", 9_042)),
        ] {
            assert_eq!(host_and_port(text, 7), expect, "{text}");
        }
    }
}
