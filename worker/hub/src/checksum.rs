//! The hub's checksums: SHA-256 of large files, git's object id of small ones.

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

/// What a file's content must be, if its entity tag says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Checksum {
    /// Large files (LFS).
    Sha256(String),
    /// SHA-1 of a header with the length and the content.
    GitBlob { id: String, length: u64 },
    /// A mirror's own tag.
    Unknown,
}

/// Of content that is read from its beginning on.
#[derive(Clone)]
pub(crate) struct Digest(Option<Context>);

impl Checksum {
    /// Of an entity tag without quotes, of a file of this length.
    pub(crate) fn of_tag(tag: &str, length: Option<u64>) -> Checksum {
        let hex = tag
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match (tag.len(), length) {
            (64, _) if hex => Checksum::Sha256(tag.to_owned()),
            (40, Some(length)) if hex => Checksum::GitBlob {
                id: tag.to_owned(),
                length,
            },
            _ => Checksum::Unknown,
        }
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Checksum::Sha256(_) => "SHA-256",
            Checksum::GitBlob { .. } => "git object",
            Checksum::Unknown => "no checksum",
        }
    }

    /// Of nothing so far.
    pub(crate) fn start(&self) -> Digest {
        Digest(match self {
            Checksum::Sha256(_) => Some(Context::new(&SHA256)),
            Checksum::GitBlob { length, .. } => {
                let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
                context.update(format!("blob {length}\0").as_bytes());
                Some(context)
            }
            Checksum::Unknown => None,
        })
    }

    /// Expected and found checksum, if they differ.
    pub(crate) fn difference(&self, digest: Digest) -> Option<(String, String)> {
        let (Checksum::Sha256(expected) | Checksum::GitBlob { id: expected, .. }) = self else {
            return None;
        };
        let found = digest.finish()?;
        (found != *expected).then(|| (expected.clone(), found))
    }
}

impl Digest {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        if let Some(context) = &mut self.0 {
            context.update(bytes);
        }
    }

    fn finish(self) -> Option<String> {
        let digest = self.0?.finish();
        let hex = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
        Some(hex.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf hello | sha256sum`, `printf hello | git hash-object --stdin`.
    const TAGS: [&str; 2] = [
        "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
        "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0",
    ];

    fn check(tag: &str, content: &[u8]) -> Option<(String, String)> {
        let checksum = Checksum::of_tag(tag, Some(content.len() as u64));
        let mut digest = checksum.start();
        content.chunks(2).for_each(|part| digest.update(part));
        checksum.difference(digest)
    }

    #[test]
    fn content_is_told_from_other_content() {
        for tag in TAGS {
            assert_eq!(check(tag, b"hello"), None);
            let (expected, found) = check(tag, b"hellp").unwrap();
            assert_eq!(expected, tag);
            assert_ne!(found, tag);
        }
    }

    #[test]
    fn a_tag_of_another_kind_says_nothing() {
        for tag in ["", "v1", &"G".repeat(64), &"a".repeat(63)] {
            assert_eq!(Checksum::of_tag(tag, Some(1)), Checksum::Unknown);
            assert_eq!(check(tag, b"x"), None);
        }
    }
}
