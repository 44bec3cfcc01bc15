//! One file's content into the cache: once among all processes, from where an
//! earlier try stopped, checked before it counts.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::PathBuf;

use crate::cache::Cache;
use crate::checksum::{Checksum, Digest};
use crate::client::{Asked, Bytes, Client, Remote, Trouble};
use crate::error::HubError;
use crate::progress::Progress;

/// Bytes that are read at a time.
const CHUNK: usize = 256 << 10;

/// Whose files are fetched from where to where.
pub(crate) struct Download<'a> {
    pub(crate) client: &'a Client,
    pub(crate) cache: &'a Cache,
    pub(crate) asked: Asked<'a>,
}

/// Content that has not arrived as a whole. It keeps what it has when it is
/// dropped.
struct Part {
    path: PathBuf,
    file: File,
    length: u64,
    /// Of these bytes.
    digest: Digest,
}

impl Download<'_> {
    /// Sees to it that the snapshot has this file.
    pub(crate) fn file(&self, commit: &str, file: &str) -> Result<(), HubError> {
        if self.cache.snapshot(commit).join(file).exists() {
            return Ok(());
        }
        let remote = self.stat(file)?;
        if !self.cache.blob(&remote.tag).exists() {
            self.blob(file, &remote)?;
        }
        self.cache.link(commit, file, &remote.tag)
    }

    fn stat(&self, file: &str) -> Result<Remote, HubError> {
        let mut patience = self.client.patience();
        loop {
            match self.client.stat(&self.asked, file) {
                Ok(remote) => return Ok(remote),
                Err(Trouble::Final(error)) => return Err(error),
                Err(Trouble::Passing(reason)) => {
                    if !patience.wait(file, &reason) {
                        return Err(self.client.unreachable(reason));
                    }
                }
            }
        }
    }

    fn blob(&self, file: &str, remote: &Remote) -> Result<(), HubError> {
        let blob = self.cache.blob(&remote.tag);
        // Held until this is done.
        let lock = self.cache.lock_file(&remote.tag)?;
        lock_exclusively(&lock, file).map_err(HubError::disk(&blob))?;
        if blob.exists() {
            return Ok(());
        }
        let checksum = Checksum::of_tag(&remote.tag, remote.size);
        let mut part = Part::open(blob.with_added_extension("incomplete"), remote, &checksum)?;
        let mut progress = Progress::start(file, remote.size, part.length);
        self.fill(&mut part, remote, &mut progress)?;
        progress.finish();
        if let Some((expected, found)) = checksum.difference(part.digest.clone()) {
            fs::remove_file(&part.path).map_err(HubError::disk(&part.path))?;
            return Err(HubError::Checksum {
                file: file.to_owned(),
                kind: checksum.kind(),
                expected,
                found,
            });
        }
        part.become_file(&blob)
    }

    /// Until all is there.
    fn fill(
        &self,
        part: &mut Part,
        remote: &Remote,
        progress: &mut Progress,
    ) -> Result<(), HubError> {
        let mut patience = self.client.patience();
        while remote.size.is_none_or(|size| part.length < size) {
            let before = part.length;
            let came = self
                .client
                .bytes(&self.asked, &remote.url, part.length)
                .and_then(|bytes| part.append(bytes, remote, progress));
            let reason = match came {
                Ok(()) if remote.size.is_none_or(|size| part.length == size) => return Ok(()),
                Ok(()) => format!("it was cut after {} bytes", part.length),
                Err(Trouble::Passing(reason)) => reason,
                Err(Trouble::Final(error)) => return Err(error),
            };
            if part.length > before {
                patience.restore();
            }
            if !patience.wait(progress.file(), &reason) {
                return Err(self.client.unreachable(reason));
            }
        }
        Ok(())
    }
}

impl Part {
    /// With what an earlier try left.
    fn open(path: PathBuf, remote: &Remote, checksum: &Checksum) -> Result<Part, HubError> {
        let disk = HubError::disk(&path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(HubError::disk(folder))?;
        }
        let mut options = File::options();
        let options = options.create(true).read(true).append(true);
        let mut file = options.open(&path).map_err(&disk)?;
        let mut length = file.metadata().map_err(&disk)?.len();
        if remote.size.is_none_or(|size| length > size) {
            file.set_len(0).map_err(&disk)?;
            length = 0;
        }
        let mut digest = checksum.start();
        let mut buffer = vec![0; CHUNK];
        let mut rest = (&mut file).take(length);
        loop {
            match rest.read(&mut buffer).map_err(&disk)? {
                0 => break,
                read => digest.update(&buffer[..read]),
            }
        }
        drop(disk);
        Ok(Part {
            path,
            file,
            length,
            digest,
        })
    }

    /// As far as they come.
    fn append(
        &mut self,
        mut bytes: Bytes,
        remote: &Remote,
        progress: &mut Progress,
    ) -> Result<(), Trouble> {
        // What is here already is read over: the server knows no ranges.
        let mut over = self.length - bytes.start;
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = match bytes.reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Trouble::Passing(error.to_string())),
            };
            let known = over.min(read as u64) as usize;
            over -= known as u64;
            let mut new = &buffer[known..read];
            if let Some(size) = remote.size {
                // Beyond its size there is nothing of the file.
                let room = (size - self.length).min(new.len() as u64) as usize;
                new = &new[..room];
            }
            self.file
                .write_all(new)
                .map_err(|error| Trouble::Final(HubError::disk(&self.path)(error)))?;
            self.digest.update(new);
            self.length += new.len() as u64;
            progress.at(self.length);
        }
    }

    /// Whole, and on the disk before it has the name of whole ones.
    fn become_file(self, blob: &std::path::Path) -> Result<(), HubError> {
        self.file.sync_all().map_err(HubError::disk(&self.path))?;
        fs::rename(&self.path, blob).map_err(HubError::disk(blob))
    }
}

/// Waits for whoever fetches the same.
fn lock_exclusively(lock: &File, file: &str) -> io::Result<()> {
    match lock.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            tracing::info!("{file} is being fetched already; waiting for it");
            lock.lock()
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}
