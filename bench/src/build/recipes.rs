//! What is built: contexts on the file system that is measured, and what must come of each.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rootling_backends::{Context, Error, ErrorKind, Result};

use crate::command::{command, timed};
use crate::proof::{Inventory, Strictness};

/// What everybody calls the base image.
pub(super) const BASE: &str = "bench-tree";

/// How many small steps there are.
pub(super) const STEPS: usize = 40;

/// Files in directories of a hundred.
const FILES: usize = 20_000;
const IN_DIRECTORY: usize = 100;

/// MiB of the large file.
const BIG_MIB: usize = 2048;

/// Functions of the program that is compiled.
const FUNCTIONS: usize = 400;

/// Which of the many files is changed.
const CHANGED: &str = "files/d7/f42";

/// The contexts.
#[derive(Debug)]
pub(super) struct Recipes {
    directory: PathBuf,
    has_packages: bool,
    has_big: bool,
}

impl Recipes {
    /// Makes them in an empty directory; the large file only where one is asked for.
    pub(super) fn make(directory: PathBuf, packages: Option<&Path>, with_big: bool) -> Result<Self> {
        let recipes = Self { directory, has_packages: packages.is_some(), has_big: with_big };
        recipes.make_steps()?;
        if let Some(packages) = packages {
            recipes.make_stages(packages)?;
        }
        recipes.make_files()?;
        if with_big {
            recipes.make_big()?;
        }
        Ok(recipes)
    }

    pub(super) fn steps(&self) -> PathBuf {
        self.directory.join("steps")
    }

    pub(super) fn stages(&self) -> Option<PathBuf> {
        self.has_packages.then(|| self.directory.join("stages"))
    }

    pub(super) fn files(&self) -> PathBuf {
        self.directory.join("files")
    }

    pub(super) fn big(&self) -> Option<PathBuf> {
        self.has_big.then(|| self.directory.join("big"))
    }

    fn make_steps(&self) -> Result<()> {
        let mut text = format!("FROM {BASE}\n");
        for step in 1..=STEPS {
            // Writing to a string cannot fail.
            let _written = writeln!(text, "RUN echo {step} > /step-{step}");
        }
        write(&self.steps().join("Dockerfile"), &text)
    }

    fn make_stages(&self, packages: &Path) -> Result<()> {
        let directory = self.directory.join("stages");
        let text = format!(
            "FROM {BASE} AS build\n\
             COPY packages /packages\n\
             RUN dpkg --install /packages/*.deb > /dev/null && rm -r /packages\n\
             WORKDIR /src\n\
             COPY src .\n\
             RUN gcc -O2 -o /program main.c\n\
             FROM {BASE}\n\
             COPY --from=build /program /usr/local/bin/program\n\
             RUN program > /said\n"
        );
        write(&directory.join("Dockerfile"), &text)?;
        write(&directory.join("src/main.c"), &program())?;
        timed(command("cp", ["-r", "--"]).arg(packages).arg(directory.join("packages"))).map(drop)
    }

    fn make_files(&self) -> Result<()> {
        write(&self.files().join("Dockerfile"), &format!("FROM {BASE}\nCOPY files /srv/files\n"))?;
        for number in 0..FILES {
            let name = format!("files/d{}/f{}", number / IN_DIRECTORY, number % IN_DIRECTORY);
            let line = format!("file {number} of {FILES}\n");
            write_at(&self.files().join(name), &line.repeat(1 + number % 200), number)?;
        }
        Ok(())
    }

