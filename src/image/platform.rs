//! Platforms: what an image runs on, and which image of several fits best. The rules are containerd's, which docker shares.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use rootling_backends::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::or_default;

/// An operating system and a processor, as Go calls them: `linux/amd64`, `linux/arm/v7`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    /// The processor: `amd64`, `arm64`, `arm`, `386`, `riscv64`...
    #[serde(deserialize_with = "or_default")]
    pub architecture: String,
    /// The operating system: `linux`.
    #[serde(deserialize_with = "or_default")]
    pub os: String,
    /// The version that Windows needs; empty elsewhere.
    #[serde(
        rename = "os.version",
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub os_version: String,
    /// What Windows must have; empty elsewhere.
    #[serde(rename = "os.features", skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub os_features: Vec<String>,
    /// The sort of processor: `v7` of an `arm`, `v3` of an `amd64`; empty for the usual one.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub variant: String,
    /// What we do not know.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

const SYSTEMS: &[&str] = &["linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "wasip1", "wasi"];
const PROCESSORS: &[&str] = &[
    "amd64", "arm64", "arm", "386", "riscv64", "ppc64le", "ppc64", "s390x", "loong64", "mips64le", "mips64",
    "mipsle", "mips", "wasm",
];

impl Platform {
    /// Returns a platform in its normal form: `x86_64` is `amd64`, `linux/arm64/v8` is `linux/arm64`.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let (architecture, variant) = normal(architecture, variant);
        Self { architecture, os: normal_os(os), variant, ..Self::default() }
    }

    /// Returns what this program was made for.
    pub fn host() -> Self {
        let variant = if cfg!(target_arch = "arm") { "v7" } else { "" };
        Self::new(std::env::consts::OS, std::env::consts::ARCH, variant)
    }

    /// Reads `OS/ARCHITECTURE[/VARIANT]`, `OS(VERSION)/ARCHITECTURE`, or one of the two, where the host's other is meant.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |why: String| {
            Err(Error::new(ErrorKind::InvalidInput, format!("{text:?} is no platform: {why}"))
                .hint("write OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, as in linux/arm64"))
        };
        let is_word = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        };
        let (head, rest) = text.split_once('/').map_or((text, None), |(head, rest)| (head, Some(rest)));
        let (os, version) = match head.split_once('(') {
            Some((os, version)) => match version.strip_suffix(')') {
                Some(version) if is_word(version) => (os, version),
                _ => return refuse("the version has no end".to_owned()),
            },
            None => (head, ""),
        };
        let parts: Vec<&str> =
            std::iter::once(os).chain(rest.into_iter().flat_map(|rest| rest.split('/'))).collect();
        if let Some(bad) = parts.iter().find(|part| !is_word(part)) {
            return refuse(format!("{bad:?} is no word"));
        }
        let platform = match parts[..] {
            [word] => {
                let host = Self::host();
                let as_processor = Self::new(&host.os, word, "");
                if SYSTEMS.contains(&normal_os(word).as_str()) {
                    Self::new(word, &host.architecture, &host.variant)
                } else if PROCESSORS.contains(&as_processor.architecture.as_str()) {
                    as_processor
                } else {
                    return refuse(format!("{word:?} is neither a system nor a processor that is known"));
                }
            }
            [os, architecture] => Self::new(os, architecture, ""),
            [os, architecture, variant] => Self::new(os, architecture, variant),
            _ => return refuse("it has more than three parts".to_owned()),
        };
        Ok(Self { os_version: version.to_owned(), ..platform })
    }

    /// Returns the same with names in their normal form.
    #[must_use]
    pub fn normalized(&self) -> Self {
        let (architecture, variant) = normal(&self.architecture, &self.variant);
        Self { architecture, variant, os: normal_os(&self.os), ..self.clone() }
    }

    /// Says how well `offered` runs where `self` is: 0 is best, `None` not at all.
    ///
    /// An older variant of the same processor will do, and at last a 32-bit one.
    pub fn rank(&self, offered: &Self) -> Option<usize> {
        let (wanted, offered) = (self.normalized(), offered.normalized());
        // Windows runs what was made for its own build; others have no version.
        let version_fits = wanted.os_version.is_empty() || offered.os_version.starts_with(&wanted.os_version);
        if wanted.os != offered.os || !version_fits {
            return None;
        }
        wanted.runs().iter().position(|(architecture, variant)| {
            *architecture == offered.architecture && *variant == offered.variant
        })
    }

    /// Returns what processors' code this one runs, the best first.
    fn runs(&self) -> Vec<(String, String)> {
        let level = |variant: &str| variant.strip_prefix('v').and_then(|digits| digits.parse::<u32>().ok());
        let arm = |from: u32| (5..=from).rev().map(|level| ("arm".to_owned(), format!("v{level}")));
        let own = (self.architecture.clone(), self.variant.clone());
        let below = |least: u32| {
            let top = level(&self.variant).filter(|top| (least..100).contains(top)).unwrap_or(least);
            (least..top).rev().map(|level| (self.architecture.clone(), format!("v{level}")))
        };
        let plain = (self.architecture.clone(), String::new());
        let mut runs = vec![own];
        match self.architecture.as_str() {
            "amd64" => {
                runs.extend(below(2));
                runs.extend([plain, ("386".to_owned(), String::new())]);
            }
            "arm64" => {
                runs.extend(below(9));
                runs.push(plain);
                runs.extend(arm(8));
            }
            "arm" => runs.extend(arm(level(&self.variant).unwrap_or(7).min(8))),
            // `linux/ppc64le/power9` and the like: the plain one is the older.
            _ => runs.push(plain),
        }
        runs
    }
}

