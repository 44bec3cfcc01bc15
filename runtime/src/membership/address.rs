//! The address of a worker, as people write it.

use std::fmt;
use std::str::FromStr;

/// Host (a name or an IP address) and port of a worker's gRPC server. Shown as
/// `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerAddress {
    host: String,
    port: u16,
}

/// A text is no worker address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no worker address: {reason}; write it as grpc://HOST:PORT")]
pub struct AddressError {
    text: String,
    reason: &'static str,
}

impl WorkerAddress {
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// For an HTTP/2 client without TLS: `http://HOST:PORT`.
    pub fn uri(&self) -> String {
        format!("http://{self}")
    }
}

impl fmt::Display for WorkerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl FromStr for WorkerAddress {
    type Err = AddressError;

    /// Accepts `grpc://HOST:PORT`, `http://HOST:PORT` and `HOST:PORT`; an IPv6
    /// host stands in brackets.
    fn from_str(text: &str) -> Result<WorkerAddress, AddressError> {
        parse(text.trim()).map_err(|reason| AddressError {
            text: text.to_owned(),
            reason,
        })
    }
}

fn parse(text: &str) -> Result<WorkerAddress, &'static str> {
    let authority = match text.split_once("://") {
        Some(("grpc" | "http", rest)) => rest.strip_suffix('/').unwrap_or(rest),
        Some(("grpcs" | "https", _)) => return Err("TLS to workers is not supported"),
        Some(_) => return Err("its scheme is not grpc"),
        None => text,
    };
    if authority.contains(['/', '?', '#', '@']) {
        return Err("it has more than host and port");
    }
    let (host, port) = authority.rsplit_once(':').ok_or("it has no port")?;
    let port = port
        .parse()
        .map_err(|_| "its port is not a number from 1 to 65535")?;
    if port == 0 {
        return Err("its port is not a number from 1 to 65535");
    }
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || host == "[]" {
        return Err("it has no host");
    }
    if host.contains(':') && !bracketed {
        return Err("an IPv6 host must stand in brackets");
    }
    if host.contains(char::is_whitespace) {
        return Err("there is a space in it");
    }
    Ok(WorkerAddress {
        host: host.to_ascii_lowercase(),
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ways_of_writing_give_one_address() {
        for text in [
            "grpc://Node-1:50051",
            "http://node-1:50051/",
            "node-1:50051",
            " node-1:50051 ",
        ] {
            let address: WorkerAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), "node-1:50051", "{text}");
            assert_eq!(address.uri(), "http://node-1:50051");
        }
        let six: WorkerAddress = "grpc://[::1]:7".parse().unwrap();
        assert_eq!((six.host(), six.port()), ("[::1]", 7));
    }

    #[test]
    fn mistakes_are_explained() {
        let table = [
            ("worker", "no port"),
            ("grpc://worker", "no port"),
            ("worker:http", "not a number"),
            ("worker:0", "not a number"),
            (":50051", "no host"),
            ("::1:50051", "brackets"),
            ("https://worker:1", "TLS"),
            ("ftp://worker:1", "scheme"),
            ("grpc://worker:1/path", "more than host and port"),
            ("my worker:1", "space"),
        ];
        for (text, reason) in table {
            let error = text.parse::<WorkerAddress>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
            assert!(error.contains("grpc://HOST:PORT"), "{error}");
        }
    }
}
