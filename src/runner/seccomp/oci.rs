//! A filter in the form of the [runtime specification](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#seccomp),
//! for runtimes that make the program themselves, by libseccomp.
//!
//! There the order of entries says nothing: one without arguments beats those with, of the others any may decide where two fit, and each argument
//! can be compared once in an entry. Ours is a list, of which the first that fits decides. So what is decided of a call is cut into *cubes* of
//! which no two fit the same call: for each argument some bits and what they must be. "Not 5" is then a cube for each bit in which a number
//! can differ from 5 first.
//!
//! Only differences in the lower halves of arguments make cubes, because on 32-bit machines libseccomp cuts off the upper ones and would
//! take what differs there for the same. A call that differs in an upper half alone gets the default answer, which in our own list is an error.

use std::collections::BTreeMap;

use nix::errno::Errno;
use serde::Serialize;

use super::Filter;
use super::profile::{Action, Check, Op, Profile, Rule};

/// `linux.seccomp`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Seccomp {
    /// For calls that no entry fits.
    pub default_action: &'static str,
    /// Which error that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_errno_ret: Option<u16>,
    /// Whose calls are looked at; those of others end the process.
    pub architectures: Vec<&'static str>,
    /// How the filter is installed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<&'static str>,
    /// The entries.
    pub syscalls: Vec<Syscall>,
}

/// An entry: some calls, with which arguments, and the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Syscall {
    /// The calls; a runtime skips those that it does not know.
    pub names: Vec<String>,
    /// The answer.
    pub action: &'static str,
    /// Which error that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno_ret: Option<u16>,
    /// All of them must hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Argument>,
}

/// How an argument is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Argument {
    /// Which, 0 to 5.
    pub index: u8,
    /// What it is compared to; for `SCMP_CMP_MASKED_EQ` the bits that count.
    pub value: u64,
    /// For `SCMP_CMP_MASKED_EQ` what these bits must be.
    pub value_two: u64,
    /// The comparison.
    pub op: &'static str,
}

impl Filter {
    /// Returns the filter as a runtime configuration says it.
    pub fn oci(&self) -> Seccomp {
        let Profile { arches, rules, default, flags, .. } = &self.profile;
        let (default_action, default_errno_ret) = answer(*default);
        let known = [
            (libc::SECCOMP_FILTER_FLAG_LOG, "SECCOMP_FILTER_FLAG_LOG"),
            (libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW, "SECCOMP_FILTER_FLAG_SPEC_ALLOW"),
        ];
        Seccomp {
            default_action,
            default_errno_ret,
            architectures: arches.iter().map(|arch| arch.libseccomp).collect(),
            flags: known.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, name)| *name).collect(),
            syscalls: if self.ours { entries(rules, *default) } else { as_written(rules, *default) },
        }
    }
}

/// The entries of a profile of the user's, which was written for libseccomp.
fn as_written(rules: &[Rule], default: Action) -> Vec<Syscall> {
    let mut entries = Vec::new();
    for rule in rules.iter().filter(|rule| rule.action != default) {
        let names: Vec<String> = rule.calls.iter().map(str::to_owned).collect();
        let whole = [Vec::new()];
        let any = if rule.any.is_empty() { &whole[..] } else { &rule.any };
        entries.extend(
            any.iter()
                .map(|checks| entry(names.clone(), rule.action, checks.iter().map(Argument::of).collect())),
        );
    }
    entries
}

/// The entries of our own list: calls of which the same is decided stand together.
fn entries(rules: &[Rule], default: Action) -> Vec<Syscall> {
    let mut of_call: BTreeMap<&str, Vec<&Rule>> = BTreeMap::new();
    for rule in rules {
        for call in rule.calls.iter() {
            of_call.entry(call).or_default().push(rule);
        }
    }
    let mut decided: Vec<(Decision, Vec<String>)> = Vec::new();
    for (call, rules) in of_call {
        let mut cubes = decide(&rules, default);
        if call == MULTIPLEXER && !(cubes.len() == 1 && cubes[0].0 == Cube::ALL) {
            cubes = vec![(Cube::ALL, REFUSED)];
        }
        match decided.iter_mut().find(|(known, _)| *known == cubes) {
            Some((_, calls)) => calls.push(call.to_owned()),
            None => decided.push((cubes, vec![call.to_owned()])),
        }
    }
    let entries = decided
        .iter()
        .flat_map(|(cubes, calls)| cubes.iter().map(|(cube, action)| (*cube, *action, calls.clone())));
    entries.map(|(cube, action, calls)| entry(calls, action, cube.arguments())).collect()
}

