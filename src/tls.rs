//! TLS of the listeners and towards the brokers, from the files that the configuration names.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::config::address::Transport;
use crate::config::{ClientTls, Config, ServerTls};

/// A file that TLS needs cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read, or holds nothing of the kind.
    #[error("{path}: {detail}. The file must hold {wanted} in PEM form and be readable by Oncegate's user.")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
        /// What it should hold.
        wanted: &'static str,
    },
    /// The files do not go together.
    #[error("{path}: {source}. {remedy}")]
    Unfit {
        /// The certificate file.
        path: PathBuf,
        /// What would be right.
        remedy: &'static str,
        /// Why.
        source: rustls::Error,
    },
}

/// What the listeners show their clients.
pub fn acceptor(tls: &ServerTls) -> Result<TlsAcceptor, TlsError> {
    let certificates = certificates(&tls.cert)?;
    let key = key(&tls.key)?;
    let builder = match &tls.client_ca {
        None => ServerConfig::builder().with_no_client_auth(),
        Some(ca) => {
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots(ca)?))
                .build()
                .map_err(|error| TlsError::File {
                    path: ca.clone(),
                    detail: error.to_string(),
                    wanted: "the certificates of the authorities that sign clients",
                })?;
            ServerConfig::builder().with_client_cert_verifier(verifier)
        }
    };
    let config = builder
        .with_single_cert(certificates, key)
        .map_err(|source| unfit(&tls.cert, PAIR, source))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// How Oncegate calls brokers: their certificates must be signed by `ca`, else by an authority that the system trusts, and it shows its
/// own certificate if there is one.
pub fn connector(tls: &ClientTls) -> Result<TlsConnector, TlsError> {
    let roots = match &tls.ca {
        Some(ca) => roots(ca)?,
        None => system_roots(),
    };
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some((cert, key_file)) => builder
            .with_client_auth_cert(certificates(cert)?, key(key_file)?)
            .map_err(|source| unfit(cert, PAIR, source))?,
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Tries the TLS files of a configuration as the proxy will use them, each with the table that names it.
pub fn check(config: &Config) -> Vec<(&'static str, TlsError)> {
    let dials = config.control.dials_tls() || config.proxy.upstream.iter().any(|upstream| upstream.transport == Transport::Tls);
    let tried = [
        ("proxy.tls", config.proxy.tls.as_ref().map(|tls| acceptor(tls).map(drop))),
        ("proxy.upstream_tls", dials.then(|| connector(&config.proxy.upstream_tls).map(drop))),
        ("admin.tls", config.admin.tls.as_ref().map(|tls| acceptor(tls).map(drop))),
    ];
    let wrong = tried.into_iter().filter_map(|(table, tried)| Some((table, tried?.err()?)));
    wrong.collect()
}

/// Begins TLS on a connection to a broker whose certificate must carry the name `host`.
pub async fn connect(connector: &TlsConnector, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    let name =
        ServerName::try_from(host.to_owned()).map_err(|_| io::Error::other(format!("{host} is no name that a certificate can carry")))?;
    connector.connect(name, stream).await
}

/// What holds of a certificate and its key.
const PAIR: &str = "The certificate and the key beside it must be two halves of one pair.";

fn unfit(path: &Path, remedy: &'static str, source: rustls::Error) -> TlsError {
    TlsError::Unfit {
        path: path.to_owned(),
        remedy,
        source,
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wanted = "certificates";
    let fault = |detail: String| TlsError::File {
        path: path.to_owned(),
        detail,
        wanted,
    };
    let found = CertificateDer::pem_file_iter(path).map_err(|error| fault(error.to_string()))?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|error| fault(error.to_string()))?;
    if found.is_empty() {
        return Err(fault("holds no certificate".to_owned()));
    }
    Ok(found)
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| TlsError::File {
        path: path.to_owned(),
        detail: match error {
            pem::Error::NoItemsFound => "holds no private key".to_owned(),
            other => other.to_string(),
        },
        wanted: "a private key without a passphrase",
    })
}

/// What the system trusts; a certificate that cannot be read is left out, and so trusts nobody.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|source| unfit(path, "Each certificate in it must be one of an authority.", source))?;
    }
    Ok(roots)
}
