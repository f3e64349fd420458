//! What may be written after `-v`, `--mount`, `--tmpfs` and `--add-host`: text to data, nothing looked at.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rootling_backends::{Error, ErrorKind, Result};

use crate::runner::{Bind, Owners, Restrictions, Tmpfs};
use crate::store::VolumeName;

/// Something to be shown inside, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Wanted {
    /// The volume, where it is one; then the source of `bind` is not known yet.
    pub(super) volume: Option<VolumeName>,
    /// Fill a volume that is empty with what the tree has at the target?
    pub(super) copy: bool,
    /// All the rest.
    pub(super) bind: Bind,
}

/// One of the three that `--mount` can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) enum Mount {
    Shown(Box<Wanted>),
    Tmpfs(Tmpfs),
}

/// A line of `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Host {
    pub(super) name: String,
    pub(super) address: Address,
}

/// Where a name leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) enum Address {
    Ip(IpAddr),
    /// The machine that the box runs on.
    HostGateway,
}

fn invalid(message: String, hint: &'static str) -> Error {
    Error::new(ErrorKind::InvalidInput, message).hint(hint)
}

/// `SOURCE:TARGET[:OPTION,...]`; a source that begins with `/` or `.` is a path, anything else a volume's name.
pub(in crate::cli) fn volume(text: &str) -> Result<Wanted> {
    const HINT: &str = "write -v SOURCE:TARGET[:OPTION,...]; paths with colons go with --mount";
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [source, target] => (*source, *target, ""),
        [source, target, options] => (*source, *target, *options),
        [_] => {
            return Err(invalid(
                format!("{text:?} has no source"),
                "write -v SOURCE:TARGET; for a directory in memory --tmpfs TARGET",
            ));
        }
        _ => return Err(invalid(format!("{text:?} has too many colons"), HINT)),
    };
    let mut wanted = wanted(source, target)?;
    let mut given = Given::default();
    for option in options.split(',').filter(|_| !options.is_empty()) {
        given.once(option)?;
        if !wanted.set(option)? {
            return Err(unknown(option));
        }
    }
    wanted.check()?;
    Ok(wanted)
}

fn unknown(option: &str) -> Error {
    let hint = "there are ro, rw, rbind, bind, idmap, noidmap, U, O, nosuid, suid, nodev, dev, noexec, exec, rprivate, rslave and nocopy";
    match option {
        "shared" | "rshared" => invalid(
            format!("{option:?} would show on the host what is mounted inside"),
            "rslave shows inside what the host mounts; the other way there is none",
        ),
        "z" | "Z" => invalid(format!("{option:?}: files are not labelled here"), "leave it out"),
        _ => invalid(format!("unknown option {option:?}"), hint),
    }
}

fn wanted(source: &str, target: &str) -> Result<Wanted> {
    if source.is_empty() || target.is_empty() {
        return Err(invalid(
            format!("{source:?} as {target:?}: one of them is empty"),
            "write -v SOURCE:TARGET",
        ));
    }
    let is_path = source.starts_with(['/', '.']);
    Ok(Wanted {
        volume: if is_path { None } else { Some(VolumeName::parse(source)?) },
        copy: true,
        bind: Bind::new(if is_path { source } else { "" }, absolute(target)?),
    })
}

fn absolute(target: &str) -> Result<PathBuf> {
    if Path::new(target).is_absolute() {
        return Ok(target.into());
    }
    Err(invalid(format!("{target:?} is not an absolute path"), "name the place inside from / on"))
}