    fn make_big(&self) -> Result<()> {
        let directory = self.directory.join("big");
        self.put_big_at("srv")?;
        let piece: Vec<u8> =
            (0..1 << 20).map(|byte: u32| (byte.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let path = directory.join("large");
        let mut file = std::fs::File::create(&path).context(|| format!("open({path:?}, O_CREAT)"))?;
        for _ in 0..BIG_MIB {
            std::io::Write::write_all(&mut file, &piece).context(|| format!("write({path:?})"))?;
        }
        file.sync_all().context(|| format!("fsync({path:?})"))
    }

    /// Says where the large file goes.
    pub(super) fn put_big_at(&self, place: &str) -> Result<()> {
        let text = format!("FROM {BASE}\nCOPY large /{place}/large\n");
        write(&self.directory.join("big/Dockerfile"), &text)
    }

    /// Writes to one of the many files, of the same length.
    pub(super) fn change_one(&self) -> Result<()> {
        let path = self.files().join(CHANGED);
        let text = std::fs::read_to_string(&path).context(|| format!("read {path:?}"))?;
        write_at(&path, &text.to_uppercase(), FILES)
    }

    /// Every file with mode, owner, size and time, and the bytes of the one that is changed.
    pub(super) fn check_files(&self, root: &Path) -> Result<()> {
        let copied = root.join("srv/files");
        Inventory::take(&self.files().join("files"))?.check(&copied, Strictness::ExactBelowRoot)?;
        let read = |path: PathBuf| std::fs::read(&path).context(|| format!("read {path:?}"));
        let name = CHANGED.trim_start_matches("files/");
        is_equal(read(copied.join(name))? == read(self.files().join(CHANGED))?, CHANGED)
    }

    /// Every byte.
    pub(super) fn check_big(&self, root: &Path, place: &str) -> Result<()> {
        let source = self.directory.join("big/large");
        timed(command("cmp", ["--silent"]).arg(source).arg(root.join(place).join("large"))).map(drop)
    }
}

/// What each step wrote.
pub(super) fn check_steps(root: &Path) -> Result<()> {
    (1..=STEPS).try_for_each(|step| {
        let path = root.join(format!("step-{step}"));
        let text = std::fs::read_to_string(&path).context(|| format!("read {path:?}"))?;
        is_equal(text == format!("{step}\n"), &format!("step-{step}"))
    })
}

/// What the program says; the compiler is in no image.
pub(super) fn check_stages(root: &Path) -> Result<()> {
    let path = root.join("said");
    let text = std::fs::read_to_string(&path).context(|| format!("read {path:?}"))?;
    is_equal(text == format!("{}\n", FUNCTIONS * (FUNCTIONS - 1) / 2), "said")?;
    is_equal(!root.join("usr/bin/gcc").exists(), "usr/bin/gcc")
}

/// A program of many functions, which adds their numbers.
fn program() -> String {
    let mut text = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n".to_owned();
    for number in 0..FUNCTIONS {
        let _written = writeln!(
            text,
            "static long f{number}(const char *s) {{ char b[64]; long n = 0; snprintf(b, sizeof b, \"%s-%d\", s, {number}); \
             for (size_t i = 0; i < strlen(b); i++) n += b[i] ^ (long)i; return n ? strtol(strrchr(b, '-') + 1, 0, 10) : n; }}"
        );
    }
    text.push_str("int main(int c, char **v) { long n = 0;\n");
    for number in 0..FUNCTIONS {
        let _written = writeln!(text, "n += f{number}(v[c - 1]);");
    }
    text.push_str("printf(\"%ld\\n\", n); return 0; }\n");
    text
}

fn write(path: &Path, text: &str) -> Result<()> {
    let directory = path.parent().unwrap_or(path);
    std::fs::create_dir_all(directory).context(|| format!("mkdir({directory:?})"))?;
    std::fs::write(path, text).context(|| format!("write {path:?}"))
}

/// Writes a file that was modified at a whole second: archives have no others, and half of the builders are made of archives.
fn write_at(path: &Path, text: &str, second: usize) -> Result<()> {
    write(path, text)?;
    let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + second as u64);
    let file = std::fs::File::options().write(true).open(path).context(|| format!("open({path:?})"))?;
    file.set_modified(moment).context(|| format!("utimensat({path:?})"))
}

fn is_equal(equal: bool, what: &str) -> Result<()> {
    match equal {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::Corrupt, format!("{what} of the image is not what it should be"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_says_the_sum_of_the_numbers_of_its_functions() {
        let place = tempfile::tempdir().unwrap();
        write(&place.path().join("main.c"), &program()).unwrap();
        let out = place.path().join("program");
        timed(command("cc", ["-o"]).arg(&out).arg(place.path().join("main.c"))).unwrap();
        let said = crate::command::output(&mut command(&out, [] as [&str; 0])).unwrap();
        write(&place.path().join("said"), &said).unwrap();
        check_stages(place.path()).unwrap();
        write(&place.path().join("said"), "0\n").unwrap();
        check_stages(place.path()).unwrap_err();
    }
}
