//! A connection to a target, plain or over TLS, for the sinks that speak their protocol themselves.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::cause::connect_kind;
use super::network::Network;
use super::outgoing::Outgoing;
use super::{dial, tls};
use crate::config::tls::TlsOptions;
use crate::sink::{TargetFault, TargetFaultKind};
use crate::sinks::offered::{chain, tls_unusable};

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Where a connection goes, and how.
pub(crate) struct Route {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: Option<Tls>,
    pub(crate) deny_networks: Arc<[Network]>,
    /// The target may take nothing for long; the sink misses one that vanished by its silence.
    pub(crate) is_patient: bool,
    /// With it every socket falls silent.
    pub(crate) aborted: CancellationToken,
}

/// The certificates that a connector trusts and shows, read once.
#[derive(Clone)]
pub(crate) struct Trust {
    client: Arc<ClientConfig>,
    options: TlsOptions,
}

impl Trust {
    /// Reads files, away from the runtime.
    pub(crate) async fn read(options: TlsOptions) -> Result<Self, TargetFault> {
        let reading = tokio::task::spawn_blocking(move || {
            let client = Arc::new(tls::client_config(&options).map_err(|error| tls_unusable(&error))?);
            Ok(Self { client, options })
        });
        reading.await.map_err(|error| TargetFault::new(TargetFaultKind::Down, error.to_string()))?
    }

    pub(crate) fn towards(&self, host: &str) -> Result<Tls, TargetFault> {
        let name = tls::server_name(&self.options, host).map_err(|error| tls_unusable(&error))?;
        Ok(Tls { connector: TlsConnector::from(Arc::clone(&self.client)), name })
    }
}

/// TLS towards one server, and the name that its certificate must carry.
#[derive(Clone)]
pub(crate) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Tls {
    /// `None` where `enabled` is false. Reads certificates, away from the runtime.
    pub(crate) async fn read(enabled: bool, options: TlsOptions, host: &str) -> Result<Option<Self>, TargetFault> {
        if !enabled {
            return Ok(None);
        }
        Trust::read(options).await?.towards(host).map(Some)
    }

    /// Over a connection that is there. Bounded by the caller.
    pub(crate) async fn over<S: Stream>(&self, stream: S) -> Result<TlsStream<S>, TargetFault> {
        self.connector.connect(self.name.clone(), stream).await.map_err(|error| broken(&error))
    }
}

impl Route {
    /// Bounded by the caller.
    pub(crate) async fn connect(&self) -> Result<Box<dyn Stream>, TargetFault> {
        let tcp = dial::connect(&self.host, self.port, &self.deny_networks).await.map_err(|error| error.fault())?;
        let outgoing = if self.is_patient { Outgoing::patient } else { Outgoing::new };
        let tcp = outgoing(tcp, self.aborted.clone()).map_err(|error| broken(&error))?;
        match &self.tls {
            Some(tls) => Ok(Box::new(tls.over(tcp).await?)),
            None => Ok(Box::new(tcp)),
        }
    }
}

/// A connection that did not come about, or is lost.
pub(crate) fn broken(error: &std::io::Error) -> TargetFault {
    TargetFault::new(connect_kind(error), chain(error))
}
