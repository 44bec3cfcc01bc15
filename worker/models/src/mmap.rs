//! Files mapped into memory; the crate's only unsafe code.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::path::Path;

use bytes::Bytes;
use memmap2::Mmap;

/// The file's content, read from disk when it is first touched. The file must
/// not be changed or shortened while it is in use: tools replace checkpoints by
/// renaming, which leaves the mapped file as it was.
pub(crate) fn map(path: &Path) -> io::Result<Bytes> {
    let file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the bytes are only read, and are numbers of which any value is
    // valid; that nobody writes to the file is asked of the user above.
    let map = unsafe { Mmap::map(&file)? };
    Ok(Bytes::from_owner(map))
}
