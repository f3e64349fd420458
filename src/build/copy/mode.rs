//! `--chmod`: octal, or symbolic as chmod(1) has it.

use rootling_backends::{EntryType, Error, ErrorKind, Result};

/// What becomes of the permission bits of everything that is copied, links excepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Chmod {
    /// They become these.
    Octal(u32),
    /// They are changed so, one after the other.
    Symbolic(Vec<Clause>),
}

/// One change, of some classes of users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Clause {
    /// Bits of the classes that are meant, special ones among them.
    classes: u32,
    operation: u8,
    bits: Bits,
}

/// What is added, taken or set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bits {
    /// These bits of each class; `x` for directories and for what somebody may execute already; special bits.
    Given { permissions: u32, execute_if_any: bool, special: u32 },
    /// What a class has: how far its bits are to the left.
    Copied(u32),
}

const USER: u32 = 0o4700;
const GROUP: u32 = 0o2070;
const OTHERS: u32 = 0o1007;

impl Chmod {
    /// Reads it. Anything else is an error of kind `InvalidInput`.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            Error::new(ErrorKind::InvalidInput, format!("--chmod={text}: {why}"))
                .hint("write an octal number up to 7777, or changes as in u=rwX,go-w")
        };
        if text.bytes().next().is_some_and(|first| first.is_ascii_digit()) {
            return match u32::from_str_radix(text, 8) {
                Ok(mode @ 0..=0o7777) => Ok(Self::Octal(mode)),
                _ => Err(refuse("that is no octal number up to 7777")),
            };
        }
        let mut clauses = Vec::new();
        for part in text.split(',') {
            clause(part, &mut clauses).ok_or_else(|| refuse(&format!("{part:?} says nothing")))?;
        }
        Ok(Self::Symbolic(clauses))
    }

    /// Returns what a mode becomes.
    pub(super) fn apply(&self, mode: u32, kind: EntryType) -> u32 {
        match self {
            Self::Octal(mode) => *mode,
            Self::Symbolic(clauses) => {
                // Who may execute it is asked of what it was.
                let executable = kind == EntryType::Directory || mode & 0o111 != 0;
                clauses.iter().fold(mode & 0o7777, |mode, clause| clause.apply(mode, executable))
            }
        }
    }
}

/// Reads `[ugoa]*([+-=][rwxXst]*|[+-=][ugo])+`.
fn clause(text: &str, clauses: &mut Vec<Clause>) -> Option<()> {
    let bytes = text.as_bytes();
    let start = bytes.iter().position(|byte| b"+-=".contains(byte))?;
    let classes = bytes[..start].iter().try_fold(0, |classes, class| match class {
        b'u' => Some(classes | USER),
        b'g' => Some(classes | GROUP),
        b'o' => Some(classes | OTHERS),
        b'a' => Some(USER | GROUP | OTHERS),
        _ => None,
    })?;
    // Whom nothing is said of all are meant by: a build has no umask.
    let classes = if start == 0 { USER | GROUP | OTHERS } else { classes };
    let mut rest = &bytes[start..];
    while let Some((&operation, after)) = rest.split_first() {
        if !b"+-=".contains(&operation) {
            return None;
        }
        let end = after.iter().position(|byte| b"+-=".contains(byte)).unwrap_or(after.len());
        clauses.push(Clause { classes, operation, bits: bits(&after[..end])? });
        rest = &after[end..];
    }
    Some(())
}

fn bits(text: &[u8]) -> Option<Bits> {
    match text {
        b"u" => return Some(Bits::Copied(6)),
        b"g" => return Some(Bits::Copied(3)),
        b"o" => return Some(Bits::Copied(0)),
        _ => {}
    }
    let (mut permissions, mut execute_if_any, mut special) = (0, false, 0);
    for letter in text {
        match letter {
            b'r' => permissions |= 4,
            b'w' => permissions |= 2,
            b'x' => permissions |= 1,
            b'X' => execute_if_any = true,
            b's' => special |= 0o6000,
            b't' => special |= 0o1000,
            _ => return None,
        }
    }
    Some(Bits::Given { permissions, execute_if_any, special })
}

impl Clause {
    fn apply(self, mode: u32, executable: bool) -> u32 {
        let for_all = |three: u32| three << 6 | three << 3 | three;
        let bits = match self.bits {
            Bits::Given { permissions, execute_if_any, special } => {
                let execute = u32::from(execute_if_any && executable);
                // The sticky bit is nobody's: it is meant whoever is named.
                for_all(permissions | execute) | special & 0o6000 & self.classes
            }
            Bits::Copied(shift) => for_all(mode >> shift & 7),
        };
        let sticky = matches!(self.bits, Bits::Given { special, .. } if special & 0o1000 != 0);
        let meant = bits & self.classes | if sticky { 0o1000 } else { 0 };
        match self.operation {
            b'+' => mode | meant,
            b'-' => mode & !meant,
            _ => mode & !(self.classes & 0o6777) | meant,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_become_what_chmod_would_make_of_them() {
        let cases: &[(&str, u32, EntryType, u32)] = &[
            ("755", 0o4644, EntryType::File, 0o755),
            ("04755", 0o644, EntryType::File, 0o4755),
            ("0", 0o644, EntryType::File, 0),
            ("u+x", 0o644, EntryType::File, 0o744),
            ("go-w", 0o666, EntryType::File, 0o644),
            ("+x", 0o640, EntryType::File, 0o751),
            ("a=rX", 0o640, EntryType::File, 0o444),
            ("a=rX", 0o740, EntryType::File, 0o555),
            ("a=rX", 0o700, EntryType::Directory, 0o555),
            ("u=rwX,go=rX", 0o600, EntryType::File, 0o644),
            ("u=rwX,go=rX", 0o700, EntryType::Directory, 0o755),
            ("g=u", 0o740, EntryType::File, 0o770),
            ("o=g-w", 0o660, EntryType::File, 0o664),
            ("u+s,g+s", 0o755, EntryType::File, 0o6755),
            ("a+s", 0o755, EntryType::File, 0o6755),
            ("u-s", 0o6755, EntryType::File, 0o2755),
            ("u=rwx", 0o6755, EntryType::File, 0o2755),
            ("+t", 0o755, EntryType::Directory, 0o1755),
            ("go=", 0o777, EntryType::File, 0o700),
            ("u=rw,u+x", 0o000, EntryType::File, 0o700),
        ];
        for (text, before, kind, after) in cases {
            let made = Chmod::parse(text).unwrap().apply(*before, *kind);
            assert_eq!(made, *after, "{text} of {before:o}: {made:o}, not {after:o}");
        }
    }

    #[test]
    fn what_says_nothing_is_refused() {
        for text in ["", "8", "755x", "10000", "0x1", "-1x", "u", "ux", "u+q", "z+x", "u+x,", "u+ug", ","] {
            let error = Chmod::parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
        }
    }
}
