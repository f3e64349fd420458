//! Reads profiles in docker's JSON format, which podman, containerd and others use as well: the format of the OCI
//! runtime specification (config-linux.md, "Seccomp") with conditions on capabilities, architectures and the kernel.
//!
//! As those engines do it with libseccomp: names that a table does not have are skipped (profiles list calls of all
//! architectures and kernels), a rule without arguments beats those with, and where one rule has several comparisons
//! of the same argument each stands alone. Where the default is an error, calls that are younger than everything the
//! profile names (and than Linux 5.1) answer `ENOSYS`, so that programs fall back; runc does so too. Calls of x32 always do.
//!
//! Everything else that is not understood is an error that names the entry: a word skipped in a profile is a hole in
//! the wall. What needs a second process to answer (`SCMP_ACT_NOTIFY`, `SCMP_ACT_TRACE`) cannot be had here.

use std::borrow::Cow;

use nix::errno::Errno;
use rootling_backends::{Error, ErrorKind, Result};
use serde::Deserialize;

use super::arch::{self, Arch};
use super::profile::{Action, Calls, Check, Op, Profile, Rule};

/// More than any profile has, and little enough that reading it costs no one anything.
pub(super) const MAX_BYTES: u64 = 1 << 20;

/// What decides which entries count.
#[derive(Debug)]
pub(super) struct Surroundings {
    /// The capabilities that the box keeps.
    pub(super) capabilities: u64,
    /// Major and minor version of the kernel.
    pub(super) kernel: (u32, u32),
    /// The architectures of this machine's programs, its own first.
    pub(super) native: Vec<&'static Arch>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    default_action: String,
    default_errno_ret: Option<u32>,
    /// containers-common's spelling by name; it goes before the number.
    default_errno: Option<String>,
    #[serde(default)]
    arch_map: Option<Vec<ArchMap>>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    flags: Option<Vec<String>>,
    #[serde(default)]
    listener_path: String,
    #[serde(default)]
    listener_metadata: String,
    #[serde(default)]
    syscalls: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ArchMap {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    /// The oldest profiles have one name an entry.
    #[serde(default)]
    name: String,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u32>,
    errno: Option<String>,
    args: Option<Vec<Argument>>,
    #[serde(default)]
    comment: Option<String>,
    #[serde(default)]
    includes: Option<Filter>,
    #[serde(default)]
    excludes: Option<Filter>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Filter {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// Reads a profile; `name` is for messages.
pub(super) fn read(name: &str, text: &str, here: &Surroundings) -> Result<Profile> {
    read_file(text, here)
        .map(|profile| Profile { name: name.to_owned(), ..profile })
        .map_err(|error| error.context(format!("seccomp profile {name:?}")))
}

fn read_file(text: &str, here: &Surroundings) -> Result<Profile> {
    if text.len() as u64 > MAX_BYTES {
        let message = format!("it has {} bytes, and more than {MAX_BYTES} are not read", text.len());
        return Err(invalid(message));
    }
    let file: File = serde_json::from_str(text).map_err(|error| {
        let error = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
        Error::io("not a profile in docker's format", error).with_kind(ErrorKind::InvalidInput)
    })?;
    if !file.listener_path.is_empty() || !file.listener_metadata.is_empty() {
        return Err(unsupported("listenerPath and listenerMetadata".into()));
    }
    let default = action(&file.default_action, errno(file.default_errno.as_deref(), file.default_errno_ret)?)
        .map_err(|error| error.context("defaultAction"))?;
    let mut rules = Vec::new();
    for (index, entry) in file.syscalls.into_iter().flatten().enumerate() {
        let first = entry.names.iter().flatten().next().unwrap_or(&entry.name).clone();
        let rule = rule(entry, index, here)
            .map_err(|error| error.context(format!("syscalls[{index}] ({})", first.escape_debug())))?;
        rules.extend(rule);
    }
    // Stable: among themselves, each sort keeps the order of the file.
    rules.sort_by_key(|rule| !rule.any.is_empty());
    Ok(Profile {
        name: String::new(),
        arches: arches(file.arch_map, file.architectures, here)?,
        rules,
        default,
        newer: match default {
            Action::Errno(_) => Action::Errno(Errno::ENOSYS as u16),
            other => other,
        },
        flags: file.flags.iter().flatten().try_fold(0, |flags, word| Ok::<_, Error>(flags | flag(word)?))?,
    })
}

fn rule(entry: Entry, index: usize, here: &Surroundings) -> Result<Option<Rule>> {
    let calls = match (entry.name.is_empty(), entry.names) {
        (true, Some(names)) => names,
        (false, None) => vec![entry.name],
        (false, Some(_)) => return Err(invalid("it has both \"name\" and \"names\"")),
        (true, None) => return Err(invalid("it has no \"names\"")),
    };
    // Read also where the entry does not count here: what is wrong is wrong everywhere.
    let action = action(&entry.action, errno(entry.errno.as_deref(), entry.errno_ret)?)?;
    let any = alternatives(entry.args.unwrap_or_default())?;
    let included = includes(&entry.includes.unwrap_or_default(), here)?;
    let excluded = excludes(&entry.excludes.unwrap_or_default(), here)?;
    Ok((included && !excluded).then(|| Rule {
        name: Cow::Owned(format!("syscalls[{index}]")),
        reason: Cow::Owned(entry.comment.unwrap_or_default()),
        calls: Calls::List(calls),
        any,
        action,
    }))
}

/// All of the checks, or any of them where one argument is compared twice: libseccomp could not do that once, the
/// engines made several rules of it, and profiles count on it.
fn alternatives(arguments: Vec<Argument>) -> Result<Vec<Vec<Check>>> {
    let checks = arguments.into_iter().map(check).collect::<Result<Vec<_>>>()?;
    let twice =
        |check: &Check| checks.iter().filter(|other| other.argument == check.argument).nth(1).is_some();
    Ok(match checks.len() {
        0 => Vec::new(),
        // There are six arguments.
        7.. => checks.into_iter().map(|check| vec![check]).collect(),
        _ if checks.iter().any(twice) => checks.into_iter().map(|check| vec![check]).collect(),
        _ => vec![checks],
    })
}

fn check(argument: Argument) -> Result<Check> {
    let Argument { index, value, value_two, op } = argument;
    let index = u8::try_from(index).ok().filter(|index| *index < 6);
    let argument = index.ok_or_else(|| invalid("\"index\" of an argument is 0 to 5"))?;
    let plain = |op| Check { argument, mask: u64::MAX, op, value };
    Ok(match &*op {
        "SCMP_CMP_EQ" => plain(Op::Equal),
        "SCMP_CMP_NE" => plain(Op::Different),
        "SCMP_CMP_LT" => plain(Op::Less),
        "SCMP_CMP_LE" => plain(Op::LessOrEqual),
        "SCMP_CMP_GT" => plain(Op::Greater),
        "SCMP_CMP_GE" => plain(Op::GreaterOrEqual),
        "SCMP_CMP_MASKED_EQ" => Check { argument, mask: value, op: Op::Equal, value: value_two },
        _ => return Err(invalid(format!("{op:?} is no comparison"))),
    })
}

fn action(word: &str, errno: u16) -> Result<Action> {
    Ok(match word {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_ERRNO" => Action::Errno(errno),
        "SCMP_ACT_TRAP" => Action::Trap(errno),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_NOTIFY" | "SCMP_ACT_TRACE" => return Err(unsupported(word.into())),
        _ => return Err(invalid(format!("{word:?} is no action"))),
    })
}

/// `EPERM` where nothing is said. MAX_ERRNO (linux/err.h): more is no error to the C library.
fn errno(name: Option<&str>, number: Option<u32>) -> Result<u16> {
    let number = match name.filter(|name| !name.is_empty()) {
        Some(name) => errno_of(name).ok_or_else(|| invalid(format!("{name:?} is no errno")))?,
        None => number.unwrap_or(Errno::EPERM as u32),
    };
    u16::try_from(number).ok().filter(|number| *number <= 4095).ok_or_else(|| {
        let message = format!("{number} is no errno: they go to 4095");
        invalid(message)
    })
}

fn errno_of(name: &str) -> Option<u32> {
    // nix prints an errno as the header spells it.
    (1..4096_u32).find(|number| {
        let errno = Errno::from_raw(i32::try_from(*number).unwrap_or(i32::MAX));
        errno != Errno::UnknownErrno && format!("{errno:?}") == name
    })
}

/// Two flags are of use here; a third is about threads, and a box starts with one.
fn flag(word: &str) -> Result<libc::c_ulong> {
    match word {
        "SECCOMP_FILTER_FLAG_TSYNC" => Ok(0),
        "SECCOMP_FILTER_FLAG_LOG" => Ok(libc::SECCOMP_FILTER_FLAG_LOG),
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Ok(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW),
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => Err(unsupported(word.into())),
        _ => Err(invalid(format!("{word:?} is no flag"))),
    }
}

/// The machine's own architecture, and those the profile adds to it.
fn arches(
    map: Option<Vec<ArchMap>>,
    list: Option<Vec<String>>,
    here: &Surroundings,
) -> Result<Vec<&'static Arch>> {
    let map = map.unwrap_or_default();
    let list = list.unwrap_or_default();
    if !map.is_empty() && !list.is_empty() {
        return Err(invalid("it has both \"archMap\" and \"architectures\""));
    }
    let own = here.native[0];
    let known = |word: &String| {
        let known = arch::ALL.iter().any(|arch| arch.libseccomp == word);
        if known || arch::FOREIGN.contains(&word.as_str()) || word == "SCMP_ARCH_NATIVE" {
            Ok(())
        } else {
            Err(invalid(format!("{word:?} is no architecture")))
        }
    };
    let mut wanted = list;
    wanted.iter().try_for_each(known)?;
    for entry in map {
        let subs = entry.sub_architectures.unwrap_or_default();
        known(&entry.architecture)?;
        subs.iter().try_for_each(known)?;
        if entry.architecture == own.libseccomp {
            wanted.extend(subs);
        }
    }
    let asked = |arch: &&&Arch| arch.name == own.name || wanted.iter().any(|word| word == arch.libseccomp);
    Ok(here.native.iter().filter(asked).copied().collect())
}

/// Everything that is asked for is there.
fn includes(filter: &Filter, here: &Surroundings) -> Result<bool> {
    let mut all = true;
    for name in filter.caps.iter().flatten() {
        all &= has(name, here)?;
    }
    if let Some(version) = &filter.min_kernel {
        all &= here.kernel >= kernel_version(version)?;
    }
    let arches = filter.arches.iter().flatten();
    Ok(all && (filter.arches.as_deref().is_none_or(<[_]>::is_empty) || runs_any(arches, here)))
}

/// Anything that is asked for is there.
fn excludes(filter: &Filter, here: &Surroundings) -> Result<bool> {
    let mut any = false;
    for name in filter.caps.iter().flatten() {
        any |= has(name, here)?;
    }
    if let Some(version) = &filter.min_kernel {
        any |= here.kernel >= kernel_version(version)?;
    }
    Ok(any || runs_any(filter.arches.iter().flatten(), here))
}

fn has(name: &str, here: &Surroundings) -> Result<bool> {
    let bit = super::capability(name).ok_or_else(|| invalid(format!("{name:?} is no capability")))?;
    Ok(here.capabilities & bit != 0)
}

/// Go's names of architectures; unknown ones are other machines'.
fn runs_any<'a>(mut names: impl Iterator<Item = &'a String>, here: &Surroundings) -> bool {
    let own = match here.native[0].name {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "i386" => "386",
        other => other,
    };
    names.any(|name| name == own)
}

fn kernel_version(text: &str) -> Result<(u32, u32)> {
    let numbers = text.split_once('.').and_then(|(major, minor)| {
        let minor = minor.split('.').next()?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    });
    numbers.ok_or_else(|| invalid(format!("minKernel {text:?} is no version: 4.8 is one")))
}

fn invalid(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

fn unsupported(what: String) -> Error {
    let message = format!("{what} needs a process that answers for the kernel, and there is none here");
    Error::new(ErrorKind::Unsupported, message)
        .hint("use SCMP_ACT_ERRNO in its place, or another engine for this profile")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn here(capabilities: u64) -> Surroundings {
        let native = arch::ALL.into_iter().filter(|arch| ["x86_64", "i386"].contains(&arch.name)).collect();
        Surroundings { capabilities, kernel: (6, 1), native }
    }

    fn rules(syscalls: &str, capabilities: u64) -> Vec<Rule> {
        let text = format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{syscalls}]}}"#);
        read("test", &text, &here(capabilities)).unwrap().rules
    }

    /// The chain of messages of a profile that is refused.
    fn wrong(text: &str) -> String {
        let error = read("test", text, &here(0)).unwrap_err();
        let mut chain = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(inner) = source {
            chain = format!("{chain}: {inner}");
            source = inner.source();
        }
        chain
    }

    #[test]
    fn an_entry_is_a_rule() {
        let rules = rules(r#"{"names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "comment": "why"}"#, 0);
        assert_eq!(rules[0].calls.iter().collect::<Vec<_>>(), ["read", "write"]);
        assert_eq!((rules[0].action, &*rules[0].reason), (Action::Allow, "why"));
        assert!(rules[0].any.is_empty());
    }

    #[test]
    fn errnos_are_numbers_or_names() {
        let errno = |text: &str| {
            rules(&format!(r#"{{"name": "read", "action": "SCMP_ACT_ERRNO"{text}}}"#), 0)[0].action
        };
        assert_eq!(errno(""), Action::Errno(1));
        assert_eq!(errno(r#", "errnoRet": 38"#), Action::Errno(38));
        assert_eq!(errno(r#", "errno": "ENOSYS", "errnoRet": 1"#), Action::Errno(38));
    }

    #[test]
    fn capabilities_architectures_and_kernels_decide() {
        let count = |conditions: &str, capabilities| {
            rules(
                &format!(r#"{{"names": ["read"], "action": "SCMP_ACT_ALLOW", {conditions}}}"#),
                capabilities,
            )
            .len()
        };
        let sys_admin = 1 << 21;
        assert_eq!(count(r#""includes": {"caps": ["CAP_SYS_ADMIN"]}"#, 0), 0);
        assert_eq!(count(r#""includes": {"caps": ["CAP_SYS_ADMIN"]}"#, sys_admin), 1);
        assert_eq!(count(r#""includes": {"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]}"#, sys_admin), 0);
        assert_eq!(count(r#""excludes": {"caps": ["CAP_BPF", "CAP_SYS_ADMIN"]}"#, sys_admin), 0);
        assert_eq!(count(r#""excludes": {"caps": ["CAP_BPF", "CAP_SYS_ADMIN"]}"#, 0), 1);
        assert_eq!(count(r#""includes": {"arches": ["arm64", "amd64"]}"#, 0), 1);
        assert_eq!(count(r#""includes": {"arches": ["s390x"]}"#, 0), 0);
        assert_eq!(count(r#""excludes": {"arches": ["amd64"]}"#, 0), 0);
        assert_eq!(count(r#""includes": {"minKernel": "4.8"}"#, 0), 1);
        assert_eq!(count(r#""includes": {"minKernel": "6.2"}"#, 0), 0);
        assert_eq!(count(r#""excludes": {"minKernel": "4.8"}"#, 0), 0);
        assert_eq!(count(r#""includes": {}, "excludes": {}"#, 0), 1);
    }

    #[test]
    fn comparisons_of_one_argument_stand_alone_and_of_several_together() {
        let argument =
            |index, value| format!(r#"{{"index": {index}, "value": {value}, "op": "SCMP_CMP_EQ"}}"#);
        let any = |arguments: &[String]| {
            let arguments = arguments.join(",");
            rules(&format!(r#"{{"name": "ioctl", "action": "SCMP_ACT_ALLOW", "args": [{arguments}]}}"#), 0)[0]
                .any
                .clone()
        };
        assert_eq!(any(&[argument(0, 1), argument(1, 2)]).len(), 1);
        assert_eq!(any(&[argument(0, 1), argument(0, 2), argument(1, 3)]).len(), 3);
        assert_eq!(any(&[]).len(), 0);
    }

    #[test]
    fn every_comparison_is_known() {
        for (word, op) in [
            ("EQ", Op::Equal),
            ("NE", Op::Different),
            ("LT", Op::Less),
            ("LE", Op::LessOrEqual),
            ("GT", Op::Greater),
            ("GE", Op::GreaterOrEqual),
        ] {
            let text = format!(
                r#"{{"name": "ioctl", "action": "SCMP_ACT_ALLOW",
                    "args": [{{"index": 5, "value": 7, "valueTwo": 0, "op": "SCMP_CMP_{word}"}}]}}"#
            );
            let check = Check { argument: 5, mask: u64::MAX, op, value: 7 };
            assert_eq!(rules(&text, 0)[0].any, [[check]]);
        }
        let text = r#"{"name": "clone", "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 2114060288, "op": "SCMP_CMP_MASKED_EQ"}]}"#;
        let check = Check { argument: 0, mask: 0x7e02_0000, op: Op::Equal, value: 0 };
        assert_eq!(rules(text, 0)[0].any, [[check]]);
    }

    #[test]
    fn a_rule_without_arguments_goes_first() {
        let rules = rules(
            r#"{"name": "clone", "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
               {"name": "clone", "action": "SCMP_ACT_LOG"}, {"name": "clone", "action": "SCMP_ACT_KILL"}"#,
            0,
        );
        let actions: Vec<_> = rules.iter().map(|rule| rule.action).collect();
        assert_eq!(actions, [Action::Log, Action::KillThread, Action::Allow]);
    }

    #[test]
    fn architectures_are_the_own_and_those_added() {
        let arches = |text: &str| -> Vec<&str> {
            let text = format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW"{text}}}"#);
            let profile = read("test", &text, &here(0)).unwrap();
            profile.arches.iter().map(|arch| arch.name).collect()
        };
        assert_eq!(arches(""), ["x86_64"]);
        assert_eq!(arches(r#", "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_ARM"]"#), ["x86_64", "i386"]);
        let map = r#", "archMap": [{"architecture": "SCMP_ARCH_X86_64",
            "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}, {"architecture": "SCMP_ARCH_S390X"}]"#;
        assert_eq!(arches(map), ["x86_64", "i386"]);
        let map =
            r#", "archMap": [{"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_X86"]}]"#;
        assert_eq!(arches(map), ["x86_64"]);
    }

    #[test]
    fn younger_calls_get_enosys_where_the_default_is_an_error() {
        let newer = |action: &str| {
            read("test", &format!(r#"{{"defaultAction": "{action}"}}"#), &here(0)).unwrap().newer
        };
        assert_eq!(newer("SCMP_ACT_ERRNO"), Action::Errno(38));
        assert_eq!(newer("SCMP_ACT_ALLOW"), Action::Allow);
        assert_eq!(newer("SCMP_ACT_KILL_PROCESS"), Action::KillProcess);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let entry = |entry: &str| format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{entry}]}}"#);
        let argument = |argument: &str| {
            entry(&format!(r#"{{"names": ["read"], "action": "SCMP_ACT_KILL", "args": [{argument}]}}"#))
        };
        let table = [
            (
                entry(r#"{"names": ["read"], "action": "SCMP_ACT_DENY"}"#),
                r#"syscalls[0] (read): "SCMP_ACT_DENY" is no action"#,
            ),
            (entry(r#"{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}"#), "SCMP_ACT_NOTIFY needs a process"),
            (entry(r#"{"names": ["read"], "action": "SCMP_ACT_TRACE"}"#), "SCMP_ACT_TRACE needs a process"),
            (entry(r#"{"action": "SCMP_ACT_KILL"}"#), r#"it has no "names""#),
            (entry(r#"{"name": "a", "names": ["b"], "action": "SCMP_ACT_KILL"}"#), "both"),
            (entry(r#"{"names": ["read"], "action": "SCMP_ACT_KILL", "arg": []}"#), "unknown field `arg`"),
            (entry(r#"{"name": "a", "action": "SCMP_ACT_ERRNO", "errnoRet": 4096}"#), "4096 is no errno"),
            (
                entry(r#"{"name": "a", "action": "SCMP_ACT_ERRNO", "errno": "EWHAT"}"#),
                r#""EWHAT" is no errno"#,
            ),
            (
                entry(r#"{"name": "a", "action": "SCMP_ACT_KILL", "includes": {"caps": ["SYS_ROOT"]}}"#),
                "no capability",
            ),
            (
                entry(r#"{"name": "a", "action": "SCMP_ACT_KILL", "excludes": {"minKernel": "4"}}"#),
                "no version",
            ),
            (argument(r#"{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}"#), "0 to 5"),
            (
                argument(r#"{"index": 0, "value": 0, "op": "SCMP_CMP_IN"}"#),
                r#""SCMP_CMP_IN" is no comparison"#,
            ),
            (argument(r#"{"index": 0, "value": -1, "op": "SCMP_CMP_EQ"}"#), "invalid value"),
            (r#"{"defaultAction": "KILL"}"#.into(), r#"defaultAction: "KILL" is no action"#),
            (r#"{"syscalls": []}"#.into(), "missing field `defaultAction`"),
            (
                r#"{"defaultAction": "SCMP_ACT_KILL", "architectures": ["X86"]}"#.into(),
                r#""X86" is no architecture"#,
            ),
            (r#"{"defaultAction": "SCMP_ACT_KILL", "flags": ["LOG"]}"#.into(), r#""LOG" is no flag"#),
            (r#"{"defaultAction": "SCMP_ACT_KILL", "listenerPath": "/run/x"}"#.into(), "listenerPath"),
            ("".into(), "EOF"),
            ("[".repeat(100_000), "not a profile in docker's format"),
            (" ".repeat((1 << 20) + 1), "are not read"),
        ];
        for (text, expected) in table {
            let chain = wrong(&text);
            assert!(chain.contains(expected), "{chain}\n does not have\n{expected}");
            assert!(chain.starts_with(r#"seccomp profile "test""#), "{chain}");
        }
    }

    /// A JSON string of one of these words, or of another.
    fn word(words: &'static [&'static str]) -> impl Strategy<Value = String> {
        let known = prop::sample::select(words).prop_map(|word| format!("{word:?}"));
        prop_oneof![9 => known, 1 => "[a-zA-Z_\u{0}-\u{ff}]{0,8}".prop_map(|word| serde_json::json!(word).to_string())]
    }

    fn entry() -> impl Strategy<Value = String> {
        let actions = &["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_TRAP", "SCMP_ACT_LOG"];
        let ops = &["SCMP_CMP_EQ", "SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_GE", "SCMP_CMP_MASKED_EQ"];
        let argument =
            (0..7_u32, any::<u64>(), any::<u64>(), word(ops)).prop_map(|(index, value, two, op)| {
                format!(r#"{{"index": {index}, "value": {value}, "valueTwo": {two}, "op": {op}}}"#)
            });
        let names = prop::collection::vec(word(&["read", "ioctl", "socket", "clone", "fstatat"]), 0..4);
        let capabilities = prop::collection::vec(word(&["CAP_SYS_ADMIN", "CAP_BPF"]), 0..2);
        let arguments = prop::collection::vec(argument, 0..8);
        (names, word(actions), arguments, capabilities, 0..5000_u32).prop_map(
            |(names, action, arguments, capabilities, errno)| {
                let [names, arguments, capabilities] =
                    [names, arguments, capabilities].map(|list| list.join(","));
                format!(
                    r#"{{"names": [{names}], "action": {action}, "errnoRet": {errno}, "args": [{arguments}],
                        "excludes": {{"caps": [{capabilities}]}}}}"#
                )
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// A profile is a file of anybody's.
        #[test]
        fn any_profile_is_read_or_refused(entries in prop::collection::vec(entry(), 0..20), cut in any::<prop::sample::Index>()) {
            let text = format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{}]}}"#, entries.join(","));
            if let Ok(profile) = read("any", &text, &here(1 << 21)) {
                let program = super::super::generate::generate(&profile).unwrap();
                super::super::simulate::verify(&program);
            }
            // Half of it is no JSON, and must not be taken for a shorter profile.
            let half = text.char_indices().map(|(at, _)| at).nth(cut.index(text.chars().count())).unwrap_or(0);
            prop_assert!(read("half", &text[..half], &here(0)).is_err());
        }
    }
}
