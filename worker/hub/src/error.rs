//! Why a model could not be fetched.

use std::io;
use std::path::{Path, PathBuf};

/// Says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    #[error("there is no place for models: set HF_HOME to a folder")]
    NoCache,
    #[error(
        "{endpoint} has no model {name}, nor is there a file or folder of that name here; check \
         the name, and set HF_TOKEN if the model is private"
    )]
    NoModel { endpoint: String, name: String },
    #[error("{name} has no revision {revision}; check --revision")]
    NoRevision { name: String, revision: String },
    #[error("{name} has no file {file} ({there}); check the name after the colon")]
    NoFile {
        name: String,
        file: String,
        there: String,
    },
    #[error(
        "{name} is gated: accept its terms on {endpoint}/{name}, then set HF_TOKEN to a token of \
         your account (or run hf auth login)"
    )]
    Gated { endpoint: String, name: String },
    #[error(
        "{name} is gated, and the account of this token has no access to it: ask for it on \
         {endpoint}/{name}"
    )]
    NoAccess { endpoint: String, name: String },
    #[error("{endpoint} refuses the token; make a new one and set HF_TOKEN")]
    BadToken { endpoint: String },
    #[error("{name} has no weights in safetensors or GGUF ({there}); choose another model")]
    NoWeights { name: String, there: String },
    #[error("{name} has several GGUF files ({there}); name one, as in {name}:{example}")]
    WhichFile {
        name: String,
        there: String,
        example: String,
    },
    #[error("{file} is one part of several; choose a GGUF model in one file")]
    Split { file: String },
    #[error(
        "HF_HUB_OFFLINE is set, and of {name} the cache {} lacks {missing}; fetch it before, or \
         unset HF_HUB_OFFLINE", .cache.display()
    )]
    NotCached {
        name: String,
        cache: PathBuf,
        missing: String,
    },
    #[error(
        "can't reach {endpoint}: {reason}; HF_ENDPOINT may name a mirror, and --model a folder or \
         file on this machine"
    )]
    Unreachable { endpoint: String, reason: String },
    #[error("{url} was refused: {reason}")]
    Refused { url: String, reason: String },
    #[error("{url} is not what a hub answers: {reason}")]
    Malformed { url: String, reason: String },
    #[error(
        "{file} arrived damaged and was deleted ({kind} {found} instead of {expected}); start \
         again to fetch it anew"
    )]
    Checksum {
        file: String,
        kind: &'static str,
        expected: String,
        found: String,
    },
    #[error(
        "no space is left for {file} in {}; free some, or set HF_HOME to a larger disk", .path.display()
    )]
    Full { file: String, path: PathBuf },
    #[error("can't write {}: {source}; check HF_HOME", .path.display())]
    Disk { path: PathBuf, source: io::Error },
    #[error("the certificates of {} can't be read: {reason}", .path.display())]
    Authority { path: PathBuf, reason: String },
}

impl HubError {
    /// Of a file of the cache.
    pub(crate) fn disk(path: &Path) -> impl Fn(io::Error) -> HubError {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => HubError::Full {
                file: path.file_name().unwrap_or_default().display().to_string(),
                path: path.parent().unwrap_or(path).to_owned(),
            },
            _ => HubError::Disk {
                path: path.to_owned(),
                source,
            },
        }
    }
}

/// A few of these names, for an error.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    const SHOWN: usize = 8;
    let names: Vec<_> = names.into_iter().map(String::as_str).collect();
    match names.len() {
        0 => "nothing fits".to_owned(),
        len if len > SHOWN => format!(
            "there are {} and {} more",
            names[..SHOWN].join(", "),
            len - SHOWN
        ),
        _ => format!("there are {}", names.join(", ")),
    }
}
