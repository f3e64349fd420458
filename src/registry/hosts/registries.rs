//! [containers-registries.conf(5)](https://github.com/containers/image/blob/main/docs/containers-registries.conf.5.md),
//! version 2: prefixes, locations, mirrors, blocked registries, aliases.

use std::collections::BTreeMap;
use std::path::Path;

use rootling_backends::{Context as _, Error, ErrorKind, Result, small_file};
use serde::Deserialize;

use super::Purpose;

/// Bytes in the largest file that is read.
const LIMIT: u64 = 4 << 20;

/// Where the system has its files.
const SYSTEM: &str = "/etc/containers";

/// All files of this sort, merged.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Registries {
    registries: Vec<Registry>,
    aliases: BTreeMap<String, String>,
}

/// One file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Written {
    registry: Vec<Registry>,
    aliases: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Registry {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<Mirror>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Mirror {
    location: String,
    insecure: bool,
    pull_from_mirror: String,
}

/// Where a repository may be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// `host[/path]`.
    pub(super) name: String,
    pub(super) insecure: bool,
    pub(super) is_mirror: bool,
}

impl Registries {
    /// Reads the user's file or else the system's, then the drop-ins of both; a file that was `named` is the only one.
    pub fn read(named: Option<&Path>, config: Option<&Path>) -> Result<Self> {
        let mut all = Self::default();
        if let Some(named) = named {
            all.add_file(named)?;
            return Ok(all);
        }
        let own = config.map(|config| config.join("containers"));
        let system = Path::new(SYSTEM);
        let main = own.iter().map(|own| own.as_path()).chain([system]);
        if let Some(file) = main.map(|place| place.join("registries.conf")).find(|file| file.exists()) {
            all.add_file(&file)?;
        }
        for place in [Some(system), own.as_deref()].into_iter().flatten() {
            all.add_directory(&place.join("registries.conf.d"))?;
        }
        Ok(all)
    }

    fn add_directory(&mut self, directory: &Path) -> Result<()> {
        // No directory, no drop-ins.
        let Ok(entries) = std::fs::read_dir(directory) else { return Ok(()) };
        let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
        files.sort();
        files.iter().try_for_each(|file| self.add_file(file))
    }

    fn add_file(&mut self, path: &Path) -> Result<()> {
        let read = || -> Result<Self> {
            let text = String::from_utf8(small_file::read(path, LIMIT)?)
                .map_err(|_| Error::new(ErrorKind::InvalidInput, "it is not UTF-8"))?;
            Self::parse(&text)
        };
        let more = read().context(|| format!("read registries of {}", path.display()))?;
        self.merge(more);
        Ok(())
    }

    /// Reads one file.
    pub fn parse(text: &str) -> Result<Self> {
        let written: Written = toml::from_str(text)
            .map_err(|error| Error::new(ErrorKind::InvalidInput, error.to_string().trim_end().to_owned()))?;
        let mut registries = written.registry;
        for registry in &mut registries {
            registry.check()?;
        }
        Ok(Self { registries, aliases: written.aliases })
    }

    /// Takes in a later file: a prefix that it knows is its to say, whole.
    fn merge(&mut self, later: Self) {
        self.registries.retain(|old| !later.registries.iter().any(|new| new.prefix == old.prefix));
        self.registries.extend(later.registries);
        self.aliases.extend(later.aliases);
        self.aliases.retain(|_, full| !full.is_empty());
    }

    pub(super) fn alias(&self, short: &str) -> Option<&str> {
        self.aliases.get(short).map(String::as_str)
    }

    pub(super) fn is_insecure(&self, host: &str) -> bool {
        self.best(host).is_some_and(|registry| registry.insecure)
    }

    fn best(&self, name: &str) -> Option<&Registry> {
        let fitting = self.registries.iter().filter(|registry| registry.rest_of(name).is_some());
        fitting.max_by_key(|registry| registry.prefix.len())
    }

    /// Returns where `name` (`host/path`) may be found, mirrors first; `None` if it is blocked.
    pub(super) fn sources(&self, name: &str, purpose: Purpose) -> Option<Vec<Source>> {
        let itself = |name: String, insecure| Source { name, insecure, is_mirror: false };
        let Some(registry) = self.best(name) else { return Some(vec![itself(name.to_owned(), false)]) };
        if registry.blocked {
            return None;
        }
        let rest = registry.rest_of(name).unwrap_or_default();
        let mirrors = registry.mirror.iter().filter(|mirror| mirror.serves(purpose, registry));
        let mirrors = mirrors.map(|mirror| Source {
            name: format!("{}{rest}", mirror.location),
            insecure: mirror.insecure,
            is_mirror: true,
        });
        let origin = match registry.location.as_str() {
            "" => name.to_owned(),
            location => format!("{location}{rest}"),
        };
        Some(mirrors.chain([itself(origin, registry.insecure)]).collect())
    }
}

impl Registry {
    fn check(&mut self) -> Result<()> {
        let wrong = |why: &str| Err(Error::new(ErrorKind::InvalidInput, why.to_owned()));
        for text in [&mut self.prefix, &mut self.location] {
            *text = text.trim_end_matches('/').to_owned();
            if text.contains("://") {
                return wrong(&format!("{text:?}: a location has no scheme"));
            }
        }
        for mirror in &mut self.mirror {
            mirror.location = mirror.location.trim_end_matches('/').to_owned();
            if mirror.location.is_empty() || mirror.location.contains("://") {
                return wrong(&format!("mirror {:?}: a location is HOST[/PATH]", mirror.location));
            }
            if !["", "all", "digest-only", "tag-only"].contains(&mirror.pull_from_mirror.as_str()) {
                return wrong(&format!(
                    "pull-from-mirror = {:?}: it is all, digest-only or tag-only",
                    mirror.pull_from_mirror
                ));
            }
        }
        if self.prefix.is_empty() {
            self.prefix.clone_from(&self.location);
        }
        match self.prefix.is_empty() {
            true => wrong("a [[registry]] has neither prefix nor location"),
            false if self.prefix.starts_with("*.") && !self.location.is_empty() => {
                wrong(&format!("prefix {:?} stands for many hosts and has no location", self.prefix))
            }
            false => Ok(()),
        }
    }

    /// Returns what follows the prefix, if it fits.
    fn rest_of<'a>(&self, name: &'a str) -> Option<&'a str> {
        if let Some(domain) = self.prefix.strip_prefix('*') {
            let end = name.find('/').unwrap_or(name.len());
            // Only hosts below: `*.example.com` is not `example.com`.
            return (name[..end].len() > domain.len() && name[..end].ends_with(domain))
                .then_some(&name[end..]);
        }
        let rest = name.strip_prefix(self.prefix.as_str())?;
        (rest.is_empty() || rest.starts_with('/')).then_some(rest)
    }
}

impl Mirror {
    fn serves(&self, purpose: Purpose, of: &Registry) -> bool {
        match purpose {
            Purpose::Origin => false,
            Purpose::Digest => self.pull_from_mirror != "tag-only",
            Purpose::Tag => !of.mirror_by_digest_only && self.pull_from_mirror != "digest-only",
        }
    }
}
