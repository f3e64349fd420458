//! The values of `RUN --mount`: one line of comma-separated `key=value`, where a field with a comma stands in quotes.

use rootling_backends::{Error, ErrorKind, Result};

use crate::build::plan::Sharing;
use crate::near::near;
use crate::runner::cgroup::parse_size;

/// What one `--mount` says. What it does not say is `None`, and is decided where the mount is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mount {
    /// `type`.
    pub kind: Kind,
    /// `from`: a stage, an image or a context. Never expanded.
    pub from: Option<String>,
    /// `source`, `src`: a path below `from`; for a secret, its id.
    pub source: Option<String>,
    /// `target`, `dst`, `destination`: as it was typed, so it may be relative to the working directory.
    pub target: Option<String>,
    /// `readonly`, `ro`, `readwrite`, `rw`; where nothing was said, only caches and memory are writable.
    pub read_only: bool,
    /// `id` of a cache, secret or agent.
    pub id: Option<String>,
    /// `sharing` of a cache.
    pub sharing: Option<Sharing>,
    /// `required` of a secret or an agent.
    pub required: bool,
    /// `size` of memory, in bytes.
    pub size: Option<u64>,
    /// `mode` of what is made for a cache, secret or agent.
    pub mode: Option<u32>,
    /// `uid` of its owner.
    pub uid: Option<u32>,
    /// `gid` of its group.
    pub gid: Option<u32>,
    /// `env`: the variable that is given a secret.
    pub env: Option<String>,
}

/// What a mount shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    /// Files of a context, a stage or an image.
    #[default]
    Bind,
    /// A directory that outlives the build.
    Cache,
    /// Memory.
    Tmpfs,
    /// A file nobody else sees.
    Secret,
    /// The socket of an ssh agent.
    Ssh,
}

impl Kind {
    const ALL: [(&str, Self); 5] = [
        ("bind", Self::Bind),
        ("cache", Self::Cache),
        ("tmpfs", Self::Tmpfs),
        ("secret", Self::Secret),
        ("ssh", Self::Ssh),
    ];

    /// Returns the word for it.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

const SHARING: [(&str, Sharing); 3] =
    [("shared", Sharing::Shared), ("private", Sharing::Private), ("locked", Sharing::Locked)];

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "env",
];

/// Reads one `--mount`; every value but that of `from` goes through `expand`.
///
/// # Errors
///
/// `InvalidInput` for what is no line of fields, for a key or value that is not known, for a key that this type of
/// mount has no use for, and for a variable in `from`; and whatever `expand` says.
pub fn parse(text: &str, expand: &mut dyn FnMut(&str) -> Result<String>) -> Result<Mount> {
    let mut mount = Mount::default();
    let mut read_only = None;
    for field in fields(text)? {
        match field.split_once('=') {
            None => mount.switch(&field, &mut read_only)?,
            Some((key, value)) => {
                let key = key.to_ascii_lowercase();
                let value = if key == "from" { constant(value)? } else { expand(value)? };
                mount.set(&key, value, &mut read_only)?;
            }
        }
    }
    mount.read_only = read_only.unwrap_or(!matches!(mount.kind, Kind::Cache | Kind::Tmpfs));
    mount.check()?;
    Ok(mount)
}

/// Checks what can be checked before variables have values.
///
/// # Errors
///
/// As [`parse`]; where a variable is in it, only for fields that cannot be read, and a variable in `from`.
pub(super) fn check(text: &str) -> Result<()> {
    if !text.contains('$') {
        return parse(text, &mut |value| Ok(value.to_owned())).map(drop);
    }
    from(text).map(drop)
}

/// Returns what a mount says of `from`, which needs no values of variables.
///
/// # Errors
///
/// As [`parse`], for fields that cannot be read, and for a variable in `from`.
pub(in crate::build) fn from(text: &str) -> Result<Option<String>> {
    let mut from = None;
    for field in fields(text)? {
        if let Some((key, value)) = field.split_once('=')
            && key.eq_ignore_ascii_case("from")
        {
            from = Some(constant(value)?);
        }
    }
    Ok(from)
}

