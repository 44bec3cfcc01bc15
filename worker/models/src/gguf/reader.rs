//! Reading bytes in order, never beyond their end.

use bytes::{Buf, Bytes};

type Result<T> = std::result::Result<T, String>;

#[derive(Clone)]
pub(super) struct Reader {
    rest: Bytes,
    length: usize,
}

impl Reader {
    pub(super) fn new(bytes: Bytes) -> Reader {
        Reader {
            length: bytes.len(),
            rest: bytes,
        }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> usize {
        self.length - self.rest.len()
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<Bytes> {
        if count > self.rest.len() {
            return Err(format!("it ends early, at byte {}", self.length));
        }
        Ok(self.rest.split_to(count))
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        Ok(self.bytes(4)?.get_u32_le())
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        Ok(self.bytes(8)?.get_u64_le())
    }

    pub(super) fn size(&mut self) -> Result<usize> {
        let size = self.u64()?;
        usize::try_from(size).map_err(|_| format!("a size of {size} is beyond this machine"))
    }

    /// How many things follow, each of at least `least` bytes.
    pub(super) fn count(&mut self, least: usize) -> Result<usize> {
        let count = self.size()?;
        if count > self.rest.len() / least {
            return Err(format!(
                "it is too short for the {count} entries it announces"
            ));
        }
        Ok(count)
    }

    /// A length and as many bytes of UTF-8.
    pub(super) fn text(&mut self) -> Result<String> {
        let length = self.count(1)?;
        let bytes = self.bytes(length)?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => Err(format!("a string is not UTF-8: {error}")),
        }
    }
}
