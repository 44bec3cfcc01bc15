//! The table behind rotary position embeddings (Su et al. 2021, RoFormer).

/// For each position below `positions`, the cosines and then the sines of its
/// angles, times `scale`: `[positions, 2, frequencies]`. An angle is position
/// times inverse frequency, rounded to f32 as training code does.
pub fn rope_table(inverse_frequencies: &[f32], scale: f32, positions: usize) -> Vec<f32> {
    let mut table = Vec::with_capacity(positions * inverse_frequencies.len() * 2);
    for position in 0..positions {
        let angle = |frequency: &f32| f64::from(position as f32 * frequency);
        let of = |function: fn(f64) -> f64| {
            let value = move |f| function(angle(f)) as f32 * scale;
            inverse_frequencies.iter().map(value)
        };
        table.extend(of(f64::cos));
        table.extend(of(f64::sin));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_cosines_and_sines_of_each_position() {
        let table = rope_table(&[1.0, 0.5], 2.0, 3);
        let expected = [1f32.cos(), 0.5f32.cos(), 1f32.sin(), 0.5f32.sin()].map(|v| 2.0 * v);
        assert_eq!(table.len(), 12);
        assert_eq!(&table[..4], &[2.0, 2.0, 0.0, 0.0]);
        for (found, expected) in table[4..8].iter().zip(expected) {
            assert!((found - expected).abs() < 3e-7);
        }
    }
}
