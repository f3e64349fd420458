//! `bootstrap:`: a Debian or Ubuntu made of its packages, by mmdebstrap.
//!
//! The program writes a tar, which is unpacked as it comes. What an archive of packages holds at the moment is told by its
//! `InRelease` files: as long as they stay the same, the tree would be the same.

use std::fmt;
use std::process::Command;

use rootling_backends::{Dir, Error, ErrorKind, Result};

use super::Means;
use super::fetch::Fetch;
use super::location::Location;
use super::program::{self, Program};
use super::stream::{self, Expected, Made, Passing, Tell, Treatment};
use super::words::{Words, is_word};
use crate::image::{Digest, Platform};

/// Bytes in the largest `InRelease` that is read.
const RELEASE_LIMIT: u64 = 8 << 20;

/// What mmdebstrap knows, beside `extract` and `custom`, which make no root filesystem that runs.
const VARIANTS: [&str; 8] =
    ["apt", "buildd", "debootstrap", "essential", "important", "minbase", "required", "standard"];

/// Whose packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Distribution {
    Debian,
    Ubuntu,
}

/// What is to be made of packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bootstrap {
    distribution: Distribution,
    suite: String,
    variant: String,
    include: Vec<String>,
    components: Vec<String>,
    mirrors: Vec<String>,
    architecture: String,
}

impl Bootstrap {
    /// Reads `debian/SUITE[?variant=..&include=..&arch=..&mirror=..&components=..]`.
    pub(super) fn parse(text: &str, rest: &str) -> Result<Self> {
        let mut words = Words::parse(text, rest)?;
        let (distribution, suite) = words.path.split_once('/').unwrap_or((words.path, ""));
        let distribution = match distribution {
            "debian" => Distribution::Debian,
            "ubuntu" => Distribution::Ubuntu,
            other => return Err(words.wrong(format!("{other:?} is neither debian nor ubuntu"))),
        };
        if !is_word(suite, b"") {
            return Err(words.wrong("there is no name of a release").hint("write bootstrap:debian/bookworm"));
        }
        let suite = suite.to_owned();
        let variant = words.one("variant")?.unwrap_or_else(|| "minbase".to_owned());
        if !VARIANTS.contains(&variant.as_str()) {
            let error = words.wrong(format!("there is no variant {variant:?}"));
            return Err(error.hint(format!("there are {}", VARIANTS.join(", "))));
        }
        let architecture = words.one("arch")?.unwrap_or_else(|| of_debian(&Platform::host()));
        let mut include = words.list("include");
        let mut components = words.list("components");
        let mirrors = words.list("mirror");
        let strange = include
            .iter()
            .map(|word| (word, &b":~=/"[..]))
            .chain(components.iter().map(|word| (word, &b"/"[..])));
        if let Some((word, _)) =
            strange.chain([(&architecture, &b""[..])]).find(|(word, more)| !is_word(word, more))
        {
            return Err(words.wrong(format!("{word:?} is no name of that kind")));
        }
        for mirror in &mirrors {
            let is_address = mirror.split_once("://").is_some_and(|(scheme, rest)| {
                ["http", "https", "file"].contains(&scheme)
                    && !rest.is_empty()
                    && !rest.contains(char::is_whitespace)
            });
            if !is_address {
                return Err(words.wrong(format!("{mirror:?} is no address of a mirror")));
            }
        }
        include.sort();
        include.dedup();
        if components.is_empty() {
            components = match distribution {
                Distribution::Debian => vec!["main".to_owned()],
                Distribution::Ubuntu => vec!["main".to_owned(), "universe".to_owned()],
            };
        }
        words.finish("variant, include, components, mirror and arch")?;
        Ok(Self { distribution, suite, variant, include, components, mirrors, architecture })
    }

    /// Returns the archives that packages come from: address and suite, the main one first.
    fn archives(&self) -> Vec<(String, String)> {
        let suite = &self.suite;
        let pair = |mirror: &str, suite: String| (mirror.to_owned(), suite);
        if !self.mirrors.is_empty() {
            return self
                .mirrors
                .iter()
                .map(|mirror| pair(mirror.trim_end_matches('/'), suite.clone()))
                .collect();
        }
        let (main, security) = match self.distribution {
            Distribution::Debian => {
                ("http://deb.debian.org/debian", "http://security.debian.org/debian-security")
            }
            Distribution::Ubuntu if ["amd64", "i386"].contains(&self.architecture.as_str()) => {
                ("http://archive.ubuntu.com/ubuntu", "http://security.ubuntu.com/ubuntu")
            }
            Distribution::Ubuntu => {
                ("http://ports.ubuntu.com/ubuntu-ports", "http://ports.ubuntu.com/ubuntu-ports")
            }
        };
        let rolling = ["sid", "unstable", "testing", "experimental"].contains(&suite.as_str());
        let mut archives = vec![pair(main, suite.clone())];
        if !rolling {
            archives.push(pair(main, format!("{suite}-updates")));
            archives.push(pair(security, format!("{suite}-security")));
        }
        archives
    }

