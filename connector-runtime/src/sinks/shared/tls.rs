//! TLS towards a target: from the seven fields that all kinds share to a client configuration.

use std::fs;
use std::io;
use std::sync::Arc;

#[cfg(feature = "kafka")]
use api_types::secret::Secret;
#[cfg(feature = "kafka")]
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::config::tls::TlsOptions;

#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("cannot read {path}")]
    Read {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{what} is not readable PEM")]
    Pem {
        what: &'static str,
        #[source]
        source: pem::Error,
    },
    #[error("{0} holds no certificate")]
    NoCertificate(&'static str),
    #[error("this node has no root certificates: install them, or set ca_cert_path or ca_cert")]
    NoRoots,
    #[error("the certificates or the key cannot be used")]
    Unusable(#[source] rustls::Error),
    #[cfg(any(
        feature = "cassandra",
        feature = "mongodb",
        feature = "mqtt",
        feature = "mysql",
        feature = "postgres",
        feature = "pulsar",
        feature = "rabbitmq",
        feature = "redis"
    ))]
    #[error("{0} is no name that a certificate can carry")]
    Name(String),
    #[error("the CA certificates cannot be used")]
    UnusableRoots(#[source] rustls::server::VerifierBuilderError),
}

/// Reads files: call it where a few small reads may block.
pub(crate) fn client_config(options: &TlsOptions) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Unusable)?
        .dangerous();
    let verifier: Arc<dyn ServerCertVerifier> = if options.tls_verify {
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots(options)?), provider)
            .build()
            .map_err(TlsError::UnusableRoots)?
    } else {
        Arc::new(AnyCertificate(provider))
    };
    let builder = builder.with_custom_certificate_verifier(verifier);
    match identity(options)? {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(TlsError::Unusable),
        None => Ok(builder.with_no_client_auth()),
    }
}

/// The name that the target's certificate must carry.
#[cfg(any(
    feature = "cassandra",
    feature = "mongodb",
    feature = "mqtt",
    feature = "mysql",
    feature = "postgres",
    feature = "pulsar",
    feature = "rabbitmq",
    feature = "redis"
))]
pub(crate) fn server_name(options: &TlsOptions, host: &str) -> Result<ServerName<'static>, TlsError> {
    let name = options.tls_server_name.as_deref().unwrap_or(host).trim_matches(['[', ']']);
    ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name(name.to_owned()))
}

/// The same for a client with a TLS stack of its own: PEM texts of the roots to trust, and of certificate and key.
#[cfg(feature = "kafka")]
pub(crate) struct PemTexts {
    pub(crate) roots: Option<String>,
    pub(crate) identity: Option<(String, Secret)>,
}

/// Reads files: call it where a few small reads may block.
#[cfg(feature = "kafka")]
pub(crate) fn pem_texts(options: &TlsOptions) -> Result<PemTexts, TlsError> {
    // What cannot be used is told in the words of every other kind.
    client_config(options)?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let roots = match pem_text(options.ca_cert_path.as_deref(), options.ca_cert.as_deref())? {
        Some(bytes) => Some(text(bytes)),
        None => options.tls_verify.then(|| native_roots().iter().map(|root| pem_of(root)).collect()),
    };
    let chain = pem_text(options.client_cert_path.as_deref(), options.client_cert.as_deref())?;
    let inline_key = options.client_key.as_ref().map(|key| key.reveal());
    let key = pem_text(options.client_key_path.as_deref(), inline_key)?;
    let identity = chain.zip(key).map(|(chain, key)| (text(chain), Secret::new(text(key))));
    Ok(PemTexts { roots, identity })
}

#[cfg(feature = "kafka")]
fn pem_of(certificate: &[u8]) -> String {
    /// Of base64, on one line of a PEM text.
    const LINE_CHARS: usize = 64;
    let encoded = BASE64.encode(certificate);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for at in (0..encoded.len()).step_by(LINE_CHARS) {
        text.push_str(&encoded[at..encoded.len().min(at + LINE_CHARS)]);
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

fn native_roots() -> Vec<CertificateDer<'static>> {
    rustls_native_certs::load_native_certs().certs
}

fn roots(options: &TlsOptions) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    match pem_text(options.ca_cert_path.as_deref(), options.ca_cert.as_deref())? {
        Some(text) => {
            for certificate in certificates("ca_cert", &text)? {
                roots.add(certificate).map_err(TlsError::Unusable)?;
            }
        }
        None => {
            // Some systems carry a few certificates that cannot be read; the others still count.
            roots.add_parsable_certificates(native_roots());
        }
    }
    if roots.is_empty() { Err(TlsError::NoRoots) } else { Ok(roots) }
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(options: &TlsOptions) -> Result<Option<Identity>, TlsError> {
    let chain = pem_text(options.client_cert_path.as_deref(), options.client_cert.as_deref())?;
    let inline_key = options.client_key.as_ref().map(|key| key.reveal());
    let key = pem_text(options.client_key_path.as_deref(), inline_key)?;
    let (Some(chain), Some(key)) = (chain, key) else { return Ok(None) };
    let chain = certificates("client_cert", &chain)?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|source| TlsError::Pem { what: "client_key", source })?;
    Ok(Some((chain, key)))
}

fn pem_text(path: Option<&str>, inline: Option<&str>) -> Result<Option<Vec<u8>>, TlsError> {
    match (path, inline) {
        (Some(path), _) => {
            let text = fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
            Ok(Some(text))
        }
        (None, inline) => Ok(inline.map(|text| text.as_bytes().to_vec())),
    }
}

fn certificates(what: &'static str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Pem { what, source })?;
    if certificates.is_empty() { Err(TlsError::NoCertificate(what)) } else { Ok(certificates) }
}

/// `tls_verify: false`: the user was warned.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
