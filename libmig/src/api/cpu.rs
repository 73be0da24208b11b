//! How much of a CPU a job may rely on: what `mig exec --cpu` asks for.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A microarchitecture level of the x86-64 psABI: every CPU of a level has the
/// instructions of those below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CpuLevel {
    /// SSE4.2, POPCNT: Nehalem and later.
    #[serde(rename = "x86-64-v2")]
    V2,
    /// AVX2, BMI, FMA: Haswell, Zen and later.
    #[serde(rename = "x86-64-v3")]
    V3,
    /// AVX-512 F, BW, CD, DQ and VL.
    #[serde(rename = "x86-64-v4")]
    V4,
}

/// What `--cpu` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CpuChoice {
    /// This level.
    Level(CpuLevel),
    /// The highest that all nodes of the pool have now.
    Pool,
}

/// No level has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is none of x86-64-v2, x86-64-v3, x86-64-v4, pool")]
pub struct ParseCpuError(String);

impl CpuLevel {
    /// All of them, the highest first.
    pub const ALL: [Self; 3] = [Self::V4, Self::V3, Self::V2];
}

impl fmt::Display for CpuLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V2 => "x86-64-v2",
            Self::V3 => "x86-64-v3",
            Self::V4 => "x86-64-v4",
        })
    }
}

impl FromStr for CpuChoice {
    type Err = ParseCpuError;

    fn from_str(text: &str) -> Result<Self, ParseCpuError> {
        if text == "pool" {
            return Ok(Self::Pool);
        }
        let named = |level: &CpuLevel| level.to_string() == text;
        let level = CpuLevel::ALL.into_iter().find(named);
        level
            .map(Self::Level)
            .ok_or_else(|| ParseCpuError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_written_and_read_alike() {
        for level in CpuLevel::ALL {
            let text = level.to_string();
            assert_eq!(text.parse(), Ok(CpuChoice::Level(level)));
            assert_eq!(
                serde_json::to_string(&level).unwrap(),
                format!("\"{text}\"")
            );
        }
        assert_eq!("pool".parse(), Ok(CpuChoice::Pool));
        assert!("x86-64-v5".parse::<CpuChoice>().is_err());
        assert!(CpuLevel::V2 < CpuLevel::V4);
    }
}