fn wrong(message: String) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

/// Adds what may have been meant.
fn meant<'a>(error: Error, typed: &str, names: impl Iterator<Item = &'a str> + Clone) -> Error {
    match near(typed, names.clone()).first() {
        Some(name) => error.hint(format!("did you mean {name}?")),
        None => error.hint(format!("one of {}", names.collect::<Vec<_>>().join(", "))),
    }
}

/// A `from` decides what is built first: nothing has a value by then.
fn constant(value: &str) -> Result<String> {
    match value.find('$') {
        Some(at) if at + 1 < value.len() => {
            let message = format!("from={value} has a variable in it, and from cannot be expanded");
            Err(wrong(message).hint("give it a name first, with FROM ... AS NAME, and say from=NAME"))
        }
        _ => Ok(value.to_owned()),
    }
}

impl Mount {
    /// Takes a key without a value.
    fn switch(&mut self, key: &str, read_only: &mut Option<bool>) -> Result<()> {
        match key.to_ascii_lowercase().as_str() {
            "readonly" | "ro" => *read_only = Some(true),
            "readwrite" | "rw" => *read_only = Some(false),
            "required" => self.required = true,
            lower if KEYS.contains(&lower) => {
                return Err(wrong(format!("{key} has no value")).hint(format!("write {lower}=VALUE")));
            }
            "" => return Err(wrong("there is nothing between two commas".to_owned())),
            lower => {
                return Err(meant(wrong(format!("{key:?} is no key of a mount")), lower, KEYS.into_iter()));
            }
        }
        Ok(())
    }

    /// Takes a key with its value.
    fn set(&mut self, key: &str, value: String, read_only: &mut Option<bool>) -> Result<()> {
        match key {
            "type" => self.kind = one_of(key, &value, &Kind::ALL)?,
            "from" => self.from = Some(value),
            "source" | "src" => self.source = Some(value),
            "target" | "dst" | "destination" => self.target = Some(value),
            "readonly" | "ro" => *read_only = Some(boolean(key, &value)?),
            "readwrite" | "rw" => *read_only = Some(!boolean(key, &value)?),
            "required" => self.required = boolean(key, &value)?,
            "size" => self.size = Some(parse_size(&value)?),
            "id" => self.id = Some(value),
            "sharing" => self.sharing = Some(one_of(key, &value, &SHARING)?),
            "mode" => self.mode = Some(number(key, &value, 8)?),
            "uid" => self.uid = Some(number(key, &value, 10)?),
            "gid" => self.gid = Some(number(key, &value, 10)?),
            "env" => self.env = Some(value),
            _ => return Err(meant(wrong(format!("{key:?} is no key of a mount")), key, KEYS.into_iter())),
        }
        Ok(())
    }

    /// Refuses what this type has no use for.
    fn check(&self) -> Result<()> {
        let kind = self.kind;
        let made = matches!(kind, Kind::Cache | Kind::Secret | Kind::Ssh);
        let useless = [
            ("mode", self.mode.is_some() && !made),
            ("uid", self.uid.is_some() && !made),
            ("gid", self.gid.is_some() && !made),
            ("required", self.required && !matches!(kind, Kind::Secret | Kind::Ssh)),
            ("size", self.size.is_some() && kind != Kind::Tmpfs),
            ("sharing", self.sharing.is_some() && kind != Kind::Cache),
            ("env", self.env.is_some() && kind != Kind::Secret),
            ("from", self.from.is_some() && kind == Kind::Secret),
        ];
        if let Some((key, _)) = useless.iter().find(|(_, is_there)| *is_there) {
            let message = format!("a mount of type {} has no {key}", kind.name());
            return Err(wrong(message).hint(format!("leave {key} away, or name another type")));
        }
        if kind == Kind::Secret {
            if self.id.is_none() && self.source.is_none() && self.target.is_none() {
                return Err(wrong("the secret has no name".to_owned()).hint("write type=secret,id=NAME"));
            }
            if self.id.is_some() && self.source.is_some() {
                return Err(
                    wrong("the secret has two names, id and source".to_owned()).hint("leave one away")
                );
            }
        }
        Ok(())
    }
}