    /// Finds out what the archives hold now; `None` where it cannot be told.
    pub(super) fn version(&self, fetch: &Fetch<'_>) -> Result<Option<Digest>> {
        let mut known = self.to_string();
        for (nth, (mirror, suite)) in self.archives().iter().enumerate() {
            let Some(at) = Location::parse(&format!("{mirror}/dists/{suite}/InRelease")) else {
                return Ok(None);
            };
            match at.and_then(|at| fetch.small(&at, RELEASE_LIMIT)) {
                Ok(release) => known.push_str(&format!("\n{}", Digest::sha256_of(&release))),
                // Releases that have not come out have neither updates nor fixes.
                Err(error) if nth > 0 && error.kind() == ErrorKind::NotFound => known.push_str("\nnone"),
                // mmdebstrap says best why not.
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                // It may get there by ways that are its own.
                Err(error) => {
                    log::warn!("what {mirror} holds is not known, and so the tree is made anew: {error:?}");
                    return Ok(None);
                }
            }
        }
        Ok(Some(Digest::sha256_of(known.as_bytes())))
    }

    fn command(&self, epoch: Option<&str>) -> Command {
        // It runs programs of its own and, asked to end, waits for them: all of its group have to be asked, which timeout(1) does.
        let mut command = Command::new("timeout");
        command.args(["--kill-after=60", "0", "mmdebstrap"]);
        command.arg("--format=tar").arg(format!("--variant={}", self.variant));
        command.arg(format!("--architectures={}", self.architecture));
        command.arg(format!("--components={}", self.components.join(",")));
        if !self.include.is_empty() {
            command.arg(format!("--include={}", self.include.join(",")));
        }
        command.args([&self.suite, "-"]);
        // By itself it takes Debian's archives, those of updates and fixes too, and finds the keys.
        if !self.mirrors.is_empty() || self.distribution == Distribution::Ubuntu {
            let components = self.components.join(" ");
            let lines = self.archives();
            command.args(lines.iter().map(|(mirror, suite)| format!("deb {mirror} {suite} {components}")));
        }
        if let Some(epoch) = epoch {
            command.env("SOURCE_DATE_EPOCH", epoch);
        }
        command.env("LC_ALL", "C.UTF-8");
        command
    }

    /// Makes it in `target`, an empty directory.
    pub(super) fn make(&self, means: &Means<'_>, target: &Dir, treatment: &Treatment) -> Result<Made> {
        let epoch = means.source_date_epoch;
        let mut program = Program::start("mmdebstrap", &mut self.command(epoch), "coreutils", means.bind)?;
        let expected = Expected::default();
        let output = Heard { output: program.output(), program: &mut program, tell: means.tell };
        let mut passing = Passing::new(output, &expected, means.tell);
        let made = stream::place(&mut passing, target, treatment);
        let ended = passing.ended;
        let (made, is_whole) = match made.map(|made| passing.finish(&expected).map(|_| made)) {
            Ok(Ok(made)) => (Ok(made), true),
            Ok(Err(error)) => (Err(error), false),
            Err(error) => (Err(error), ended),
        };
        // An archive that ends too soon is the program's failure; what fails before its end is ours, and then it is ended.
        if !is_whole {
            return made;
        }
        let ended = program.wait(means.tell)?;
        match () {
            () if ended.is(&[0]) => made,
            // What timeout(1) exits with when there is no such program.
            () if ended.is(&[127]) => Err(program::missing("mmdebstrap", "mmdebstrap")),
            () => Err(self.advised(ended.failure())),
        }
    }

    fn advised(&self, error: Error) -> Error {
        if error.to_string().contains("does not have a Release file") {
            return error.hint(format!(
                "is there a release {:?}? Debian's are bookworm, trixie and sid, for three",
                self.suite
            ));
        }
        if error.to_string().contains("Cannot change ownership") {
            return error.hint("packages need many user ids: import it as root, or get a range of them (rootling doctor tells how)");
        }
        if self.distribution == Distribution::Ubuntu && error.to_string().contains("NO_PUBKEY") {
            return error
                .hint("install the keys of Ubuntu: on Debian they are in the package ubuntu-keyring");
        }
        error
    }
}

