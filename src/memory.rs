//! Amounts of memory: as people write them, and what the machine has.

use std::{fmt, fs, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes, written like `2GB`, `512 MiB` or `1500000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// What may be used where the user says nothing and the machine has more.
const USUAL: u64 = 4 << 30;
/// … and where the machine does not say what it has.
const UNKNOWN: u64 = 1 << 30;

/// Units, the ones with longer names first where one ends like another.
const UNITS: &[(&str, u64)] = &[
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("k", 1_000),
    ("m", 1_000_000),
    ("g", 1_000_000_000),
    ("t", 1_000_000_000_000),
    ("b", 1),
];

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Bytes, String> {
        let wrong = || format!("{text:?} is no amount of memory; write it like 2GB, 512MB or 1.5GiB");
        let lower = text.trim().to_lowercase();
        let (number, factor) =
            UNITS.iter().find_map(|(unit, factor)| Some((lower.strip_suffix(unit)?, *factor))).unwrap_or((&lower, 1));
        let number: f64 = number.trim().parse().map_err(|_| wrong())?;
        let bytes = number * factor as f64;
        // Above 2^53 not every whole number is a float; no machine has as much.
        match (1.0..=9e15).contains(&bytes) {
            true => Ok(Bytes(bytes as u64)),
            false => Err(wrong()),
        }
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount of memory, such as 2GB")
            }

            fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<Bytes, E> {
                self.visit_str(&n.to_string())
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Bytes, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Bytes {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Bytes".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": ["integer", "string"], "description": "bytes, or an amount such as 2GB"})
    }
}

/// What may be used where the user says nothing: half of what is free, but not more than 4 GiB. Results never depend on it.
pub fn usual() -> Bytes {
    let free = [free_of_machine(), free_of_group()].into_iter().flatten().min();
    Bytes(free.map_or(UNKNOWN, |n| (n / 2).min(USUAL)))
}

/// What Linux believes that can be had without swapping.
fn free_of_machine() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What the control group, such as that of a container, leaves.
fn free_of_group() -> Option<u64> {
    let read = |name: &str| fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok();
    let limit: u64 = read("memory.max")?.trim().parse().ok()?;
    let used: u64 = read("memory.current")?.trim().parse().ok()?;
    // Pages of files can be dropped at any time.
    let stat = read("memory.stat")?;
    let files = stat.lines().find_map(|l| l.strip_prefix("file ")?.trim().parse::<u64>().ok()).unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(files)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_people_write_them() {
        let parse = |s: &str| s.parse::<Bytes>().map(|b| b.0);
        assert_eq!(parse("2GB"), Ok(2_000_000_000));
        assert_eq!(parse(" 1.5 GiB"), Ok(3 << 29));
        assert_eq!(parse("512m"), Ok(512_000_000));
        assert_eq!(parse("7"), Ok(7));
        for wrong in ["", "GB", "-1GB", "nan", "inf", "0", "1e30", "2 apples"] {
            assert!(parse(wrong).unwrap_err().contains("2GB"), "{wrong}");
        }
        assert_eq!(serde_yaml::from_str::<Bytes>("2GB").unwrap(), Bytes(2_000_000_000));
        assert_eq!(serde_yaml::from_str::<Bytes>("4096").unwrap(), Bytes(4096));
        assert!(serde_yaml::from_str::<Bytes>("[1]").unwrap_err().to_string().contains("such as 2GB"));
    }

    #[test]
    fn the_usual_amount_is_bounded() {
        let usual = usual().0;
        assert!(usual > 0 && usual <= USUAL);
    }
}
