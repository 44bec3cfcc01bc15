//! A model's files, from the cache or the hub.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::cache::{Cache, is_commit};
use crate::choice::{CONFIG, Choice, INDEX, Wanted, shards};
use crate::client::{Asked, Client, Listing, Trouble};
use crate::download::Download;
use crate::error::HubError;
use crate::name::ModelName;
use crate::settings::Settings;

/// What of a model is needed.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub name: &'a ModelName,
    /// A branch, a tag or a commit.
    pub revision: &'a str,
    /// Names of small files, taken if the model has them.
    pub small_files: &'a [&'a str],
    /// Or only the small files, where they say all.
    pub weights: bool,
}

/// Where a model's files are now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Snapshot {
    /// A folder of these files among others.
    Checkpoint(PathBuf),
    Gguf(PathBuf),
}

/// Sees to it that the model's files are in the cache. Asks the hub what the
/// revision is today; what is in the cache is taken instead if the hub can't be
/// reached or must not be asked. A commit that is there is not asked for.
pub fn fetch(settings: &Settings, request: &Request<'_>) -> Result<Snapshot, HubError> {
    let root = settings.cache.as_deref().ok_or(HubError::NoCache)?;
    let fetch = Fetch {
        request,
        cache: Cache::new(root, &request.name.repository),
    };
    if settings.offline {
        return fetch.cached().map_err(|missing| HubError::NotCached {
            name: request.name.to_string(),
            cache: root.to_owned(),
            missing,
        });
    }
    if is_commit(request.revision)
        && let Ok(snapshot) = fetch.cached()
    {
        return Ok(snapshot);
    }
    fetch.remote(&Client::new(settings)?)
}

struct Fetch<'a> {
    request: &'a Request<'a>,
    cache: Cache,
}

impl Fetch<'_> {
    fn wanted(&self) -> Wanted<'_> {
        Wanted {
            name: self.request.name,
            small_files: self.request.small_files,
            weights: self.request.weights,
        }
    }

    fn asked<'a>(&'a self, revision: &'a str) -> Asked<'a> {
        Asked {
            repository: &self.request.name.repository,
            revision,
        }
    }

    /// What is in the cache, or what is missing there.
    fn cached(&self) -> Result<Snapshot, String> {
        let revision = self.request.revision;
        let commit = self.cache.commit(revision);
        let commit = commit.ok_or_else(|| format!("revision {revision}"))?;
        let there = self.cache.files(&commit);
        let choice = self.wanted().choose(&there).map_err(|error| match error {
            HubError::NoWeights { .. } if !there.contains(CONFIG) => CONFIG.to_owned(),
            HubError::NoWeights { .. } => "its weights".to_owned(),
            other => other.to_string(),
        })?;
        if let Choice::Checkpoint(files) = &choice
            && files.iter().any(|file| file == INDEX)
        {
            let index = std::fs::read(self.cache.snapshot(&commit).join(INDEX));
            let shards = index.ok().and_then(|index| shards(&index));
            let shards = shards.ok_or_else(|| INDEX.to_owned())?;
            if let Some(missing) = shards.difference(&there).next() {
                return Err(missing.clone());
            }
        }
        Ok(self.snapshot(&commit, choice))
    }

    fn remote(&self, client: &Client) -> Result<Snapshot, HubError> {
        let cached = self.cached();
        let listing = match (self.listing(client, cached.is_err()), cached) {
            (Ok(listing), _) => listing,
            (Err(error @ HubError::Unreachable { .. }), Ok(snapshot)) => {
                tracing::warn!("{error}; {} is taken from the cache", self.request.name);
                return Ok(snapshot);
            }
            (Err(error), _) => return Err(error),
        };
        let choice = self.wanted().choose(&listing.files)?;
        let commit = &listing.commit;
        let download = Download {
            client,
            cache: &self.cache,
            asked: self.asked(commit),
        };
        let files = match &choice {
            Choice::Gguf(file) => std::slice::from_ref(file),
            Choice::Checkpoint(files) => files,
        };
        for file in files {
            download.file(commit, file)?;
            if file == INDEX {
                for shard in self.shards(commit)? {
                    download.file(commit, &shard)?;
                }
            }
        }
        self.cache.remember(self.request.revision, commit)?;
        Ok(self.snapshot(commit, choice))
    }

    /// Tried again if there is nothing in the cache instead.
    fn listing(&self, client: &Client, needed: bool) -> Result<Listing, HubError> {
        let mut patience = client.patience();
        let asked = self.asked(self.request.revision);
        loop {
            match client.listing(&asked) {
                Ok(listing) => return Ok(listing),
                Err(Trouble::Final(error)) => return Err(error),
                Err(Trouble::Passing(reason)) => {
                    if !needed || !patience.wait(asked.repository, &reason) {
                        return Err(client.unreachable(reason));
                    }
                }
            }
        }
    }

    fn shards(&self, commit: &str) -> Result<BTreeSet<String>, HubError> {
        let path = self.cache.snapshot(commit).join(INDEX);
        let index = std::fs::read(&path).map_err(HubError::disk(&path))?;
        shards(&index).ok_or_else(|| HubError::Malformed {
            url: path.display().to_string(),
            reason: "it names no shards in its folder".to_owned(),
        })
    }

    fn snapshot(&self, commit: &str, choice: Choice) -> Snapshot {
        let folder = self.cache.snapshot(commit);
        match choice {
            Choice::Checkpoint(_) => Snapshot::Checkpoint(folder),
            Choice::Gguf(file) => Snapshot::Gguf(folder.join(file)),
        }
    }
}
