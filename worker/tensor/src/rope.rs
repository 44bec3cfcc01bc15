//! The table behind rotary position embeddings (Su et al. 2021, RoFormer).

/// For each position below `positions`, the cosines and then the sines of its
/// angles: `[positions, 2, frequencies]`, where an angle is position times
/// inverse frequency, rounded to f32 as training code does.
pub fn rope_table(inverse_frequencies: &[f32], positions: usize) -> Vec<f32> {
    let mut table = Vec::with_capacity(positions * inverse_frequencies.len() * 2);
    for position in 0..positions {
        let angle = |frequency: &f32| f64::from(position as f32 * frequency);
        table.extend(inverse_frequencies.iter().map(|f| angle(f).cos() as f32));
        table.extend(inverse_frequencies.iter().map(|f| angle(f).sin() as f32));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_cosines_and_sines_of_each_position() {
        let table = rope_table(&[1.0, 0.5], 3);
        let expected = [1f32.cos(), 0.5f32.cos(), 1f32.sin(), 0.5f32.sin()];
        assert_eq!(table.len(), 12);
        assert_eq!(&table[..4], &[1.0, 1.0, 0.0, 0.0]);
        for (found, expected) in table[4..8].iter().zip(expected) {
            assert!((found - expected).abs() < 1e-7);
        }
    }
}