impl Wanted {
    /// Sets one option without a value; false where there is none of that name.
    fn set(&mut self, option: &str) -> Result<bool> {
        let bind = &mut self.bind;
        if restrict(&mut bind.restrictions, option) {
            return Ok(true);
        }
        match option {
            "rbind" => bind.recursive = true,
            "bind" => bind.recursive = false,
            "idmap" => bind.owners = Owners::Mapped,
            "noidmap" => bind.owners = Owners::Unmapped,
            "U" => bind.give = true,
            "O" => bind.throw_away = true,
            "private" | "rprivate" => bind.follows_host = false,
            "slave" | "rslave" => bind.follows_host = true,
            "nocopy" if self.volume.is_some() => self.copy = false,
            "nocopy" => {
                return Err(invalid("nocopy: only into volumes is anything copied".into(), "leave it out"));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn check(&self) -> Result<()> {
        let bind = &self.bind;
        if bind.throw_away && (bind.restrictions.read_only || bind.give) {
            return Err(invalid(
                "O leaves the source as it is, and takes what is written".into(),
                "leave ro or U out",
            ));
        }
        if bind.follows_host && !bind.recursive {
            return Err(invalid(
                "rslave shows what is mounted in the source, bind does not".into(),
                "leave one of them out",
            ));
        }
        Ok(())
    }
}

fn restrict(restrictions: &mut Restrictions, option: &str) -> bool {
    match option {
        "ro" | "readonly" => restrictions.read_only = true,
        "rw" => restrictions.read_only = false,
        "nosuid" => restrictions.no_suid = true,
        "suid" => restrictions.no_suid = false,
        "nodev" => restrictions.no_devices = true,
        "dev" => restrictions.no_devices = false,
        "noexec" => restrictions.no_exec = true,
        "exec" => restrictions.no_exec = false,
        _ => return false,
    }
    true
}

/// The options that were given, so that none contradicts another.
#[derive(Debug, Default)]
struct Given<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Given<'a> {
    fn once(&mut self, option: &'a str) -> Result<()> {
        let about = match option {
            "ro" | "rw" | "readonly" => "writing",
            "rbind" | "bind" | "bind-recursive" | "bind-nonrecursive" => "mounts in it",
            "idmap" | "noidmap" => "owners",
            "nosuid" | "suid" => "suid",
            "nodev" | "dev" => "dev",
            "noexec" | "exec" => "exec",
            "private" | "rprivate" | "slave" | "rslave" | "bind-propagation" => "propagation",
            "source" | "src" => "source",
            "target" | "destination" | "dst" => "target",
            other => other,
        };
        if let Some((_, before)) = self.0.iter().find(|(known, _)| *known == about) {
            return Err(invalid(
                format!("{before:?} and {option:?} are about the same"),
                "leave one of them out",
            ));
        }
        self.0.push((about, option));
        Ok(())
    }
}

/// Docker's `type=bind|volume|tmpfs,source=S,target=T,...`, and the words of `-v`.
pub(in crate::cli) fn mount(text: &str) -> Result<Mount> {
    let fields: Vec<(&str, Option<&str>)> = text
        .split(',')
        .map(|field| field.split_once('=').map_or((field, None), |(key, value)| (key, Some(value))))
        .collect();
    let mut given = Given::default();
    fields.iter().try_for_each(|(key, _)| given.once(key))?;
    let value = |keys: &[&str]| {
        fields.iter().find(|(key, _)| keys.contains(key)).map(|(_, value)| value.unwrap_or_default())
    };
    let source = value(&["source", "src"]);
    let target = value(&["target", "destination", "dst"])
        .ok_or_else(|| invalid(format!("{text:?} has no target"), "write target=/PATH"))?;
    let rest = fields
        .iter()
        .copied()
        .filter(|(key, _)| !["type", "source", "src", "target", "destination", "dst"].contains(key));
    let sort = value(&["type"]).unwrap_or("volume");
    match (sort, source) {
        ("tmpfs", None) => mounted_tmpfs(target, rest).map(Mount::Tmpfs),
        ("tmpfs", Some(_)) => Err(invalid("a tmpfs has no source".into(), "leave source out")),
        ("bind" | "volume", None) => {
            Err(invalid(format!("{text:?} has no source"), "write source=PATH, or source=VOLUME"))
        }
        ("bind", Some(source)) => {
            let from = if source.starts_with(['/', '.']) { source.to_owned() } else { format!("./{source}") };
            shown(wanted(&from, target)?, rest)
        }
        ("volume", Some(source)) => {
            VolumeName::parse(source)?;
            shown(wanted(source, target)?, rest)
        }
        _ => Err(invalid(format!("there is no mount of type {sort:?}"), "there are bind, volume and tmpfs")),
    }
}

fn shown<'a>(mut wanted: Wanted, fields: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> Result<Mount> {
    for (key, value) in fields {
        let is_volume = wanted.volume.is_some();
        match (key, value) {
            ("readonly" | "ro", Some(value)) => wanted.bind.restrictions.read_only = boolean(key, value)?,
            ("bind-nonrecursive", value) if !is_volume => {
                wanted.bind.recursive = !boolean(key, value.unwrap_or("true"))?;
            }
            ("bind-recursive", Some("enabled" | "readonly")) if !is_volume => wanted.bind.recursive = true,
            ("bind-recursive", Some("disabled")) if !is_volume => wanted.bind.recursive = false,
            ("bind-recursive", Some("writable")) if !is_volume => {
                return Err(invalid(
                    "what is mounted in a read-only source is read-only, too".into(),
                    "leave bind-recursive out, and mount what shall be writable by itself",
                ));
            }
            ("bind-propagation", Some(value @ ("private" | "rprivate" | "slave" | "rslave"))) => {
                wanted.set(value)?;
            }
            ("bind-propagation", Some(value)) => return Err(unknown(value)),
            ("volume-nocopy", value) if is_volume => wanted.copy = !boolean(key, value.unwrap_or("true"))?,
            ("volume-subpath" | "bind-subpath", Some(value)) if !value.is_empty() => {
                wanted.bind.below = Some(value.into());
            }
            (option, None) => {
                if !wanted.set(option)? {
                    return Err(unknown(option));
                }
            }
            (key, Some(value)) => {
                return Err(invalid(
                    format!("{key}={value} means nothing here"),
                    "there are readonly, bind-recursive, bind-propagation, volume-nocopy, volume-subpath, and the options of -v",
                ));
            }
        }
    }
    wanted.check()?;
    Ok(Mount::Shown(Box::new(wanted)))
}

fn boolean(key: &str, value: &str) -> Result<bool> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(invalid(format!("{key}={value} is neither true nor false"), "write true or false")),
    }
}

