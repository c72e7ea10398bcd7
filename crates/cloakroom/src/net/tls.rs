//! TLS by rustls with ring; the provider is always named, since another crate in the process may bring a second.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
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
    /// Whether a certificate that signed itself will do, whoever made it.
    pub(crate) allow_self_signed: bool,
    /// The authorities to trust; those of the system unless one of these two is given.
    pub(crate) cafile: Option<PathBuf>,
    /// A directory of them.
    pub(crate) capath: Option<PathBuf>,
    /// The name that the certificate must bear, where it is not the host's.
    pub(crate) peer_name: Option<String>,
    /// Whether the server is told the name (SNI).
    pub(crate) name_sent: bool,
    /// Who the client is, for servers that ask.
    pub(crate) identity: Option<Identity>,
}

/// A client's certificate, with those between it and the authority, and its key; PEM files, which may be one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
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
        let authorities = match self.verify_peer {
            true => self.authorities()?,
            false => Vec::new(),
        };
        let strict = match self.verify_peer {
            true => Some(
                WebPkiServerVerifier::builder_with_provider(
                    Arc::new(self.roots(&authorities)?),
                    provider.clone(),
                )
                .build()
                .map_err(|error| {
                    Error::new(ErrorKind::Config, "there is no certificate authority to trust")
                        .source(error)
                        .hint("install ca-certificates, or name the authority's file with cafile=")
                })?,
            ),
            false => None,
        };
        let verifier = Verifier {
            strict,
            trusted: if self.cafile.is_some() || self.capath.is_some() { authorities } else { Vec::new() },
            self_signed: self.allow_self_signed,
            name: self.verify_peer_name,
            provider: provider.clone(),
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &self.identity {
            None => config.with_no_client_auth(),
            Some(identity) => {
                let (chain, key) = identity.read()?;
                config.with_client_auth_cert(chain, key).map_err(|error| {
                    unusable(
                        &identity.certificate,
                        error.into(),
                        "local_cert= and local_pk= must belong together",
                    )
                })?
            }
        };
        config.enable_sni = self.name_sent;
        Ok(config)
    }

    fn authorities(&self) -> Result<Vec<CertificateDer<'static>>> {
        if self.cafile.is_none() && self.capath.is_none() {
            return Ok(rustls_native_certs::load_native_certs().certs);
        }
        let mut authorities = Vec::new();
        if let Some(path) = &self.cafile {
            authorities = certificates(path, "cafile= names a PEM file that the user PHP runs as can read")?;
        }
        if let Some(path) = &self.capath {
            let hint = "capath= names a directory of PEM files that the user PHP runs as can read";
            std::fs::read_dir(path).map_err(|error| unusable(path, error.into(), hint))?;
            let found = rustls_native_certs::load_certs_from_paths(None, Some(path)).certs;
            if found.is_empty() {
                return Err(unusable(path, "it holds no certificate".into(), hint));
            }
            authorities.extend(found);
        }
        Ok(authorities)
    }

    fn roots(&self, authorities: &[CertificateDer<'static>]) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        match &self.cafile {
            Some(path) => {
                for authority in authorities {
                    roots.add(authority.clone()).map_err(|error| {
                        unusable(path, error.into(), "cafile= must hold certificates of authorities")
                    })?;
                }
            }
            // Among so many there are always some that nobody can use any more.
            None => drop(roots.add_parsable_certificates(authorities.iter().cloned())),
        }
        Ok(roots)
    }
}

impl Identity {
    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let chain = certificates(
            &self.certificate,
            "local_cert= names a PEM file that the user PHP runs as can read",
        )?;
        let hint = "local_pk= names a PEM file with the key, if local_cert= does not hold it";
        let pem = std::fs::read(&self.key).map_err(|error| unusable(&self.key, error.into(), hint))?;
        if pem.windows(9).any(|word| word == b"ENCRYPTED") {
            return Err(unusable(
                &self.key,
                "the private key is encrypted".into(),
                "decrypt it (openssl pkey -in KEY -out NEW), and let only the user PHP runs as read it",
            ));
        }
        let key =
            PrivateKeyDer::from_pem_slice(&pem).map_err(|error| unusable(&self.key, error.into(), hint))?;
        Ok((chain, key))
    }
}

/// The certificates in this file; at least one.
fn certificates(path: &Path, hint: &str) -> Result<Vec<CertificateDer<'static>>> {
    let refused = |error: Box<dyn std::error::Error + Send + Sync>| unusable(path, error, hint);
    let found = CertificateDer::pem_file_iter(path)
        .map_err(|error| refused(error.into()))?
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|error| refused(error.into()))?;
    match found.is_empty() {
        true => Err(refused("it holds no certificate".into())),
        false => Ok(found),
    }
}

fn unusable(path: &Path, error: Box<dyn std::error::Error + Send + Sync>, hint: &str) -> Error {
    Error::new(ErrorKind::Config, format!("cannot use {} for TLS", path.display())).source(error).hint(hint)
}

/// Whether the server ended the connection because of the client's certificate, or because there was none. With TLS
/// 1.3 that comes after the handshake, in place of the first answer.
pub(super) fn wants_certificate(error: &io::Error) -> bool {
    let rustls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    rustls.is_some_and(about_our_certificate)
}

fn about_our_certificate(error: &rustls::Error) -> bool {
    use AlertDescription as Alert;
    matches!(
        error,
        rustls::Error::AlertReceived(
            Alert::CertificateRequired
                | Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
        )
    )
}

/// The error about it.
pub(super) fn certificate_wanted(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Auth, "the server does not accept the client's certificate, or its absence")
        .source(error)
        .hint("name one that the server's authority has signed, with local_cert= and local_pk=")
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
    if about_our_certificate(&error) {
        return certificate_wanted(error);
    }
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

/// PHP's switches: `verify_peer`, `verify_peer_name` and `allow_self_signed`.
#[derive(Debug)]
struct Verifier {
    /// `None` trusts any certificate.
    strict: Option<Arc<WebPkiServerVerifier>>,
    /// Certificates that are good as they are, whatever they were made for: `openssl req -x509` makes authorities, and
    /// those are no servers to the strict one.
    trusted: Vec<CertificateDer<'static>>,
    self_signed: bool,
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
        if self.trusted.contains(end_entity) || (self.self_signed && signed_itself(end_entity)) {
            if self.name {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
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

/// Whether the certificate names itself as its authority.
fn signed_itself(certificate: &CertificateDer<'_>) -> bool {
    webpki::EndEntityCert::try_from(certificate).is_ok_and(|parsed| parsed.issuer() == parsed.subject())
}
