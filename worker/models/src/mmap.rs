//! Files mapped into memory; the crate's only unsafe code.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::Mmap;

/// A large file's content, or its rest from some place on.
#[derive(Clone)]
pub(crate) enum Content {
    Held(Bytes),
    /// Read from disk when it is first touched.
    Mapped(Arc<Mmap>, usize),
}

/// A part of a mapped file. Its pages are let go with it: what is packed for the
/// device is not held a second time.
struct Piece {
    map: Arc<Mmap>,
    range: Range<usize>,
}

/// The file's content. The file must not be changed or shortened while it is in
/// use: tools replace checkpoints by renaming, which leaves the mapped file as it
/// was.
pub(crate) fn map(path: &Path) -> io::Result<Content> {
    let file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(Content::Held(Bytes::new()));
    }
    // SAFETY: the bytes are only read, and are numbers of which any value is
    // valid; that nobody writes to the file is asked of the user above.
    let map = unsafe { Mmap::map(&file)? };
    Ok(Content::Mapped(Arc::new(map), 0))
}

impl Content {
    /// # Panics
    /// If the content is shorter.
    pub(crate) fn slice(&self, range: Range<usize>) -> Bytes {
        match self {
            Content::Held(bytes) => bytes.slice(range),
            Content::Mapped(map, start) => {
                assert!(range.start <= range.end && range.end <= self.len());
                Bytes::from_owner(Piece {
                    map: map.clone(),
                    range: start + range.start..start + range.end,
                })
            }
        }
    }

    /// # Panics
    /// If the content is shorter.
    pub(crate) fn rest(&self, from: usize) -> Content {
        assert!(from <= self.len());
        match self {
            Content::Held(bytes) => Content::Held(bytes.slice(from..)),
            Content::Mapped(map, start) => Content::Mapped(map.clone(), start + from),
        }
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Content {
        Content::Held(bytes)
    }
}

impl Deref for Content {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Content::Held(bytes) => bytes,
            Content::Mapped(map, start) => &map[*start..],
        }
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.map[self.range.clone()]
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        #[cfg(unix)]
        if !self.range.is_empty() {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the mapping is of a file and never written to: pages that
            // are let go have the same content when they are touched again.
            let let_go = unsafe {
                self.map
                    .unchecked_advise_range(advice, self.range.start, self.range.len())
            };
            // Without the advice they stay, which costs memory and nothing else.
            let _ = let_go;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_file_reads_the_same_after_its_pages_were_let_go() {
        let name = format!("kvasir-mmap-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let written: Vec<u8> = (0..100_000usize).map(|i| (i * 7 + i / 256) as u8).collect();
        std::fs::write(&path, &written).unwrap();
        let content = map(&path).unwrap();
        let rest = content.rest(10_000);
        for _ in 0..2 {
            assert_eq!(content.slice(5_000..95_000), &written[5_000..95_000]);
            assert_eq!(rest.slice(0..70_000), &written[10_000..80_000]);
            assert!(content.slice(9..9).is_empty());
        }
        assert_eq!(*rest, written[10_000..]);
        std::fs::remove_file(&path).unwrap();
    }
}
