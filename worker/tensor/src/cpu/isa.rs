//! Which instruction sets the kernels may use.

use std::fmt;
use std::str::FromStr;

#[cfg(target_arch = "x86_64")]
use super::kernels::amx;

/// Instruction sets, each including those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain code for any processor; the oracle of the others.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with dot products of bytes.
    Avx512Vnni,
    /// AVX-512 with dot products of bytes and of bf16.
    Avx512Bf16,
    /// Tiles of bytes and of bf16.
    Amx,
}

impl Isa {
    const ALL: [(Isa, &str); 6] = [
        (Isa::Portable, "portable"),
        (Isa::Avx2, "avx2"),
        (Isa::Avx512, "avx512"),
        (Isa::Avx512Vnni, "avx512-vnni"),
        (Isa::Avx512Bf16, "avx512-bf16"),
        (Isa::Amx, "amx"),
    ];

    /// The largest of this processor.
    pub fn detect() -> Isa {
        Isa::available().last().unwrap_or(Isa::Portable)
    }

    /// Those of this processor, smallest first.
    pub fn available() -> impl Iterator<Item = Isa> {
        Isa::ALL
            .into_iter()
            .map(|(isa, _)| isa)
            .take_while(|isa| isa.is_available())
    }

    /// Whether this processor has what this set adds to the one before it.
    #[cfg(target_arch = "x86_64")]
    fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            Isa::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            Isa::Avx512Vnni => is_x86_feature_detected!("avx512vnni"),
            Isa::Avx512Bf16 => is_x86_feature_detected!("avx512bf16"),
            Isa::Amx => amx::is_available(),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn is_available(self) -> bool {
        self == Isa::Portable
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, name) = Isa::ALL[*self as usize];
        f.write_str(name)
    }
}

/// A name that is no instruction set, or one that this processor lacks.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum IsaError {
    #[error("no instruction set is called {name}; use one of {names}", names = names(Isa::ALL.into_iter().map(|(isa, _)| isa)))]
    Unknown { name: String },
    #[error("this processor has no {isa}; use one of {names}", names = names(Isa::available()))]
    Missing { isa: Isa },
}

fn names(sets: impl Iterator<Item = Isa>) -> String {
    let names: Vec<_> = sets.map(|isa| isa.to_string()).collect();
    names.join(", ")
}

impl FromStr for Isa {
    type Err = IsaError;

    /// Fails for an instruction set that this processor lacks.
    fn from_str(name: &str) -> Result<Isa, IsaError> {
        let (isa, _) = Isa::ALL
            .into_iter()
            .find(|(_, known)| *known == name)
            .ok_or_else(|| IsaError::Unknown {
                name: name.to_owned(),
            })?;
        if Isa::available().any(|available| available == isa) {
            Ok(isa)
        } else {
            Err(IsaError::Missing { isa })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_written() {
        for isa in Isa::available() {
            assert_eq!(isa.to_string().parse(), Ok(isa));
        }
        assert_eq!(Isa::available().next(), Some(Isa::Portable));
        let unknown = "sse".parse::<Isa>().unwrap_err().to_string();
        assert!(unknown.contains("avx512-vnni"), "{unknown}");
    }

    #[test]
    fn a_set_that_is_missing_is_refused_with_those_there() {
        if let Some((missing, name)) = Isa::ALL.into_iter().find(|(isa, _)| *isa > Isa::detect()) {
            let error = name.parse::<Isa>().unwrap_err();
            assert_eq!(error, IsaError::Missing { isa: missing });
            assert!(error.to_string().contains("portable"));
        }
    }
}
