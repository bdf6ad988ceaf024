//! standalone.conf and proxy.conf: the distribution's own, with what small servers for tests need otherwise.

use std::path::Path;

use anyhow::{Context, Result};

use super::PulsarOptions;
use super::accounts::Accounts;
use crate::certificates::Certificates;
use crate::ports;

/// Each is named to those who come by it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    /// For the server's own clients and for the tests'.
    pub(super) internal: u16,
    pub(super) connectors: u16,
    pub(super) tls: u16,
    pub(super) proxied: u16,
    pub(super) admin: u16,
}

impl Ports {
    pub(super) fn free() -> Result<Self> {
        Ok(Self {
            internal: ports::free()?,
            connectors: ports::free()?,
            tls: ports::free()?,
            proxied: ports::free()?,
            admin: ports::free()?,
        })
    }
}

pub(super) fn text(
    home: &Path,
    folder: &Path,
    ports: &Ports,
    options: &PulsarOptions,
    accounts: Option<&Accounts>,
    certificates: Option<&Certificates>,
) -> Result<String> {
    let mut changed: Vec<(String, String)> = [
        ("bindAddress", "127.0.0.1"),
        ("advertisedAddress", ""),
        ("allowLoopback", "true"),
        ("listeningInterface", "lo"),
        ("webSocketServiceEnabled", "false"),
        ("numIOThreads", "2"),
        ("numHttpServerThreads", "8"),
        ("numOrderedExecutorThreads", "2"),
        ("managedLedgerCacheSizeMB", "32"),
        ("dbStorage_writeCacheMaxSizeMb", "16"),
        ("dbStorage_readAheadCacheMaxSizeMb", "16"),
        ("dbStorage_rocksDB_blockCacheSize", "8388608"),
        // How full the machine's disk is says nothing here.
        ("diskUsageThreshold", "0.999"),
        ("diskUsageWarnThreshold", "0.998"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    changed.push(("brokerServicePort".to_owned(), ports.internal.to_string()));
    changed.push(("webServicePort".to_owned(), ports.admin.to_string()));
    changed.extend(listeners(ports, options, certificates.is_some()));
    if let Some(certificates) = certificates {
        for (name, value) in [
            ("brokerServicePortTls", ports.tls.to_string()),
            ("tlsCertificateFilePath", certificates.server.display().to_string()),
            ("tlsKeyFilePath", certificates.server_key.display().to_string()),
            ("tlsTrustCertsFilePath", certificates.ca.display().to_string()),
            ("tlsRequireTrustedClientCertOnConnect", options.client_certificate.to_string()),
        ] {
            changed.push((name.to_owned(), value));
        }
    }
    if let Some(accounts) = accounts {
        changed.extend(accounts.settings(folder));
    }
    changed.extend(options.settings.iter().cloned());
    changed_text(home, "standalone.conf", &changed)
}

/// Of a proxy that stands before this server.
pub(super) fn proxy(home: &Path, port: u16, web_port: u16, server: &Ports) -> Result<String> {
    let Ports { internal, admin, .. } = server;
    let changed = [
        ("bindAddress", "127.0.0.1".to_owned()),
        ("advertisedAddress", "127.0.0.1".to_owned()),
        ("clusterName", "standalone".to_owned()),
        ("servicePort", port.to_string()),
        ("webServicePort", web_port.to_string()),
        ("brokerServiceURL", format!("pulsar://127.0.0.1:{internal}")),
        ("brokerWebServiceURL", format!("http://127.0.0.1:{admin}")),
        ("brokerProxyAllowedTargetPorts", "*".to_owned()),
        ("numIOThreads", "2".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value));
    changed_text(home, "proxy.conf", &changed)
}

fn changed_text(home: &Path, file: &str, changed: &[(String, String)]) -> Result<String> {
    let original = std::fs::read_to_string(home.join("conf").join(file)).with_context(|| file.to_owned())?;
    let is_changed = |line: &str| {
        let name = line.trim_start_matches('#').split('=').next().unwrap_or_default();
        changed.iter().any(|(changed, _)| changed == name)
    };
    let mut lines: Vec<String> = original.lines().filter(|line| !is_changed(line)).map(str::to_owned).collect();
    // The last one of a name counts.
    lines.extend(changed.iter().map(|(name, value)| format!("{name}={value}")));
    Ok(lines.join("\n"))
}

fn listeners(ports: &Ports, options: &PulsarOptions, has_tls: bool) -> [(String, String); 3] {
    let Ports { internal, connectors, tls, proxied, .. } = ports;
    let mut advertised =
        vec![format!("internal:pulsar://127.0.0.1:{internal}"), format!("connectors:pulsar://127.0.0.1:{connectors}")];
    let mut bound = vec![format!("connectors:pulsar://127.0.0.1:{connectors}")];
    if has_tls {
        advertised.push(format!("internal:pulsar+ssl://127.0.0.1:{tls}"));
    }
    if let Some(proxy) = options.proxy_port {
        advertised.push(format!("proxied:pulsar://127.0.0.1:{proxy}"));
        bound.push(format!("proxied:pulsar://127.0.0.1:{proxied}"));
    }
    [
        ("internalListenerName".to_owned(), "internal".to_owned()),
        ("advertisedListeners".to_owned(), advertised.join(",")),
        ("bindAddresses".to_owned(), bound.join(",")),
    ]
}
