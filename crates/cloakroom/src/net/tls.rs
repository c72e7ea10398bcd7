//! TLS by rustls with ring; the provider is always named, since another crate in the process may bring a second.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use super::Wire;
use crate::{Deadline, Error, ErrorKind, Result};

/// What a user may say about TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsOptions {
    /// Whether the certificate must be signed by a known authority.
    pub(crate) verify_peer: bool,
    /// Whether the certificate must bear the server's name.
    pub(crate) verify_peer_name: bool,
    /// The authorities to trust; those of the system unless given.
    pub(crate) cafile: Option<PathBuf>,
    /// The name that the certificate must bear, where it is not the host's.
    pub(crate) peer_name: Option<String>,
}

/// The options, and the configuration made from them at the first connection: reading the system's certificates
/// takes milliseconds, and sessions are resumed only within one configuration.
#[derive(Debug)]
pub(crate) struct Tls {
    options: TlsOptions,
    config: OnceLock<Arc<ClientConfig>>,
}

impl Tls {
    pub(crate) fn new(options: TlsOptions) -> Self {
        Tls { options, config: OnceLock::new() }
    }

    pub(super) fn shake_hands(
        &self,
        socket: &OwnedFd,
        host: &str,
        patience: Duration,
        by: Deadline,
    ) -> Result<ClientConnection> {
        let name = self.options.peer_name.as_deref().unwrap_or(host).to_owned();
        let server = ServerName::try_from(name).map_err(|error| {
            Error::new(ErrorKind::Config, "the server's name cannot be used for TLS").source(error)
        })?;
        let mut tls = ClientConnection::new(self.config()?, server).map_err(failed)?;
        let mut wire = Wire { socket, patience, by, slow: true };
        while tls.is_handshaking() {
            while tls.wants_write() {
                tls.write_tls(&mut wire).map_err(broken)?;
            }
            if !tls.is_handshaking() {
                break;
            }
            if tls.read_tls(&mut wire).map_err(broken)? == 0 {
                return Err(broken(io::ErrorKind::UnexpectedEof.into()));
            }
            if let Err(error) = tls.process_new_packets() {
                // The alert tells the server's log why; whether it arrives does not matter.
                let _ = tls.write_tls(&mut wire);
                return Err(failed(error));
            }
        }
        while tls.wants_write() {
            tls.write_tls(&mut wire).map_err(broken)?;
        }
        Ok(tls)
    }

    fn config(&self) -> Result<Arc<ClientConfig>> {
        if let Some(config) = self.config.get() {
            return Ok(config.clone());
        }
        let config = Arc::new(self.options.config()?);
        Ok(self.config.get_or_init(|| config).clone())
    }
}

impl TlsOptions {
    fn config(&self) -> Result<ClientConfig> {
        let provider = Arc::new(ring::default_provider());
        let strict = match self.verify_peer {
            true => Some(
                WebPkiServerVerifier::builder_with_provider(Arc::new(self.roots()?), provider.clone())
                    .build()
                    .map_err(|error| {
                        Error::new(ErrorKind::Config, "there is no certificate authority to trust")
                            .source(error)
                            .hint("install ca-certificates, or name the authority's file with cafile=")
                    })?,
            ),
            false => None,
        };
        let verifier = Verifier { strict, name: self.verify_peer_name, provider: provider.clone() };
        Ok(ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth())
    }

    fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        let Some(path) = &self.cafile else {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            return Ok(roots);
        };
        let refused = |error: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(ErrorKind::Config, format!("cannot use the certificates of {}", path.display()))
                .source(error)
                .hint("cafile= names a PEM file that the user PHP runs as can read")
        };
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| refused(error.into()))? {
            let certificate = certificate.map_err(|error| refused(error.into()))?;
            roots.add(certificate).map_err(|error| refused(error.into()))?;
        }
        match roots.is_empty() {
            true => Err(refused("it holds no certificate".into())),
            false => Ok(roots),
        }
    }
}

fn broken(error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::TimedOut => ErrorKind::Timeout,
        _ => ErrorKind::Unreachable,
    };
    Error::new(kind, "the TLS handshake was not finished")
        .source(error)
        .hint("check that this port of the server speaks TLS")
}

fn failed(error: rustls::Error) -> Error {
    let hint = match &error {
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "use the name that the certificate bears, or say peer_name= or verify_peer_name=0",
        rustls::Error::InvalidCertificate(_) => {
            "name the authority that signed it with cafile=, or say verify_peer=0 to trust any server"
        }
        _ => "check that this port of the server speaks TLS 1.2 or 1.3",
    };
    Error::new(ErrorKind::Unreachable, "the TLS handshake failed").source(error).hint(hint)
}

/// PHP's two switches: `verify_peer` and `verify_peer_name`.
#[derive(Debug)]
struct Verifier {
    /// `None` trusts any certificate.
    strict: Option<Arc<WebPkiServerVerifier>>,
    name: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let Some(strict) = &self.strict else {
            return Ok(ServerCertVerified::assertion());
        };
        match strict.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The chain is looked at before the name: nothing else is wrong with it.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.name => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