fn one_of<T: Copy>(key: &str, value: &str, all: &[(&str, T)]) -> Result<T> {
    let lower = value.to_ascii_lowercase();
    all.iter().find(|(name, _)| *name == lower).map(|(_, what)| *what).ok_or_else(|| {
        meant(wrong(format!("{key} {value:?} is not known")), &lower, all.iter().map(|(name, _)| *name))
    })
}

fn boolean(key: &str, value: &str) -> Result<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(wrong(format!("{key} {value:?} is neither true nor false"))),
    }
}

fn number(key: &str, value: &str, base: u32) -> Result<u32> {
    // A sign is no digit, whatever from_str_radix says.
    let parsed = if value.starts_with('+') { None } else { u32::from_str_radix(value, base).ok() };
    parsed.ok_or_else(|| {
        let what = if base == 8 { "an octal number" } else { "a number" };
        wrong(format!("{key} {value:?} is not {what}"))
    })
}

/// Takes one line of comma-separated values apart: a field may stand in double quotes, and has two for one in it.
pub(in crate::build) fn fields(text: &str) -> Result<Vec<String>> {
    if text.is_empty() {
        return Err(wrong("nothing is said".to_owned()).hint("write it as in type=bind,target=/path"));
    }
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => {
                let (field, after) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
                if field.contains('"') {
                    let message = format!("there is a quote in the middle of {field:?}");
                    return Err(wrong(message).hint("put the whole field in quotes, key and all"));
                }
                (field.to_owned(), after)
            }
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => return Ok(fields),
        }
    }
}

