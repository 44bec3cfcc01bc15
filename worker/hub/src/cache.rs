//! The cache on disk, in the layout that all of the hub's tools share: content
//! once under its tag in `blobs`, links to it under the files' names in
//! `snapshots/COMMIT`, and in `refs` the commit that a branch or tag was.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::error::HubError;

/// The part of the cache that is one model's.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    root: PathBuf,
    /// `models--owner--name`
    folder: String,
}

impl Cache {
    pub(crate) fn new(root: &Path, repository: &str) -> Cache {
        Cache {
            root: root.to_owned(),
            folder: format!("models--{}", repository.replace('/', "--")),
        }
    }

    /// The commit that this branch, tag or commit was when it was last fetched.
    pub(crate) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let name = is_inside(revision).then(|| self.folder().join("refs").join(revision))?;
        let commit = fs::read_to_string(name).ok()?;
        let commit = commit.trim();
        is_commit(commit).then(|| commit.to_owned())
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder().join("snapshots").join(commit)
    }

    /// Names of the files of a snapshot that are here.
    pub(crate) fn files(&self, commit: &str) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let root = self.snapshot(commit);
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(path);
                } else if path.exists()
                    && let Some(name) = path.strip_prefix(&root).ok().and_then(Path::to_str)
                {
                    names.insert(name.to_owned());
                }
            }
        }
        names
    }

    pub(crate) fn blob(&self, tag: &str) -> PathBuf {
        self.folder().join("blobs").join(tag)
    }

    /// A file that whoever writes this blob has locked.
    pub(crate) fn lock_file(&self, tag: &str) -> Result<File, HubError> {
        let folder = self.root.join(".locks").join(&self.folder);
        fs::create_dir_all(&folder).map_err(HubError::disk(&folder))?;
        let path = folder.join(format!("{tag}.lock"));
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        file.map_err(HubError::disk(&path))
    }

    /// Gives the blob the name of a snapshot's file.
    pub(crate) fn link(&self, commit: &str, file: &str, tag: &str) -> Result<(), HubError> {
        let path = self.snapshot(commit).join(file);
        let folder = path.parent().unwrap_or(&path);
        fs::create_dir_all(folder).map_err(HubError::disk(folder))?;
        if path.is_symlink() && !path.exists() {
            // It leads to a blob that was lost.
            fs::remove_file(&path).map_err(HubError::disk(&path))?;
        }
        let up = "../".repeat(2 + file.matches('/').count());
        let linked = link(&format!("{up}blobs/{tag}"), &self.blob(tag), &path);
        match linked {
            // Somebody else was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other.map_err(HubError::disk(&path)),
        }
    }

    /// Remembers what a branch or tag is.
    pub(crate) fn remember(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if revision == commit || !is_inside(revision) {
            return Ok(());
        }
        let path = self.folder().join("refs").join(revision);
        let folder = path.parent().unwrap_or(&path);
        fs::create_dir_all(folder).map_err(HubError::disk(folder))?;
        fs::write(&path, commit).map_err(HubError::disk(&path))
    }

    fn folder(&self) -> PathBuf {
        self.root.join(&self.folder)
    }
}

/// Commits do not change; branches and tags may.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a relative path leads nowhere out of its folder.
pub(crate) fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.contains(['\\', '\0', '\n'])
        && path.split('/').all(|part| !part.is_empty())
        && Path::new(path)
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(unix)]
fn link(relative: &str, _blob: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(relative, path)
}

/// Links need rights that few have there.
#[cfg(not(unix))]
fn link(_relative: &str, blob: &Path, path: &Path) -> io::Result<()> {
    fs::rename(blob, path)
}
