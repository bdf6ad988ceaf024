//! A connection to a target, plain or over TLS, for the sinks that speak their protocol themselves.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::cause::connect_kind;
use super::network::Network;
use super::outgoing::Outgoing;
use super::{dial, tls};
use crate::config::tls::TlsOptions;
use crate::sink::{TargetFault, TargetFaultKind};
use crate::sinks::offered::chain;

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

pub(crate) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Tls {
    /// Reads certificates: call it where a few small reads may block.
    pub(crate) fn new(options: &TlsOptions, host: &str) -> Result<Self, TargetFault> {
        let client = tls::client_config(options).map_err(|error| unusable(&error))?;
        Self::with(Arc::new(client), options, host)
    }

    /// The same with certificates that were read before, for sinks that connect to more than one host.
    pub(crate) fn with(client: Arc<ClientConfig>, options: &TlsOptions, host: &str) -> Result<Self, TargetFault> {
        let name = tls::server_name(options, host).map_err(|error| unusable(&error))?;
        Ok(Self { connector: TlsConnector::from(client), name })
    }
}

impl Route {
    /// Bounded by the caller.
    pub(crate) async fn connect(&self) -> Result<Box<dyn Stream>, TargetFault> {
        let tcp = dial::connect(&self.host, self.port, &self.deny_networks).await.map_err(|error| error.fault())?;
        let outgoing = if self.is_patient { Outgoing::patient } else { Outgoing::new };
        let tcp = outgoing(tcp, self.aborted.clone()).map_err(|error| broken(&error))?;
        match &self.tls {
            Some(Tls { connector, name }) => {
                Ok(Box::new(connector.connect(name.clone(), tcp).await.map_err(|error| broken(&error))?))
            }
            None => Ok(Box::new(tcp)),
        }
    }
}

fn unusable(error: &tls::TlsError) -> TargetFault {
    TargetFault::new(TargetFaultKind::Misconfigured("TLS_UNUSABLE"), chain(error))
}

/// A connection that did not come about, or is lost.
pub(crate) fn broken(error: &std::io::Error) -> TargetFault {
    TargetFault::new(connect_kind(error), chain(error))
}