/// The call of i386 that makes sockets, among others. libseccomp adds to each entry for `socket` one for this call, which cannot look at the
/// family; an entry for all of it beats that. Our own filter allows what it does with sockets that exist.
const MULTIPLEXER: &str = "socketcall";

/// Its answer: not the default one, because an entry that answers as the default does is none.
const REFUSED: Action = Action::Errno(Errno::EPERM as u16);

fn entry(names: Vec<String>, action: Action, args: Vec<Argument>) -> Syscall {
    let (action, errno_ret) = answer(action);
    Syscall { names, action, errno_ret, args }
}

fn answer(action: Action) -> (&'static str, Option<u16>) {
    match action {
        Action::Allow => ("SCMP_ACT_ALLOW", None),
        Action::Log => ("SCMP_ACT_LOG", None),
        Action::Errno(number) => ("SCMP_ACT_ERRNO", Some(number)),
        // Its number cannot be said.
        Action::Trap(_) => ("SCMP_ACT_TRAP", None),
        Action::KillThread => ("SCMP_ACT_KILL_THREAD", None),
        Action::KillProcess => ("SCMP_ACT_KILL_PROCESS", None),
    }
}

impl Argument {
    fn of(check: &Check) -> Self {
        let Check { argument: index, mask, op, value } = *check;
        let op = match op {
            Op::Equal if mask != u64::MAX => {
                return Self { index, value: mask, value_two: value, op: "SCMP_CMP_MASKED_EQ" };
            }
            Op::Equal => "SCMP_CMP_EQ",
            Op::Different => "SCMP_CMP_NE",
            Op::Less => "SCMP_CMP_LT",
            Op::LessOrEqual => "SCMP_CMP_LE",
            Op::Greater => "SCMP_CMP_GT",
            Op::GreaterOrEqual => "SCMP_CMP_GE",
        };
        Self { index, value, value_two: 0, op }
    }
}

/// Some bits of each argument, and what they must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cube([(u64, u64); 6]);

/// What is decided of a call: cubes of which no two fit the same arguments. What is left over gets the default.
type Decision = Vec<(Cube, Action)>;

fn decide(rules: &[&Rule], default: Action) -> Decision {
    let mut decided = Vec::new();
    let mut rest = vec![Cube::ALL];
    for rule in rules {
        let whole = [Vec::new()];
        let any = if rule.any.is_empty() { &whole[..] } else { &rule.any };
        for fits in any.iter().flat_map(|checks| Cube::of(checks)) {
            decided.extend(rest.iter().filter_map(|cube| cube.and(&fits)).map(|cube| (cube, rule.action)));
            rest = rest.iter().flat_map(|cube| cube.without(&fits)).collect();
        }
    }
    if let Some((_, action)) = decided.first().copied()
        && rest.is_empty()
        && decided.iter().all(|(_, other)| *other == action)
    {
        decided = vec![(Cube::ALL, action)];
    }
    decided.retain(|(_, action)| *action != default);
    decided
}

impl Cube {
    /// Every call.
    const ALL: Self = Self([(0, 0); 6]);

    /// The cubes in one of which the arguments lie for which all these checks hold.
    fn of(checks: &[Check]) -> Vec<Self> {
        checks.iter().fold(vec![Self::ALL], |cubes, check| {
            let mut one = Self::ALL;
            one.0[usize::from(check.argument)] = (check.mask, check.value & check.mask);
            let fits = match check.op {
                Op::Equal => vec![one],
                Op::Different => Self::ALL.without(&one),
                _ => unreachable!("our own list compares by = and != only"),
            };
            cubes.iter().flat_map(|cube| fits.iter().filter_map(|fit| cube.and(fit))).collect()
        })
    }

    /// What lies in both.
    fn and(&self, other: &Self) -> Option<Self> {
        let mut both = *self;
        for ((mask, value), (other_mask, other_value)) in both.0.iter_mut().zip(other.0) {
            if (*value ^ other_value) & *mask & other_mask != 0 {
                return None;
            }
            *mask |= other_mask;
            *value |= other_value;
        }
        Some(both)
    }

    /// What lies in this one and differs from the other in the lower half of some argument.
    fn without(&self, other: &Self) -> Vec<Self> {
        if self.and(other).is_none() {
            return vec![*self];
        }
        let mut pieces = Vec::new();
        let mut same = *self;
        for (argument, (mask, value)) in other.0.iter().enumerate() {
            let new = mask & !self.0[argument].0;
            for bit in (0..32).rev().map(|bit| 1 << bit).filter(|bit| new & bit != 0) {
                same.0[argument].0 |= bit;
                let mut differs = same;
                differs.0[argument].1 |= !value & bit;
                pieces.push(differs);
                same.0[argument].1 |= value & bit;
            }
        }
        pieces
    }

