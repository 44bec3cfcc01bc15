//! Identity of KV blocks.
//!
//! A block's identity covers everything its KV depends on: the model, the
//! adapter, the tenant's cache salt, and all tokens up to its end (by chaining
//! on its predecessor). It decides whose KV bytes are read, so it is keyed
//! BLAKE3 cut to 128 bits; the router's index, being a hint, uses 64 of them.

/// Identity of one full block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockHash(pub u128);

impl BlockHash {
    /// What a prompt's first block chains on.
    pub const ROOT: BlockHash = BlockHash(0);

    /// The 64 bits that events and the router's index use; never 0, which
    /// stands for [`BlockHash::ROOT`].
    pub fn short(self) -> u64 {
        (self.0 as u64).max(1)
    }
}

/// What blocks of equal tokens must also share to be the same block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashScope {
    key: [u8; 32],
}

impl HashScope {
    /// Blocks of `block_size` tokens of `model` (a fingerprint of its weights),
    /// shared between requests of equal `cache_salt`.
    pub fn new(model: &str, cache_salt: &str, block_size: usize) -> HashScope {
        HashScope::adapted(model, None, cache_salt, block_size)
    }

    /// The same under an adapter of that name.
    pub fn adapted(
        model: &str,
        adapter: Option<&str>,
        cache_salt: &str,
        block_size: usize,
    ) -> HashScope {
        let mut hasher = blake3::Hasher::new_derive_key("kvasir 2026-11-21 kv block identity");
        let parts = [Some(model), Some(cache_salt), adapter];
        for part in parts.into_iter().flatten() {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.update(&(block_size as u64).to_le_bytes());
        HashScope {
            key: *hasher.finalize().as_bytes(),
        }
    }

    /// Identity of the block that follows `parent` and holds `tokens`.
    pub fn chain(&self, parent: BlockHash, tokens: &[u32]) -> BlockHash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&parent.0.to_le_bytes());
        let mut bytes = [0u8; 256];
        for part in tokens.chunks(bytes.len() / 4) {
            for (out, token) in bytes.chunks_exact_mut(4).zip(part) {
                out.copy_from_slice(&token.to_le_bytes());
            }
            hasher.update(&bytes[..part.len() * 4]);
        }
        let mut identity = [0u8; 16];
        identity.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        BlockHash(u128::from_le_bytes(identity))
    }

    /// Identities of all full blocks of `tokens`.
    pub fn full_blocks(&self, tokens: &[u32], block_size: usize) -> Vec<BlockHash> {
        let mut parent = BlockHash::ROOT;
        tokens
            .chunks_exact(block_size)
            .map(|block| {
                parent = self.chain(parent, block);
                parent
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_prefixes_have_equal_blocks_and_differ_from_the_first_other_token_on() {
        let scope = HashScope::new("m", "", 16);
        let a: Vec<u32> = (0..70).collect();
        let mut b = a.clone();
        b[20] = 999;
        let (a, b) = (scope.full_blocks(&a, 16), scope.full_blocks(&b, 16));
        assert_eq!(a.len(), 4);
        assert_eq!(a[0], b[0]);
        assert!(a.iter().zip(&b).skip(1).all(|(a, b)| a != b));
    }

    #[test]
    fn model_adapter_salt_and_block_size_separate_blocks() {
        let tokens: Vec<u32> = (0..16).collect();
        let scopes = [
            HashScope::new("m", "", 16),
            HashScope::new("n", "", 16),
            HashScope::new("m", "s", 16),
            HashScope::new("m", "", 8),
            HashScope::new("ms", "", 16),
            HashScope::adapted("m", Some(""), "", 16),
            HashScope::adapted("m", Some("s"), "", 16),
        ];
        let hashes: std::collections::HashSet<_> = scopes
            .iter()
            .map(|scope| scope.chain(BlockHash::ROOT, &tokens))
            .collect();
        assert_eq!(hashes.len(), scopes.len());
    }

    #[test]
    fn long_blocks_are_hashed_whole() {
        let scope = HashScope::new("m", "", 512);
        let tokens: Vec<u32> = (0..512).collect();
        let mut other = tokens.clone();
        other[511] = 0;
        assert_ne!(
            scope.chain(BlockHash::ROOT, &tokens),
            scope.chain(BlockHash::ROOT, &other)
        );
    }
}