/// `TARGET[:OPTION,...]`; not executable unless it is said, as docker has it.
pub(in crate::cli) fn tmpfs(text: &str) -> Result<Tmpfs> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let fields = options.split(',').filter(|_| !options.is_empty());
    let fields =
        fields.map(|field| field.split_once('=').map_or((field, None), |(key, value)| (key, Some(value))));
    mounted_tmpfs(target, fields)
}

fn mounted_tmpfs<'a>(
    target: &str,
    fields: impl Iterator<Item = (&'a str, Option<&'a str>)>,
) -> Result<Tmpfs> {
    let restrictions = Restrictions { no_exec: true, ..Restrictions::default() };
    let mut tmpfs = Tmpfs { target: absolute(target)?, mode: 0o1777, size_bytes: None, restrictions };
    let mut given = Given::default();
    for (key, value) in fields {
        given.once(key.strip_prefix("tmpfs-").unwrap_or(key))?;
        match (key, value) {
            ("size" | "tmpfs-size", Some(value)) => tmpfs.size_bytes = Some(size(value)?),
            ("mode" | "tmpfs-mode", Some(value)) => tmpfs.mode = mode(value)?,
            ("readonly" | "ro", Some(value)) => tmpfs.restrictions.read_only = boolean(key, value)?,
            (option, None) if restrict(&mut tmpfs.restrictions, option) => {}
            _ => {
                return Err(invalid(
                    format!("unknown option {key:?} of a tmpfs"),
                    "there are size=BYTES, mode=OCTAL, ro, rw, nosuid, suid, nodev, dev, noexec and exec",
                ));
            }
        }
    }
    Ok(tmpfs)
}

/// Bytes, or with k, m, g: units of 1024.
fn size(text: &str) -> Result<u64> {
    let bad = || invalid(format!("{text:?} is no size"), "write bytes, or a number with k, m or g");
    let lower = text.to_ascii_lowercase();
    let (digits, unit) = match lower.strip_suffix('b').unwrap_or(&lower) {
        text if text.ends_with('k') => (&text[..text.len() - 1], 1 << 10),
        text if text.ends_with('m') => (&text[..text.len() - 1], 1 << 20),
        text if text.ends_with('g') => (&text[..text.len() - 1], 1 << 30),
        text => (text, 1_u64),
    };
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = if plain { digits.parse().map_err(|_| bad())? } else { return Err(bad()) };
    // 0 would be no limit at all, tmpfs(5).
    number.checked_mul(unit).filter(|size| *size > 0).ok_or_else(bad)
}

fn mode(text: &str) -> Result<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let mode = if digits { u32::from_str_radix(text, 8).ok() } else { None };
    mode.filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| invalid(format!("{text:?} is no mode"), "write octal digits, as 1777"))
}