/// What a program writes; what it says meanwhile is heard.
struct Heard<'a> {
    output: std::process::ChildStdout,
    program: &'a mut Program,
    tell: Tell<'a>,
}

impl std::io::Read for Heard<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.program.hear(self.tell);
        std::io::Read::read(&mut self.output, buffer)
    }
}

impl fmt::Display for Bootstrap {
    /// In a form that is the same for all ways to write the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let distribution = match self.distribution {
            Distribution::Debian => "debian",
            Distribution::Ubuntu => "ubuntu",
        };
        write!(f, "bootstrap:{distribution}/{}?variant={}", self.suite, self.variant)?;
        for (key, values) in
            [("include", &self.include), ("components", &self.components), ("mirror", &self.mirrors)]
        {
            if !values.is_empty() {
                write!(f, "&{key}={}", values.join(",").replace('%', "%25").replace('&', "%26"))?;
            }
        }
        write!(f, "&arch={}", self.architecture)
    }
}

/// Returns what Debian calls a processor.
pub(super) fn of_debian(platform: &Platform) -> String {
    match platform.architecture.as_str() {
        "386" => "i386",
        "arm" if platform.variant == "v5" || platform.variant == "v6" => "armel",
        "arm" => "armhf",
        "ppc64le" => "ppc64el",
        "mips64le" => "mips64el",
        "mipsle" => "mipsel",
        other => other,
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(rest: &str) -> Result<Bootstrap> {
        Bootstrap::parse(&format!("bootstrap:{rest}"), rest)
    }

    fn words(rest: &str) -> Vec<String> {
        let command = parse(rest).unwrap().command(None);
        command.get_args().skip(3).map(|word| word.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn what_is_asked_for_is_what_mmdebstrap_hears() {
        assert_eq!(
            words("debian/bookworm?arch=arm64&include=vim,curl&include=curl"),
            [
                "--format=tar",
                "--variant=minbase",
                "--architectures=arm64",
                "--components=main",
                "--include=curl,vim",
                "bookworm",
                "-"
            ]
        );
        let ubuntu = words("ubuntu/noble?arch=amd64&variant=apt");
        assert_eq!(ubuntu[1], "--variant=apt");
        assert_eq!(
            ubuntu[6..],
            [
                "deb http://archive.ubuntu.com/ubuntu noble main universe",
                "deb http://archive.ubuntu.com/ubuntu noble-updates main universe",
                "deb http://security.ubuntu.com/ubuntu noble-security main universe",
            ]
        );
        let own = words("debian/sid?arch=amd64&mirror=http://127.0.0.1:1/debian/&components=main,contrib");
        assert_eq!(own.last().unwrap(), "deb http://127.0.0.1:1/debian sid main contrib");
    }

    #[test]
    fn the_same_in_other_words_is_the_same() {
        let one = parse("debian/bookworm?include=b,a&arch=amd64").unwrap();
        let other =
            parse("debian/bookworm?arch=amd64&include=a&include=b&components=main&variant=minbase").unwrap();
        assert_eq!(one.to_string(), other.to_string());
        assert_eq!(parse(one.to_string().strip_prefix("bootstrap:").unwrap()).unwrap(), one);
    }

    #[test]
    fn nothing_becomes_a_flag() {
        for rest in [
            "debian",
            "debian/",
            "fedora/40",
            "debian/-x",
            "debian/a b",
            "debian/x?variant=extract",
            "debian/x?include=--setup-hook",
            "debian/x?mirror=deb [trusted%3Dyes] http://x y",
            "debian/x?mirror=ftp://x",
            "debian/x?hook=rm",
            "debian/x?arch=-x",
            "debian/x?components=a b",
            "debian/x?variant=apt&variant=min",
        ] {
            assert_eq!(parse(rest).unwrap_err().kind(), ErrorKind::InvalidInput, "{rest}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_prints_back(rest in "debian/\\PC{0,20}(\\?include=\\PC{0,12}&mirror=http://\\PC{0,12})?") {
            if let Ok(found) = parse(&rest) {
                prop_assert!(found.command(None).get_args().skip(7).all(|word| word == "-" || word.to_string_lossy().starts_with("--include=") || !word.to_string_lossy().starts_with('-')));
                let printed = found.to_string();
                prop_assert_eq!(parse(printed.strip_prefix("bootstrap:").unwrap()).unwrap(), found);
            }
        }
    }
}