/// Reads a field up to its closing quote, and returns it with what follows.
fn quoted_field(text: &str) -> Result<(String, &str)> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let Some((part, after)) = rest.split_once('"') else {
            return Err(wrong(format!("the quote before {text:?} is not closed")));
        };
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None if after.is_empty() || after.starts_with(',') => return Ok((field, after)),
            None => return Err(wrong(format!("there is no comma before {after:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Mount> {
        parse(text, &mut |value| Ok(value.replace("$x", "value,")))
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn every_key_is_read() {
        let bind = Mount { read_only: true, ..Mount::default() };
        let cache = Mount { kind: Kind::Cache, ..Mount::default() };
        let secret = Mount { kind: Kind::Secret, id: some("s"), ..bind.clone() };
        let cases = [
            ("target=/a", Mount { target: some("/a"), ..bind.clone() }),
            ("type=bind,dst=/a", Mount { target: some("/a"), ..bind.clone() }),
            (
                "from=b,src=c,destination=/a,rw",
                Mount {
                    from: some("b"),
                    source: some("c"),
                    target: some("/a"),
                    read_only: false,
                    ..bind.clone()
                },
            ),
            ("TYPE=Cache,Target=/A", Mount { target: some("/A"), ..cache.clone() }),
            ("type=cache,ro", Mount { read_only: true, ..cache.clone() }),
            ("type=cache,readonly=true,rw", cache.clone()),
            ("type=cache,rw=false", Mount { read_only: true, ..cache.clone() }),
            ("type=cache,readwrite=0", Mount { read_only: true, ..cache.clone() }),
            ("type=cache,sharing=LOCKED", Mount { sharing: Some(Sharing::Locked), ..cache.clone() }),
            ("type=cache,sharing=private,id=i", {
                Mount { sharing: Some(Sharing::Private), id: some("i"), ..cache.clone() }
            }),
            ("type=cache,mode=0755,uid=1000,gid=7", {
                Mount { mode: Some(0o755), uid: Some(1000), gid: Some(7), ..cache }
            }),
            ("type=tmpfs,size=64m", Mount { kind: Kind::Tmpfs, size: Some(64 << 20), ..Mount::default() }),
            ("type=secret,id=s", secret.clone()),
            ("type=secret,id=s,required", Mount { required: true, ..secret.clone() }),
            ("required=true,type=secret,id=s", Mount { required: true, ..secret.clone() }),
            ("type=secret,id=s,env=TOKEN", Mount { env: some("TOKEN"), ..secret }),
            ("type=ssh", Mount { kind: Kind::Ssh, ..bind.clone() }),
            (
                "target=$x,source=a$xb",
                Mount { target: some("value,"), source: some("avalue,b"), ..bind.clone() },
            ),
            ("\"target=/a,b\",\"source=say \"\"hi\"\"\"", {
                Mount { target: some("/a,b"), source: some("say \"hi\""), ..bind.clone() }
            }),
            ("target=a=b", Mount { target: some("a=b"), ..bind.clone() }),
            ("target=", Mount { target: some(""), ..bind }),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text).expect(text), expected, "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let cases = [
            ("", "nothing is said"),
            ("type=bnid", "type \"bnid\" is not known (did you mean bind?)"),
            ("type=volume", "(one of bind, cache, tmpfs, secret, ssh)"),
            ("typ=bind", "\"typ\" is no key of a mount (did you mean type?)"),
            ("tagret", "(did you mean target?)"),
            ("target", "target has no value"),
            ("target=/a,", "nothing between two commas"),
            ("type=cache,sharing=exclusive", "sharing \"exclusive\" is not known"),
            ("type=cache,ro=maybe", "neither true nor false"),
            ("type=cache,mode=789", "mode \"789\" is not an octal number"),
            ("type=cache,uid=root", "uid \"root\" is not a number"),
            ("type=cache,gid=+1", "gid \"+1\" is not a number"),
            ("type=tmpfs,size=big", "not a size"),
            ("type=cache,size=1m", "type cache has no size"),
            ("mode=0700", "type bind has no mode"),
            ("type=tmpfs,uid=1", "type tmpfs has no uid"),
            ("required", "type bind has no required"),
            ("sharing=shared", "type bind has no sharing"),
            ("type=ssh,env=A", "type ssh has no env"),
            ("type=secret", "no name"),
            ("type=secret,env=A", "no name"),
            ("type=secret,id=a,source=b", "two names"),
            ("type=secret,id=a,from=b", "type secret has no from"),
            ("from=$stage,target=/a", "from cannot be expanded"),
            ("\"target=/a", "is not closed"),
            ("target=/a\"b\"", "a quote in the middle"),
            ("\"target=/a\"b", "no comma before"),
        ];
        for (text, expected) in cases {
            let error = read(text).expect_err(text);
            let said = format!("{error} ({})", error.first_hint().unwrap_or_default());
            assert!(said.contains(expected), "{text}: {said}");
        }
    }

    #[test]
    fn a_mount_with_variables_is_checked_as_far_as_it_can_be() {
        check("type=$kind,whatever=$x").unwrap();
        check("from=$,target=/a").unwrap();
        check("FROM=$a,target=$b").unwrap_err();
        check("\"target=$x").unwrap_err();
        check("type=bnid").unwrap_err();
    }

    proptest::proptest! {
        #[test]
        fn any_mount_is_read_or_refused(text in "((type|from|size|ro|id)=?|[a-z\",=$]|\\PC){0,30}") {
            drop((read(&text), check(&text)));
        }

        #[test]
        fn quoted_fields_are_read_as_they_were(value in "\\PC{0,20}") {
            let text = format!("\"target={}\"", value.replace('"', "\"\""));
            let mount = parse(&text, &mut |value| Ok(value.to_owned())).unwrap();
            proptest::prop_assert_eq!(mount.target, Some(value));
        }
    }
}