    fn arguments(&self) -> Vec<Argument> {
        let masked = |(index, (mask, value)): (u8, &(u64, u64))| {
            let check = Check { argument: index, mask: *mask, op: Op::Equal, value: *value };
            (*mask != 0).then(|| Argument::of(&check))
        };
        (0..).zip(&self.0).filter_map(masked).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::policy;
    use super::super::profile::INT;
    use super::*;

    fn holds(check: &Check, arguments: &[u64; 6]) -> bool {
        let value = arguments[usize::from(check.argument)] & check.mask;
        match check.op {
            Op::Equal => value == check.value,
            _ => value != check.value,
        }
    }

    /// What our own filter answers.
    fn first_that_fits(rules: &[Rule], default: Action, call: &str, arguments: &[u64; 6]) -> Action {
        let fits = |rule: &&Rule| {
            let any = &rule.any;
            rule.calls.iter().any(|name| name == call)
                && (any.is_empty() || any.iter().any(|all| all.iter().all(|check| holds(check, arguments))))
        };
        rules.iter().find(fits).map_or(default, |rule| rule.action)
    }

    fn fitting<'a>(entries: &'a [Syscall], call: &str, arguments: &[u64; 6]) -> Vec<&'a Syscall> {
        let masked = |arg: &Argument| arguments[usize::from(arg.index)] & arg.value == arg.value_two;
        let fits =
            |entry: &&Syscall| entry.names.iter().any(|name| name == call) && entry.args.iter().all(masked);
        entries.iter().filter(fits).collect()
    }

    const CALLS: [&str; 9] =
        ["ioctl", "personality", "clone", "clone3", "unshare", "setns", "socket", "socketpair", "read"];

    fn number() -> impl Strategy<Value = u64> {
        let known = [0, 1, 2, 8, 9, 10, 15, 16, 17, 29, 44, 0x5412, 0x541c, 0x5423, 0x20008, 0x1000_0000];
        prop_oneof![proptest::sample::select(known.to_vec()), any::<u32>().prop_map(u64::from)]
    }

    proptest! {
        #[test]
        fn entries_answer_as_the_list_does(
            call in proptest::sample::select(CALLS.to_vec()),
            arguments in proptest::array::uniform6(number()),
            admin in any::<bool>(),
        ) {
            let profile = policy::default("test", |word| admin && word == "net_admin");
            let entries = entries(&profile.rules, profile.default);
            let expected = first_that_fits(&profile.rules, profile.default, call, &arguments);
            let found = fitting(&entries, call, &arguments);
            prop_assert!(found.len() <= 1, "{found:?}");
            let found = found.first().map_or(answer(profile.default), |entry| (entry.action, entry.errno_ret));
            prop_assert_eq!(found, answer(expected));
        }
    }

    #[test]
    fn no_entry_compares_an_argument_twice_or_answers_as_the_default() {
        let profile = policy::default("test", |_| false);
        let entries = entries(&profile.rules, profile.default);
        for entry in &entries {
            let mut indexes: Vec<u8> = entry.args.iter().map(|arg| arg.index).collect();
            indexes.dedup();
            assert_eq!(indexes.len(), entry.args.len(), "{entry:?}");
            assert_ne!((entry.action, entry.errno_ret), answer(profile.default), "{entry:?}");
        }
        let socketcall: Vec<_> =
            entries.iter().filter(|entry| entry.names.iter().any(|name| name == MULTIPLEXER)).collect();
        assert_eq!((socketcall.len(), socketcall[0].errno_ret), (1, Some(Errno::EPERM as u16)));
        let i386 = policy::default("test", |word| word == "i386_sockets");
        let entries = super::entries(&i386.rules, i386.default);
        let allowed = fitting(&entries, MULTIPLEXER, &[1, 0, 0, 0, 0, 0]);
        assert_eq!(allowed[0].action, "SCMP_ACT_ALLOW");
    }

    #[test]
    fn upper_halves_make_no_cubes() {
        let check = |mask, op, value| Check { argument: 0, mask, op, value };
        let fits = Cube::of(&[check(0xffff_ffff_0000_0001, Op::Equal, 0)]);
        assert_eq!(Cube::ALL.without(&fits[0]).len(), 1);
        assert_eq!(Cube::of(&[check(INT, Op::Different, 9)]).len(), 32);
    }
}
