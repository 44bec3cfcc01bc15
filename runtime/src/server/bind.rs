//! Taking a port, with a message that says what to do when it can't be had.

use std::io;

use tokio::net::TcpListener;

/// A listening address can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("{address} is in use: choose another address with --listen (`kvasir up`: --port)")]
    InUse { address: String },
    #[error("may not listen on {address}: ports below 1024 need a privilege; choose a higher one")]
    Forbidden { address: String },
    #[error("{address} is no address of this machine: {source}")]
    NotOurs { address: String, source: io::Error },
    #[error("can't listen on {address}: {source}")]
    Other { address: String, source: io::Error },
}

/// Listens on `address` (HOST:PORT; port 0 takes a free one).
pub async fn bind(address: &str) -> Result<TcpListener, BindError> {
    let failed = |source: io::Error| {
        let address = address.to_owned();
        match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { address },
            io::ErrorKind::PermissionDenied => BindError::Forbidden { address },
            io::ErrorKind::AddrNotAvailable => BindError::NotOurs { address, source },
            _ => BindError::Other { address, source },
        }
    };
    TcpListener::bind(address).await.map_err(failed)
}
