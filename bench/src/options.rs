//! What may be said on the command line.

use std::path::PathBuf;

use rootling_backends::{Error, ErrorKind, Result};

/// The flags, and what follows from them.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Few rounds, the small tree only.
    pub(crate) quick: bool,
    /// Where archives are kept from run to run.
    pub(crate) cache: Option<PathBuf>,
    /// Where loop files go; not a tmpfs.
    pub(crate) scratch: PathBuf,
    /// Where the run's directory is made.
    pub(crate) out: PathBuf,
    /// One file system only.
    pub(crate) file_system: Option<String>,
    /// One tree only.
    pub(crate) tree: Option<String>,
    /// One part only: what is done to trees, what starts in them, states of boxes, a store that holds much, images, builds, or trees for containerd.
    pub(crate) part: Option<Part>,
    /// Rounds, if not the default.
    pub(crate) rounds: Option<usize>,
    /// Already in the private mount namespace.
    pub(crate) inside: bool,
}

/// The parts of the bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Forks,
    Starts,
    History,
    Scale,
    Images,
    Build,
    Snapshotter,
}

const USAGE: &str = "flags: --quick, --rounds N, --part forks|starts|history|scale|images|build|snapshotter, --cache DIR, --scratch DIR, --out DIR, \
                     --fs ext4|xfs|btrfs, --tree minbase|large";

impl Options {
    /// Reads the flags; each may be given once.
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            quick: false,
            cache: None,
            scratch: "/var/tmp".into(),
            out: "bench/runs".into(),
            file_system: None,
            tree: None,
            part: None,
            rounds: None,
            inside: false,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| wrong(format!("{word} needs a value")));
            match word.as_str() {
                "--quick" => options.quick = true,
                "--inside" => options.inside = true,
                "--cache" => options.cache = Some(value()?.into()),
                "--scratch" => options.scratch = value()?.into(),
                "--out" => options.out = value()?.into(),
                "--fs" => options.file_system = Some(value()?),
                "--tree" => options.tree = Some(value()?),
                "--part" => {
                    options.part = Some(match value()?.as_str() {
                        "forks" => Part::Forks,
                        "starts" => Part::Starts,
                        "history" => Part::History,
                        "scale" => Part::Scale,
                        "images" => Part::Images,
                        "build" => Part::Build,
                        "snapshotter" => Part::Snapshotter,
                        other => return Err(wrong(format!("there is no part {other:?}"))),
                    });
                }
                "--rounds" => {
                    let text = value()?;
                    let number = text.parse().map_err(|_| wrong(format!("{text:?} is not a number")))?;
                    options.rounds = Some(number);
                }
                _ => return Err(wrong(format!("unknown flag {word:?}"))),
            }
        }
        Ok(options)
    }

    /// Is this file system to be measured?
    pub(crate) fn wants_file_system(&self, name: &str) -> bool {
        self.file_system.as_deref().is_none_or(|only| only == name)
    }

    /// Is this part to be measured?
    pub(crate) fn wants(&self, part: Part) -> bool {
        self.part.is_none_or(|only| only == part)
    }

    /// Is this tree to be measured?
    pub(crate) fn wants_tree(&self, name: &str) -> bool {
        if self.part == Some(Part::Scale) {
            // It has a tree of its own.
            return false;
        }
        // What starts in a tree does not depend on its size, nor does what is built on it.
        let small_only =
            self.quick || matches!(self.part, Some(Part::Starts | Part::Build | Part::Snapshotter));
        self.tree.as_deref().map_or(!small_only || name == "minbase", |only| only == name)
    }

    /// Returns how often a fork of a tree of so many entries lives its life.
    pub(crate) fn fork_rounds(&self, entries: usize) -> usize {
        let default = match (self.quick, entries > 20_000) {
            (true, _) => 3,
            (false, true) => 5,
            (false, false) => 15,
        };
        self.rounds.unwrap_or(default).max(1)
    }

    /// Returns how often a state is made.
    pub(crate) fn history_rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 3 } else { 7 }).max(1)
    }

    /// Returns how often an image is pulled.
    pub(crate) fn image_rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 }).max(1)
    }

    /// Returns how often everything is built.
    pub(crate) fn build_rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 }).max(1)
    }

    /// Returns how often everybody keeps trees for containerd.
    pub(crate) fn snapshotter_rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 }).max(1)
    }

    /// Returns how often a command is run.
    pub(crate) fn command_rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 10 } else { 40 }).max(1)
    }
}

fn wrong(message: String) -> Error {
    Error::new(ErrorKind::InvalidInput, message).hint(USAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Options> {
        Options::parse(words.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn quick_leaves_out_the_large_tree_unless_it_is_named() {
        assert!(!parse("--quick").unwrap().wants_tree("large"));
        assert!(parse("--quick --tree large").unwrap().wants_tree("large"));
        assert!(parse("").unwrap().wants_tree("large"));
    }

    #[test]
    fn a_part_leaves_out_the_other_and_starts_need_the_small_tree_only() {
        let starts = parse("--part starts").unwrap();
        assert!(starts.wants(Part::Starts) && !starts.wants(Part::Forks) && !starts.wants_tree("large"));
        assert!(parse("").unwrap().wants(Part::Forks));
        let scale = parse("--part scale --tree minbase").unwrap();
        assert!(scale.wants(Part::Scale) && !scale.wants(Part::Starts) && !scale.wants_tree("minbase"));
        let images = parse("--part images --quick --tree large").unwrap();
        assert!(images.wants(Part::Images) && images.wants_tree("large") && images.image_rounds() == 1);
        let build = parse("--part build").unwrap();
        assert!(build.wants(Part::Build) && !build.wants_tree("large") && build.build_rounds() == 3);
        let held = parse("--part snapshotter").unwrap();
        assert!(held.wants(Part::Snapshotter) && !held.wants_tree("large") && held.snapshotter_rounds() == 3);
        assert_eq!(parse("--part all").unwrap_err().to_string(), "there is no part \"all\"");
    }

    #[test]
    fn a_flag_without_its_value_and_an_unknown_one_are_refused() {
        assert_eq!(parse("--rounds").unwrap_err().to_string(), "--rounds needs a value");
        assert_eq!(parse("--fast").unwrap_err().to_string(), "unknown flag \"--fast\"");
    }
}