/// `NAME:ADDRESS` or `NAME=ADDRESS`; an IPv6 address may stand in brackets.
pub(in crate::cli) fn host(text: &str) -> Result<Host> {
    const HINT: &str = "write --add-host NAME:ADDRESS";
    let cut = text.find(['=', ':']).ok_or_else(|| invalid(format!("{text:?} has no address"), HINT))?;
    let (name, address) = (&text[..cut], &text[cut + 1..]);
    // What is written to a file of lines must not bring lines of its own.
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if name.is_empty() || name.len() > 253 || !name.bytes().all(good) {
        return Err(invalid(format!("{name:?} is no host name"), HINT));
    }
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    let address = match bare {
        "host-gateway" => Address::HostGateway,
        _ => Address::Ip(bare.parse().map_err(|_| invalid(format!("{address:?} is no IP address"), HINT))?),
    };
    Ok(Host { name: name.to_owned(), address })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bind(source: &str, change: impl FnOnce(&mut Bind)) -> Wanted {
        let mut bind = Bind::new(source, "/dst");
        change(&mut bind);
        Wanted { volume: None, copy: true, bind }
    }

    #[test]
    fn volumes_are_read_as_docker_and_podman_write_them() {
        let table: [(&str, Wanted); 12] = [
            ("/src:/dst", bind("/src", |_| {})),
            ("./src:/dst", bind("./src", |_| {})),
            ("..:/dst:rw", bind("..", |_| {})),
            ("/src:/dst:ro", bind("/src", |bind| bind.restrictions.read_only = true)),
            ("/src:/dst:noexec", bind("/src", |bind| bind.restrictions.no_exec = true)),
            (
                "/src:/dst:suid,dev",
                bind("/src", |bind| {
                    bind.restrictions.no_suid = false;
                    bind.restrictions.no_devices = false;
                }),
            ),
            ("/src:/dst:bind", bind("/src", |bind| bind.recursive = false)),
            ("/src:/dst:idmap", bind("/src", |bind| bind.owners = Owners::Mapped)),
            (
                "/src:/dst:noidmap,U",
                bind("/src", |bind| {
                    bind.owners = Owners::Unmapped;
                    bind.give = true;
                }),
            ),
            ("/src:/dst:O", bind("/src", |bind| bind.throw_away = true)),
            ("/src:/dst:rslave", bind("/src", |bind| bind.follows_host = true)),
            ("/src:/dst:rbind,private", bind("/src", |_| {})),
        ];
        for (text, expected) in table {
            assert_eq!(volume(text).unwrap(), expected, "{text}");
        }
        let named = volume("data:/dst:nocopy").unwrap();
        assert_eq!((named.volume.unwrap().as_str(), named.copy), ("data", false));
    }

    #[test]
    fn what_is_no_volume_is_refused_with_a_hint() {
        for bad in [
            "",
            "/dst",
            ":/dst",
            "/src:",
            "/src:dst",
            "/a:/b:ro:x",
            "/a:/b:",
            "/a:/b:ro,",
            "/a:/b:ro,rw",
            "/a:/b:rshared",
            "/a:/b:z",
            "/a:/b:cached",
            "/a:/b:bind,rbind",
            "/a:/b:O,ro",
            "/a:/b:O,U",
            "/a:/b:nocopy",
            "a/b:/dst",
            "-x:/dst",
            "/a:/b:bind,rslave",
            "/a:/b:RO",
        ] {
            match volume(bad) {
                // A trailing colon asks for nothing.
                Ok(_) => assert_eq!(bad, "/a:/b:"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad}");
                    assert!(error.first_hint().is_some(), "{bad}");
                }
            }
        }
    }

    #[test]
    fn mounts_are_read_as_docker_writes_them() {
        let shown = |text: &str| match mount(text).unwrap() {
            Mount::Shown(wanted) => *wanted,
            Mount::Tmpfs(tmpfs) => panic!("{tmpfs:?}"),
        };
        assert_eq!(
            shown("type=bind,source=/a:b,target=/dst,readonly"),
            bind("/a:b", |bind| bind.restrictions.read_only = true)
        );
        assert_eq!(
            shown("type=bind,src=rel,dst=/dst,bind-recursive=disabled"),
            bind("./rel", |bind| bind.recursive = false)
        );
        assert_eq!(shown("type=bind,src=/s,destination=/dst,readonly=false"), bind("/s", |_| {}));
        assert_eq!(
            shown("type=bind,src=/s,dst=/dst,bind-propagation=rslave"),
            bind("/s", |bind| bind.follows_host = true)
        );
        let data = shown("source=data,target=/dst,volume-nocopy,volume-subpath=a/b,idmap");
        assert_eq!(
            (data.volume.unwrap().as_str(), data.copy, data.bind.owners),
            ("data", false, Owners::Mapped)
        );
        assert_eq!(data.bind.below.unwrap(), Path::new("a/b"));
        let memory = mount("type=tmpfs,target=/dst,tmpfs-size=64m,tmpfs-mode=0700").unwrap();
        assert_eq!(
            memory,
            Mount::Tmpfs(Tmpfs { size_bytes: Some(64 << 20), mode: 0o700, ..tmpfs("/dst").unwrap() })
        );
        for bad in [
            "",
            "type=bind,target=/d",
            "type=bind,source=/s",
            "type=nfs,source=s,target=/d",
            "type=tmpfs,source=/s,target=/d",
            "type=bind,source=/s,target=/d,volume-nocopy",
            "type=bind,source=/s,target=/d,bind-recursive=writable",
            "type=bind,source=/s,target=/d,readonly=maybe",
            "type=bind,source=/s,src=/t,target=/d",
            "type=volume,source=/s,target=/d",
            "type=bind,source=/s,target=/d,bind-propagation=shared",
            "type=tmpfs,target=/d,tmpfs-size=1,size=2",
        ] {
            assert_eq!(mount(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
    }

    #[test]
    fn memory_has_dockers_defaults() {
        let plain = tmpfs("/t").unwrap();
        assert_eq!((plain.mode, plain.size_bytes), (0o1777, None));
        assert!(plain.restrictions.no_exec && plain.restrictions.no_suid && plain.restrictions.no_devices);
        let set = tmpfs("/t:size=1g,mode=755,exec,ro").unwrap();
        assert_eq!((set.mode, set.size_bytes), (0o755, Some(1 << 30)));
        assert!(!set.restrictions.no_exec && set.restrictions.read_only);
        for bad in [
            "t",
            "/t:size=",
            "/t:size=0",
            "/t:size=-1",
            "/t:size=1t",
            "/t:size=99999999999g",
            "/t:mode=8",
            "/t:mode=77777",
            "/t:huge=always",
            "/t:size=1,size=2",
        ] {
            assert!(tmpfs(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_are_one_line_each() {
        let ip = |text: &str| Address::Ip(text.parse().unwrap());
        for (text, name, address) in [
            ("db:10.0.0.1", "db", ip("10.0.0.1")),
            ("db=10.0.0.1", "db", ip("10.0.0.1")),
            ("six:::1", "six", ip("::1")),
            ("six:[fe80::1]", "six", ip("fe80::1")),
            ("me:host-gateway", "me", Address::HostGateway),
        ] {
            assert_eq!(host(text).unwrap(), Host { name: name.into(), address }, "{text}");
        }
        for bad in
            ["", "db", ":1.2.3.4", "db:", "db:name", "a b:1.2.3.4", "a\nb:1.2.3.4", "db:1.2.3.4\n5.6.7.8 x"]
        {
            assert!(host(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,60}") {
            drop((volume(&text), mount(&text), tmpfs(&text), host(&text)));
        }

        #[test]
        fn what_is_written_is_what_is_shown(source in "/[a-z/]{1,20}", target in "/[a-z/]{1,20}", ro: bool) {
            let wanted = volume(&format!("{source}:{target}:{}", if ro { "ro" } else { "rw" })).unwrap();
            prop_assert_eq!(&wanted.bind.source, Path::new(&source));
            prop_assert_eq!(&wanted.bind.target, Path::new(&target));
            prop_assert_eq!(wanted.bind.restrictions.read_only, ro);
            let same = mount(&format!("type=bind,source={source},target={target},readonly={ro}")).unwrap();
            prop_assert_eq!(same, Mount::Shown(Box::new(wanted)));
        }

        #[test]
        fn sizes_are_what_they_say(number in 1_u64..1 << 20) {
            prop_assert_eq!(size(&number.to_string()).unwrap(), number);
            prop_assert_eq!(size(&format!("{number}k")).unwrap(), number << 10);
            prop_assert_eq!(size(&format!("{number}MB")).unwrap(), number << 20);
        }
    }
}
