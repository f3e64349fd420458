//! Stands in for `expand` and `syntax::mount` until they are there.

use rootling_backends::{Error, ErrorKind, Result};

use super::step::Sharing;
use crate::build::syntax::Instruction;

pub(super) mod expand {
    use super::*;
    pub(crate) fn expand(
        word: &str,
        lookup: &dyn Fn(&str) -> Option<String>,
        escape: char,
    ) -> Result<String> {
        let mut out = String::new();
        let mut rest = word;
        while let Some(letter) = rest.chars().next() {
            rest = &rest[letter.len_utf8()..];
            match letter {
                '"' | '\'' => {}
                c if c == escape => {
                    if let Some(next) = rest.chars().next() {
                        out.push(next);
                        rest = &rest[next.len_utf8()..];
                    }
                }
                '$' => {
                    let braced = rest.strip_prefix('{');
                    let from = braced.unwrap_or(rest);
                    let end =
                        from.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(from.len());
                    out.push_str(&lookup(&from[..end]).unwrap_or_default());
                    rest = &from[end..];
                    if braced.is_some() {
                        rest = rest.strip_prefix('}').unwrap_or(rest);
                    }
                }
                c => out.push(c),
            }
        }
        Ok(out)
    }
    pub(crate) fn words(
        text: &str,
        lookup: &dyn Fn(&str) -> Option<String>,
        escape: char,
    ) -> Result<Vec<String>> {
        Ok(expand(text, lookup, escape)?.split_whitespace().map(str::to_owned).collect())
    }
    pub(crate) fn document(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String> {
        expand(text, lookup, '\\')
    }
}

pub(super) mod mount {
    use super::*;
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum MountType {
        Bind,
        Cache,
        Tmpfs,
        Secret,
        Ssh,
    }
    #[derive(Debug, Clone)]
    pub(crate) struct Mount {
        pub(crate) kind: MountType,
        pub(crate) from: Option<String>,
        pub(crate) source: Option<String>,
        pub(crate) target: Option<String>,
        pub(crate) read_only: Option<bool>,
        pub(crate) id: Option<String>,
        pub(crate) sharing: Option<Sharing>,
        pub(crate) required: bool,
        pub(crate) size: Option<u64>,
        pub(crate) mode: Option<u32>,
        pub(crate) uid: Option<u32>,
        pub(crate) gid: Option<u32>,
        pub(crate) env: Option<String>,
    }
    pub(crate) fn from(text: &str) -> Result<Option<String>> {
        Ok(text.split(',').find_map(|field| field.strip_prefix("from=")).map(str::to_owned))
    }
    pub(crate) fn parse(text: &str, expand: &dyn Fn(&str) -> Result<String>) -> Result<Mount> {
        let mut mount = Mount {
            kind: MountType::Bind,
            from: None,
            source: None,
            target: None,
            read_only: None,
            id: None,
            sharing: None,
            required: false,
            size: None,
            mode: None,
            uid: None,
            gid: None,
            env: None,
        };
        for field in text.split(',') {
            let (key, value) = field.split_once('=').unwrap_or((field, "true"));
            let value = expand(value)?;
            match key {
                "type" => {
                    mount.kind = match value.as_str() {
                        "bind" => MountType::Bind,
                        "cache" => MountType::Cache,
                        "tmpfs" => MountType::Tmpfs,
                        "secret" => MountType::Secret,
                        _ => MountType::Ssh,
                    }
                }
                "from" => mount.from = Some(value),
                "source" | "src" => mount.source = Some(value),
                "target" | "dst" | "destination" => mount.target = Some(value),
                "ro" | "readonly" => mount.read_only = Some(value == "true"),
                "rw" | "readwrite" => mount.read_only = Some(value != "true"),
                "id" => mount.id = Some(value),
                "sharing" => {
                    mount.sharing = Some(match value.as_str() {
                        "private" => Sharing::Private,
                        "locked" => Sharing::Locked,
                        _ => Sharing::Shared,
                    })
                }
                "required" => mount.required = value == "true",
                "size" => mount.size = value.parse().ok(),
                "mode" => mount.mode = u32::from_str_radix(&value, 8).ok(),
                "uid" => mount.uid = value.parse().ok(),
                "gid" => mount.gid = value.parse().ok(),
                "env" => mount.env = Some(value),
                _ => return Err(Error::new(ErrorKind::InvalidInput, format!("{key:?} is no key"))),
            }
        }
        Ok(mount)
    }
}

pub(super) fn parse_instruction(text: &str) -> Result<Instruction> {
    Err(Error::new(ErrorKind::Unsupported, text.to_owned()))
}
