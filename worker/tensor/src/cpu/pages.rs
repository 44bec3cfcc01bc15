//! Memory for weights and KV, in large pages where the system has them.
//!
//! A token reads every weight once, and all keys and values of its sequence. In pages of 4 KiB the processor looks up an
//! address for each 64 cache lines, which a virtual machine pays twice, and its
//! prefetching ends with every page. Weights lie one after the other, so that
//! matrices smaller than a large page share them, and mappings stay few.

#![allow(unsafe_code)]

#[cfg(test)]
mod tests;

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use bytemuck::Zeroable;

use crate::error::DeviceError;

/// Bytes of a large page.
const LARGE: usize = 2 << 20;
/// Bytes that are mapped at once at least. What is never written takes no
/// memory.
const MAPPED: usize = 32 * LARGE;
/// Where numbers begin: at a cache line.
const ALIGNMENT: usize = 64;

/// Where numbers are put next.
pub(in crate::cpu) struct Arena {
    /// What they are, for who has no memory for them.
    what: &'static str,
    last: Mutex<Option<Filling>>,
}

/// A mapping and how much of it is taken.
struct Filling {
    mapping: Arc<Mapping>,
    taken: usize,
}

/// Pages of the system, which are zeros.
struct Mapping {
    map: NonNull<u8>,
    mapped: usize,
    /// Bytes before the first large page.
    skipped: usize,
}

/// Numbers that are zeros until they are written.
pub(in crate::cpu) struct Pages<T> {
    first: NonNull<T>,
    len: usize,
    /// Keeps the memory.
    _mapping: Option<Arc<Mapping>>,
    numbers: PhantomData<T>,
}

// SAFETY (both): whoever has a mapping reads and writes only the part that was
// given to it.
unsafe impl Send for Mapping {}
unsafe impl Sync for Mapping {}

// SAFETY (both): the numbers are this value's own, as a box's are.
unsafe impl<T: Send> Send for Pages<T> {}
unsafe impl<T: Sync> Sync for Pages<T> {}

impl Arena {
    pub(in crate::cpu) fn new(what: &'static str) -> Arena {
        Arena {
            what,
            last: Mutex::default(),
        }
    }

    /// `len` zeros.
    pub(in crate::cpu) fn zeroed<T: Zeroable + Copy>(
        &self,
        len: usize,
    ) -> Result<Pages<T>, DeviceError> {
        const { assert!(align_of::<T>() <= ALIGNMENT) };
        let no_memory = || DeviceError::OutOfMemory {
            what: self.what,
            elements: len,
        };
        let bytes = len.checked_mul(size_of::<T>()).ok_or_else(no_memory)?;
        if bytes == 0 {
            return Ok(Pages {
                first: NonNull::dangling(),
                len,
                _mapping: None,
                numbers: PhantomData,
            });
        }
        let (mapping, start) = self.take(bytes).ok_or_else(no_memory)?;
        // SAFETY: inside the mapping.
        let first = unsafe { mapping.map.add(mapping.skipped + start) };
        Ok(Pages {
            first: first.cast(),
            len,
            _mapping: Some(mapping),
            numbers: PhantomData,
        })
    }

    /// Bytes that nobody else has, and where they begin after the skipped ones.
    fn take(&self, bytes: usize) -> Option<(Arc<Mapping>, usize)> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |filling: &&mut Filling| filling.mapping.room() - filling.taken >= bytes;
        let filling = match last.as_mut().filter(fits) {
            Some(filling) => filling,
            None => last.insert(Filling {
                mapping: Arc::new(Mapping::new(bytes.max(MAPPED))?),
                taken: 0,
            }),
        };
        let start = filling.taken;
        let end = (start + bytes).next_multiple_of(ALIGNMENT);
        filling.taken = end.min(filling.mapping.room());
        Some((filling.mapping.clone(), start))
    }
}

impl Mapping {
    /// So many bytes from a large page on; `None` if there is no memory.
    fn new(bytes: usize) -> Option<Mapping> {
        let mapped = bytes.checked_add(LARGE)?;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, anywhere.
        let map = unsafe { libc::mmap(std::ptr::null_mut(), mapped, access, kind, -1, 0) };
        if map == libc::MAP_FAILED {
            return None;
        }
        #[cfg(target_os = "linux")]
        // SAFETY: the mapping. A system without large pages says so, and
        // nothing changes.
        unsafe {
            libc::madvise(map, mapped, libc::MADV_HUGEPAGE)
        };
        Some(Mapping {
            map: NonNull::new(map.cast())?,
            mapped,
            skipped: map.addr().next_multiple_of(LARGE) - map.addr(),
        })
    }

    /// Bytes from the first large page on.
    fn room(&self) -> usize {
        self.mapped - self.skipped
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by this value, and nobody has a part of it any more.
        unsafe { libc::munmap(self.map.as_ptr().cast(), self.mapped) };
    }
}

impl<T> Deref for Pages<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: so many numbers lie there, zeros at first, which T allows.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Pages<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in deref.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }
}
