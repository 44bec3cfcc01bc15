//! Membership by etcd leases.
//!
//! A worker keeps `/kvasir/CLUSTER/workers/ID` under a lease; a router reads
//! and watches that prefix. etcd may be down, frozen, restarted or empty: the
//! last known members stay, and only an etcd that answers can make one absent.
//! A member that it has not named for `--etcd-absence-grace` is removed; the
//! clock starts anew whenever etcd was away. A worker that lost its lease
//! registers again under the same id, which changes nothing for routers.
//!
//! The client's build needs `protoc`, so all of it is behind the feature
//! `etcd`; without it the flags are known and refused with advice.

#[cfg(feature = "etcd")]
mod backoff;
#[cfg(feature = "etcd")]
mod connection;
#[cfg(feature = "etcd")]
mod follow;
#[cfg(feature = "etcd")]
mod record;
#[cfg(feature = "etcd")]
mod register;
#[cfg(not(feature = "etcd"))]
mod unsupported;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::WorkerAddress;
use crate::config::{Check, HumanDuration};

#[cfg(feature = "etcd")]
pub use follow::follow;
#[cfg(feature = "etcd")]
pub use register::register;
#[cfg(not(feature = "etcd"))]
pub use unsupported::{follow, register};

/// What to do with a build that has no etcd client.
const NOT_BUILT: &str = "this build of kvasir has no etcd client: build it with \
    `cargo build --release --features etcd` (needs protoc), or take the container image";

/// etcd counts leases in seconds, and grants none below its election timeout.
const SHORTEST_LEASE: Duration = Duration::from_secs(2);

/// How to reach etcd.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "etcd")]
pub struct Config {
    /// An etcd server through which routers find workers
    /// (http://HOST:PORT, https://HOST:PORT); once for each
    #[arg(long, value_name = "URL")]
    pub etcd: Vec<String>,

    /// Name of the cluster: its workers are under /kvasir/NAME/workers/
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub etcd_cluster: String,

    /// An etcd that does not answer within this time is taken for away, and the
    /// next one is tried
    #[arg(long, value_name = "TIME", default_value = "3s")]
    pub etcd_timeout: HumanDuration,

    /// User of etcd, if it asks for one
    #[arg(long, value_name = "NAME")]
    pub etcd_user: Option<String>,

    /// File with the user's password; read anew at every connection
    #[arg(long, value_name = "FILE")]
    pub etcd_password_file: Option<PathBuf>,

    /// File with the certificates (PEM) of the authorities that sign etcd's;
    /// needed for https
    #[arg(long, value_name = "FILE")]
    pub etcd_ca: Option<PathBuf>,

    /// File with the certificate (PEM) to show to etcd
    #[arg(long, value_name = "FILE")]
    pub etcd_cert: Option<PathBuf>,

    /// File with the key (PEM) of --etcd-cert
    #[arg(long, value_name = "FILE")]
    pub etcd_key: Option<PathBuf>,
}

/// How a router follows the workers in etcd.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct FollowConfig {
    #[command(flatten)]
    pub server: Config,

    /// A worker that an answering etcd has not named for this time leaves the
    /// cluster, unless it is still connected. More than workers need to
    /// register again after etcd lost its data
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub etcd_absence_grace: HumanDuration,
}

/// How a worker stands in etcd.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct RegisterConfig {
    #[command(flatten)]
    pub server: Config,

    /// This worker's registration outlives it by this time at most; in whole
    /// seconds
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub etcd_lease_ttl: HumanDuration,
}

/// What a worker tells routers before they connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Unique in the cluster, and the same after the lease was lost.
    pub id: String,
    pub address: WorkerAddress,
    /// Tells one start of the worker from the next.
    pub epoch: u64,
    /// For whoever reads the registration, such as its model and role.
    pub labels: BTreeMap<String, String>,
}

/// etcd can't be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    #[error("{NOT_BUILT}")]
    NotBuilt,
    #[error("{url:?} is no address of etcd: {reason}; write it as http://HOST:PORT")]
    Url { url: String, reason: String },
    #[error("can't read {}: {source}; check {flag}", .path.display())]
    File {
        flag: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("can't use TLS with {url}: {reason}; check --etcd-ca, --etcd-cert and --etcd-key")]
    Tls { url: String, reason: String },
}

impl Config {
    /// Whether etcd is to be used.
    pub fn is_given(&self) -> bool {
        !self.etcd.is_empty()
    }

    /// What all workers' keys begin with.
    #[cfg(feature = "etcd")]
    fn prefix(&self) -> String {
        format!("/kvasir/{}/workers/", self.etcd_cluster)
    }

    fn needs_ca(&self) -> bool {
        self.etcd.iter().any(|url| url.starts_with("https:"))
    }
}

impl Check for Config {
    fn check(&self, mistakes: &mut Vec<String>) {
        let mut mistake = |wrong: bool, text: &str| {
            if wrong {
                mistakes.push(text.to_owned());
            }
        };
        if self.is_given() && cfg!(not(feature = "etcd")) {
            mistake(true, &format!("--etcd: {NOT_BUILT}"));
        }
        for url in &self.etcd {
            if let Err(reason) = check_url(url) {
                let text = format!("--etcd {url}: {reason}; write it as http://HOST:PORT");
                mistake(true, &text);
            }
        }
        let name = &self.etcd_cluster;
        mistake(
            name.is_empty() || name.contains(|c: char| c == '/' || c.is_whitespace()),
            "--etcd-cluster must be one word without a slash",
        );
        mistake(
            self.etcd_timeout.0 == Duration::ZERO,
            "--etcd-timeout must be above 0",
        );
        mistake(
            self.etcd_user.is_some() != self.etcd_password_file.is_some(),
            "--etcd-user and --etcd-password-file go together",
        );
        mistake(
            self.etcd_cert.is_some() != self.etcd_key.is_some(),
            "--etcd-cert and --etcd-key go together",
        );
        mistake(
            self.needs_ca() && self.etcd_ca.is_none(),
            "--etcd with https needs --etcd-ca",
        );
    }
}

impl Check for FollowConfig {
    fn check(&self, mistakes: &mut Vec<String>) {
        self.server.check(mistakes);
    }
}

impl Check for RegisterConfig {
    fn check(&self, mistakes: &mut Vec<String>) {
        self.server.check(mistakes);
        if self.etcd_lease_ttl.0 < SHORTEST_LEASE {
            mistakes.push("--etcd-lease-ttl must be 2s or more".to_owned());
        }
    }
}

fn check_url(url: &str) -> Result<(), &'static str> {
    let uri: http::Uri = url.parse().map_err(|_| "it is no URL")?;
    match uri.scheme_str() {
        Some("http" | "https") => {}
        Some(_) => return Err("its scheme is neither http nor https"),
        None => return Err("it has no scheme"),
    }
    if uri.port_u16().is_none() {
        return Err("it has no port");
    }
    let is_bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
    is_bare.then_some(()).ok_or("it has a path")
}

#[cfg(test)]
mod tests;
