//! Elementary functions whose bits don't depend on the machine or its libm:
//! plain multiplications and additions, which compilers vectorise.

/// Adding it rounds to an integer, of magnitudes up to 2^22, as its last place
/// is 1; ties go to even.
pub(super) const ROUND: f32 = 12_582_912.0;

/// To the nearest integer from -127 to 127, ties to even; NaN becomes any.
#[inline(always)]
pub(super) fn round(x: f32) -> i32 {
    let x = x.clamp(-127.0, 127.0);
    ((x + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32)
}

/// e^x with at most 2 ulp of error; beyond the range of normal f32 it stays at
/// the range's end. (Coefficients: Cephes' expf, Moshier 1989.)
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.3, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, so that n times the first is exact.
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    for c in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_6e-1,
        0.5,
    ] {
        p = p * r + c;
    }
    let fraction = p * r * r + r + 1.0;
    let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    fraction * f32::from_bits(((exponent + 127) << 23) as u32)
}

/// x / (1 + e^-x)
#[inline(always)]
pub(super) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// 1 / (1 + e^-x)
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The hyperbolic tangent, with at most 3 ulp of error. (Coefficients: Cephes'
/// tanhf, Moshier 1989.)
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let square = x * x;
    let mut p = -5.704_988_7e-3;
    for c in [2.063_909e-2, -5.373_971_5e-2, 1.333_144_2e-1, -3.333_328e-1] {
        p = p * square + c;
    }
    let small = p * square * x + x;
    // Beyond 9 it is 1 in f32; clamped, so that e^2x stays finite.
    let large = 1.0 - 2.0 / (exp(2.0 * x.abs().min(9.1)) + 1.0);
    if x.abs() < 0.625 {
        small
    } else if x.is_nan() {
        x
    } else {
        large.copysign(x)
    }
}

/// x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
#[inline(always)]
pub(super) fn gelu_tanh(x: f32) -> f32 {
    /// sqrt(2 / pi)
    const ROOT: f32 = 0.797_884_6;
    let inner = ROOT * (x + 0.044_715 * x * x * x);
    0.5 * x * (1.0 + tanh(inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp() {
        for i in -87_000..88_000 {
            let x = i as f32 / 1000.0 + 0.000_37;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(error < 2.0 * f64::from(f32::EPSILON), "e^{x}: {error}");
        }
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn exp_saturates_and_keeps_nan() {
        assert!(exp(f32::NEG_INFINITY) < 2e-38);
        assert!(exp(f32::INFINITY).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_is_within_three_ulp() {
        for i in -12_000..12_000 {
            let x = i as f32 / 1000.0 + 0.000_37;
            let expected = f64::from(x).tanh();
            let error = (f64::from(tanh(x)) - expected).abs() / expected.abs();
            assert!(error < 3.0 * f64::from(f32::EPSILON), "tanh {x}: {error}");
        }
        assert_eq!([tanh(0.0), tanh(1e30), tanh(-1e30)], [0.0, 1.0, -1.0]);
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn gelu_and_sigmoid_are_what_their_formulas_say() {
        for i in -600..600 {
            let x = f64::from(i) / 100.0;
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            let gelu = 0.5 * x * (1.0 + inner.tanh());
            assert!((f64::from(gelu_tanh(x as f32)) - gelu).abs() < 2e-6);
            let expected = 1.0 / (1.0 + (-x).exp());
            assert!((f64::from(sigmoid(x as f32)) - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn silu_has_its_limits() {
        assert_eq!(silu(0.0), 0.0);
        assert_eq!(silu(100.0), 100.0);
        assert!(silu(-100.0).abs() < 1e-30);
        assert!((silu(1.0) - 0.731_058_6).abs() < 1e-6);
    }
}
