//! `lxc:`: the classic index of Linux Containers, a line for each image: `dist;release;arch;variant;build;path`.
//!
//! It has no checksums: that of the file is looked for beside it.

use rootling_backends::{Error, ErrorKind, Result};

use super::bootstrap::of_debian;
use super::fetch::Fetch;
use super::location::Location;
use super::words::Words;
use super::{Content, Resolved, checksums, server};
use crate::image::Platform;
use crate::near;

/// Bytes in the largest index that is read.
const LIMIT: u64 = 8 << 20;

/// What is wanted of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classic {
    pub(super) server: Location,
    distribution: String,
    release: String,
    architecture: String,
    variant: String,
}

/// One line of the index.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    distribution: &'a str,
    release: &'a str,
    architecture: &'a str,
    variant: &'a str,
    build: &'a str,
    path: &'a str,
}

impl Classic {
    /// Reads `[SERVER//]DIST/RELEASE[/ARCH[/VARIANT]]`.
    pub(super) fn parse(text: &str, rest: &str) -> Result<Self> {
        let words = Words::parse(text, rest)?;
        let (server, alias) = server::split(&words, Some("images"))?;
        let parts: Vec<&str> = alias.split('/').collect();
        let (distribution, release, rest) = match parts[..] {
            [distribution, release, ref rest @ ..] if rest.len() <= 2 => (distribution, release, rest),
            _ => {
                return Err(words
                    .wrong("it is DIST/RELEASE[/ARCH[/VARIANT]]")
                    .hint("write lxc:debian/bookworm"));
            }
        };
        let architecture =
            rest.first().map_or_else(|| of_debian(&Platform::host()), |arch| (*arch).to_owned());
        let variant = rest.get(1).map_or("default", |variant| variant).to_owned();
        words.finish("none: lxc:DIST/RELEASE/ARCH/VARIANT")?;
        let (distribution, release) = (distribution.to_owned(), release.to_owned());
        Ok(Self { server, distribution, release, architecture, variant })
    }

    /// Finds the newest build.
    pub(super) fn resolve(&self, fetch: &Fetch<'_>) -> Result<Resolved> {
        let index = fetch.small(&self.server.join("meta/1.0/index-user")?, LIMIT)?;
        let index = String::from_utf8_lossy(&index);
        let line = self.choose(&index)?;
        let directory = line.path.trim_matches('/');
        let at = self.server.join(&format!("{directory}/rootfs.tar.xz"))?;
        let digest = checksums::beside(fetch, &at)?;
        let version = Some(format!("{} build {}", self.name(), line.build));
        Ok(Resolved { digest, version, ..Resolved::of(Content::Archive(at)) })
    }

    fn name(&self) -> String {
        format!("{}/{}/{}/{}", self.distribution, self.release, self.architecture, self.variant)
    }

    fn choose<'a>(&self, index: &'a str) -> Result<Line<'a>> {
        let fits = |line: &Line<'_>| {
            line.distribution == self.distribution
                && line.release == self.release
                && line.architecture == self.architecture
                && line.variant == self.variant
        };
        let newest = index.lines().filter_map(Line::parse).filter(fits).max_by_key(|line| line.build);
        newest.ok_or_else(|| {
            let names = index.lines().filter_map(Line::parse).map(|line| {
                format!("{}/{}/{}/{}", line.distribution, line.release, line.architecture, line.variant)
            });
            let (name, names): (_, std::collections::BTreeSet<String>) = (self.name(), names.collect());
            let error = Error::new(ErrorKind::NotFound, format!("{} has no {name}", self.server));
            let near = near::near(&name, names.iter().map(String::as_str));
            if near.is_empty() { error } else { error.hint(format!("did you mean {}?", near.join(" or "))) }
        })
    }
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let parts: Vec<&str> = line.trim().split(';').collect();
        match parts[..] {
            [distribution, release, architecture, variant, build, path] if !path.is_empty() => {
                Some(Self { distribution, release, architecture, variant, build, path })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_newest_build_is_chosen() {
        let index = "debian;bookworm;amd64;default;20260101_05:24;/images/a/\n\
                     debian;bookworm;amd64;default;20260103_05:24;/images/c/\n\
                     debian;bookworm;amd64;default;20260102_05:24;/images/b/\n\
                     debian;bookworm;amd64;cloud;20260104_05:24;/images/d/\n\
                     debian;trixie;arm64;default;20260104_05:24;/images/e/\nstrange\n;;;;;\n";
        let parse = |rest: &str| Classic::parse(rest, rest).unwrap();
        assert_eq!(parse("debian/bookworm/amd64").choose(index).unwrap().path, "/images/c/");
        assert_eq!(parse("debian/bookworm/amd64/cloud").choose(index).unwrap().path, "/images/d/");
        let error = parse("debian/bokworm/amd64").choose(index).unwrap_err();
        assert_eq!(
            error.first_hint(),
            Some(
                "did you mean debian/bookworm/amd64/default or debian/bookworm/amd64/cloud or debian/trixie/arm64/default?"
            )
        );
        for wrong in ["debian", "a/b/c/d/e", "a/b?x=1", "a//b"] {
            assert!(Classic::parse(wrong, wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_index_is_too_strange(text in "[a-z;\\n/0-9]{0,200}") {
            drop(Classic::parse("a/b", "a/b").unwrap().choose(&text));
        }
    }
}