fn normal_os(os: &str) -> String {
    match os.to_ascii_lowercase().as_str() {
        "macos" => "darwin".to_owned(),
        other => other.to_owned(),
    }
}

fn normal(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = (architecture.to_ascii_lowercase(), variant.to_ascii_lowercase());
    // Some write the number alone.
    let variant = if variant.bytes().next().is_some_and(|byte| byte.is_ascii_digit()) {
        format!("v{variant}")
    } else {
        variant
    };
    let (architecture, implied) = match architecture.as_str() {
        "x86_64" | "x86-64" => ("amd64", ""),
        "i386" | "i486" | "i586" | "i686" | "x86" => ("386", ""),
        "aarch64" => ("arm64", ""),
        "armhf" | "armv7l" | "arm" => ("arm", "v7"),
        "armel" | "armv6l" => ("arm", "v6"),
        "armv5l" | "armv5tel" => ("arm", "v5"),
        "ppc64el" | "powerpc64le" => ("ppc64le", ""),
        "powerpc64" => ("ppc64", ""),
        "loongarch64" => ("loong64", ""),
        other => (other, ""),
    };
    let variant = match (architecture, variant.as_str()) {
        (_, "") => implied,
        ("amd64", "v1") | ("386", _) | ("arm64", "v8" | "v8.0") => "",
        ("arm64", "v9.0") => "v9",
        (_, other) => other,
    };
    (architecture.to_owned(), variant.to_owned())
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version =
            if self.os_version.is_empty() { String::new() } else { format!("({})", self.os_version) };
        let mut text = format!("{}{version}/{}", self.os, self.architecture);
        if !self.variant.is_empty() {
            text.push('/');
            text.push_str(&self.variant);
        }
        f.pad(&text)
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_become_normal() {
        for (text, normal) in [
            ("linux/x86_64", "linux/amd64"),
            ("Linux/AMD64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/7", "linux/arm/v7"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/i386", "linux/386"),
            ("linux/ppc64el", "linux/ppc64le"),
            ("macos/arm64", "darwin/arm64"),
            ("windows(10.0.17763)/amd64", "windows(10.0.17763)/amd64"),
            ("arm64", "linux/arm64"),
            ("armhf", "linux/arm/v7"),
        ] {
            assert_eq!(Platform::parse(text).unwrap().to_string(), normal, "{text}");
        }
        assert_eq!(Platform::parse("linux").unwrap(), Platform::host());
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        for text in [
            "",
            "/",
            "linux/",
            "/amd64",
            "linux/amd64/",
            "a/b/c/d",
            "vax",
            "linux/a b",
            "windows(/amd64",
            "(1)/a",
        ] {
            assert_eq!(Platform::parse(text).unwrap_err().kind(), ErrorKind::InvalidInput, "{text:?}");
        }
    }

    /// Which of `offered` runs best on `wanted`?
    fn best<'a>(wanted: &str, offered: &[&'a str]) -> Option<&'a str> {
        let wanted = Platform::parse(wanted).unwrap();
        let ranked = offered.iter().filter_map(|text| Some((wanted.rank(&text.parse().unwrap())?, *text)));
        ranked.min().map(|(_, text)| text)
    }

    #[test]
    fn the_nearest_older_variant_is_taken() {
        for (wanted, offered, taken) in [
            ("linux/amd64", &["linux/386", "linux/amd64", "linux/amd64/v3"][..], Some("linux/amd64")),
            ("linux/amd64/v3", &["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], Some("linux/amd64/v2")),
            ("linux/amd64/v3", &["linux/amd64", "linux/amd64/v4"], Some("linux/amd64")),
            ("linux/amd64", &["linux/amd64/v2", "windows/amd64", "unknown/unknown"], None),
            ("linux/amd64", &["linux/386"], Some("linux/386")),
            ("linux/arm64", &["linux/arm/v6", "linux/arm/v7"], Some("linux/arm/v7")),
            ("linux/arm64", &["linux/arm64/v8", "linux/arm/v7"], Some("linux/arm64/v8")),
            ("linux/arm64/v9", &["linux/arm64", "linux/arm/v8"], Some("linux/arm64")),
            ("linux/arm/v6", &["linux/arm/v7", "linux/arm/v5"], Some("linux/arm/v5")),
            ("linux/arm/v7", &["linux/arm64", "linux/arm"], Some("linux/arm")),
            ("linux/s390x", &["linux/amd64"], None),
            (
                "windows(10.0.17763)/amd64",
                &["windows(10.0.17763.1)/amd64"],
                Some("windows(10.0.17763.1)/amd64"),
            ),
            ("windows(10.0.17763)/amd64", &["windows(10.0.2)/amd64"], None),
        ] {
            assert_eq!(best(wanted, offered), taken, "{wanted} of {offered:?}");
        }
    }

    proptest! {
        #[test]
        fn the_normal_form_is_final(os in "[a-zA-Z]{1,6}", architecture in "(arm|amd64|x86_64|[a-z0-9_-]{1,8})", variant in "(|v?[0-9]|[a-z]{1,4})") {
            let platform = Platform::new(&os, &architecture, &variant);
            prop_assert_eq!(platform.normalized(), platform.clone());
            prop_assert_eq!(Platform::parse(&platform.to_string()).unwrap(), platform.clone());
            prop_assert_eq!(platform.rank(&platform), Some(0));
        }
    }
}
