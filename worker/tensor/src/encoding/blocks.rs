//! GGUF's blocks: what their bytes mean.

use half::f16;

/// Decodes blocks of B bytes to N numbers each.
pub(super) fn decode<const B: usize, const N: usize>(
    bytes: &[u8],
    out: &mut [f32],
    block: impl Fn(&[u8; B], &mut [f32; N]),
) {
    let blocks = bytes.as_chunks().0.iter();
    for (bytes, out) in blocks.zip(out.as_chunks_mut().0) {
        block(bytes, out);
    }
}

pub(crate) fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

pub(super) fn q8_0(bytes: &[u8; 34], out: &mut [f32; 32]) {
    let scale = f16_at(bytes, 0);
    for (out, &q) in out.iter_mut().zip(&bytes[2..]) {
        *out = scale * f32::from(q as i8);
    }
}

pub(super) fn q4_0(bytes: &[u8; 18], out: &mut [f32; 32]) {
    let scale = f16_at(bytes, 0);
    for (i, &pair) in bytes[2..].iter().enumerate() {
        out[i] = scale * (f32::from(pair & 15) - 8.0);
        out[i + 16] = scale * (f32::from(pair >> 4) - 8.0);
    }
}

/// Where the parts of a block of 256 numbers of 4 bits lie.
pub(crate) mod q4_k_parts {
    pub(crate) const SCALES: usize = 4;
    pub(crate) const QUANTS: usize = 16;

    /// The 6-bit scale and minimum of block `block` of 8.
    pub(crate) fn scale_and_min(bytes: &[u8; 144], block: usize) -> (u8, u8) {
        let packed = &bytes[SCALES..QUANTS];
        if block < 4 {
            return (packed[block] & 63, packed[block + 4] & 63);
        }
        let low = packed[block + 4];
        (
            (low & 15) | (packed[block - 4] >> 6) << 4,
            (low >> 4) | (packed[block] >> 6) << 4,
        )
    }

    /// The 4 bits of number `i` of block `block`.
    pub(crate) fn quant(bytes: &[u8; 144], block: usize, i: usize) -> u8 {
        let pair = bytes[QUANTS + block / 2 * 32 + i];
        if block.is_multiple_of(2) {
            pair & 15
        } else {
            pair >> 4
        }
    }
}

pub(super) fn q4_k(bytes: &[u8; 144], out: &mut [f32; 256]) {
    let (scale, min) = (f16_at(bytes, 0), f16_at(bytes, 2));
    for (block, out) in out.chunks_mut(32).enumerate() {
        let (s, m) = q4_k_parts::scale_and_min(bytes, block);
        let (scale, min) = (scale * f32::from(s), min * f32::from(m));
        for (i, out) in out.iter_mut().enumerate() {
            *out = scale * f32::from(q4_k_parts::quant(bytes, block, i)) - min;
        }
    }
}

/// Where the parts of a block of 256 numbers of 6 bits lie.
pub(crate) mod q6_k_parts {
    const HIGH: usize = 128;
    pub(crate) const SCALES: usize = 192;
    pub(crate) const SCALE: usize = 208;

    /// The 6 bits of number `i` of 256.
    pub(crate) fn quant(bytes: &[u8; 210], i: usize) -> u8 {
        // Halves of 128 numbers, quarters of 32 in them.
        let (half, quarter, at) = (i / 128, i / 32 % 4, i % 32);
        let low = bytes[half * 64 + quarter % 2 * 32 + at] >> (quarter / 2 * 4) & 15;
        let high = bytes[HIGH + half * 32 + at] >> (quarter * 2) & 3;
        low | high << 4
    }
}

pub(super) fn q6_k(bytes: &[u8; 210], out: &mut [f32; 256]) {
    let scale = f16_at(bytes, q6_k_parts::SCALE);
    for (i, out) in out.iter_mut().enumerate() {
        let block = f32::from(bytes[q6_k_parts::SCALES + i / 16] as i8);
        *out = scale * block * (f32::from(q6_k_parts::quant(bytes, i)) - 32.0);
    }
}
