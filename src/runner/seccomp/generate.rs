//! From a profile to the program that the kernel runs before each system call.
//!
//! Numbers with the same answer that follow each other become one range; a balanced tree of `jge` finds the range; the
//! few calls whose arguments matter have a list of comparisons behind it. That is about one instruction a range, where
//! one comparison a call, as other generators make them, takes five.
//!
//! The program is written from its end to its start, because jumps only go forward: whatever a jump leads to is there
//! already and its distance is known.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use libc::sock_filter;

use super::arch::{Arch, X32, canonical};
use super::profile::{Action, Check, Op, Profile, Rule};

// linux/bpf_common.h and linux/filter.h.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

// struct seccomp_data { int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6]; } (linux/seccomp.h)
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

/// BPF_MAXINSNS (linux/bpf_common.h).
pub(super) const LIMIT: usize = 4096;

/// The profile needs more than [`LIMIT`] instructions.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// Returns the program for a profile.
pub(super) fn generate(profile: &Profile) -> Result<Vec<sock_filter>, TooLong> {
    let index = Index::new(&profile.rules);
    let mut code = Code::default();
    let mut next = code.answer(Action::KillProcess);
    for arch in profile.arches.iter().rev() {
        let table = table(arch, profile, &index);
        let entry = code.table(&table, profile, arch)?;
        let entry = code.load(NUMBER, entry);
        next = code.branch(IF_EQUAL, arch.audit, entry, next);
    }
    code.load(ARCH, next);
    code.finish()
}

/// Which rules name a call: the first by name, and for each mention the next one of the same name.
struct Index<'a> {
    first: HashMap<&'a str, u32, BuildHasherDefault<Words>>,
    mentions: Vec<Mention>,
}

#[derive(Clone, Copy)]
struct Mention {
    rule: u32,
    next: Option<u32>,
}

impl<'a> Index<'a> {
    fn new(rules: &'a [Rule]) -> Self {
        let mut index = Self {
            first: HashMap::with_capacity_and_hasher(600, BuildHasherDefault::default()),
            mentions: Vec::with_capacity(600),
        };
        // From the last, so that each list begins with the first.
        for (at, rule) in rules.iter().enumerate().rev() {
            let at = u32::try_from(at).expect("profiles are a megabyte at most");
            for call in rule.calls.iter() {
                let mention = u32::try_from(index.mentions.len()).expect("profiles are a megabyte at most");
                let next = index.first.insert(canonical(call), mention);
                index.mentions.push(Mention { rule: at, next });
            }
        }
        index
    }

    /// The rules that name a call, in their order.
    fn rules(&self, mut mention: u32) -> Vec<u32> {
        let mut rules = Vec::new();
        loop {
            let Mention { rule, next } = self.mentions[mention as usize];
            rules.push(rule);
            match next {
                Some(next) => mention = next,
                None => return rules,
            }
        }
    }
}

/// A hash of eight bytes at a time: names are short, and this is done once for every box. Names that were chosen to
/// collide make their chooser's own start slow.
#[derive(Default)]
struct Words(u64);

impl Hasher for Words {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            // An odd number with its bits well spread: 2^64 divided by the golden ratio.
            self.0 = (self.0.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }

    fn write_u8(&mut self, _: u8) {
        // Marks the end of a string, where a key has several.
    }

    fn finish(&self) -> u64 {
        // The map takes bits from both ends, and the low ones are the worst.
        self.0 ^ (self.0 >> 32)
    }
}

/// What happens to a range of numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Leaf {
    /// Always the same.
    Answer(Action),
    /// The first of these rules that fits, else the default.
    Rules(Vec<u32>),
}

/// Since Linux 5.1 all architectures number new calls alike, from here on (pidfd_send_signal, 424). What is below is
/// known to whoever writes a profile.
const FIRST_OF_ALL: u32 = 424;

/// Beyond all numbers.
const END: u32 = u32::MAX;

/// Which leaf each range of numbers has, by where it starts; the first starts at 0, the last goes to the end.
fn table(arch: &Arch, profile: &Profile, index: &Index<'_>) -> Vec<(u32, Leaf)> {
    let mut ranges: Vec<(u32, Leaf)> = Vec::with_capacity(256);
    let mut add = |start: u32, leaf: Leaf| match ranges.last() {
        Some((_, last)) if *last == leaf => {}
        _ => ranges.push((start, leaf)),
    };
    let mut named: Vec<(u32, u32)> = Vec::with_capacity(512);
    named.extend(arch.calls().filter_map(|(number, name)| Some((number, *index.first.get(name)?))));
    let ordinary = named.iter().map(|(number, _)| *number).filter(|number| !arch.is_private(*number));
    let known = ordinary.max().map_or(FIRST_OF_ALL, |number| FIRST_OF_ALL.max(number + 1));
    let mut free = 0;
    for (number, mention) in
        named.into_iter().map(|(number, mention)| (number, Some(mention))).chain([(END, None)])
    {
        if free < number.min(known) {
            add(free, Leaf::Answer(profile.default));
        }
        if free.max(known) < number {
            add(free.max(known), Leaf::Answer(profile.newer));
        }
        if let Some(mention) = mention {
            add(number, leaf(mention, index, profile));
        }
        free = number.saturating_add(1);
    }
    if arch.x32 {
        add(X32, Leaf::Answer(Action::Errno(nix::errno::Errno::ENOSYS as u16)));
    }
    ranges
}

/// The rules up to the one that fits always.
fn leaf(mention: u32, index: &Index<'_>, profile: &Profile) -> Leaf {
    let rule = |number: u32| &profile.rules[number as usize];
    let first = rule(index.mentions[mention as usize].rule);
    if first.any.is_empty() {
        return Leaf::Answer(first.action);
    }
    let mut rules = index.rules(mention);
    if let Some(last) = rules.iter().position(|number| rule(*number).any.is_empty()) {
        rules.truncate(last + 1);
    }
    Leaf::Rules(rules)
}

/// An instruction, by its distance from the end.
type Label = usize;

/// A program that is being written, last instruction first.
#[derive(Default)]
struct Code {
    reversed: Vec<sock_filter>,
    /// Where an answer was written last.
    answers: HashMap<Action, Label>,
}

impl Code {
    fn push(&mut self, code: u16, k: u32, jt: u8, jf: u8) -> Label {
        self.reversed.push(sock_filter { code, jt, jf, k });
        self.reversed.len()
    }

    /// How many instructions a jump that is written now would skip.
    fn distance(&self, to: Label) -> usize {
        self.reversed.len() - to
    }

    fn load(&mut self, offset: u32, next: Label) -> Label {
        self.flow_into(next);
        self.push(LOAD, offset, 0, 0)
    }

    /// Makes `next` the instruction that follows.
    fn flow_into(&mut self, next: Label) {
        if let skipped @ 1.. = self.distance(next) {
            let skipped = u32::try_from(skipped).unwrap_or(u32::MAX);
            self.push(JUMP, skipped, 0, 0);
        }
    }

    /// A target near enough for a conditional jump, whose distances are bytes.
    fn near(&mut self, to: Label) -> Label {
        // The other target may need a jump of its own in between.
        if self.distance(to) < usize::from(u8::MAX) {
            return to;
        }
        let skipped = u32::try_from(self.distance(to)).unwrap_or(u32::MAX);
        self.push(JUMP, skipped, 0, 0)
    }

    fn branch(&mut self, code: u16, k: u32, then: Label, otherwise: Label) -> Label {
        let then = self.near(then);
        let otherwise = self.near(otherwise);
        let byte = |distance| u8::try_from(distance).expect("near made it so");
        let (jt, jf) = (byte(self.distance(then)), byte(self.distance(otherwise)));
        self.push(code, k, jt, jf)
    }

    /// An answer within reach; writing it again costs no more than a jump to it.
    fn answer(&mut self, action: Action) -> Label {
        match self.answers.get(&action) {
            Some(label) if self.distance(*label) < 200 => *label,
            _ => {
                let label = self.push(RETURN, action.code(), 0, 0);
                self.answers.insert(action, label);
                label
            }
        }
    }

    fn table(&mut self, ranges: &[(u32, Leaf)], profile: &Profile, arch: &Arch) -> Result<Label, TooLong> {
        let mut lists = HashMap::new();
        for (_, leaf) in ranges {
            if let Leaf::Rules(rules) = leaf
                && !lists.contains_key(rules)
            {
                let label = self.rules(rules, profile, arch)?;
                lists.insert(rules.clone(), label);
            }
        }
        self.tree(ranges, &lists)
    }

    fn tree(&mut self, ranges: &[(u32, Leaf)], lists: &HashMap<Vec<u32>, Label>) -> Result<Label, TooLong> {
        self.check_length()?;
        match ranges {
            [(_, Leaf::Answer(action))] => Ok(self.answer(*action)),
            [(_, Leaf::Rules(rules))] => Ok(lists[rules]),
            _ => {
                let (left, right) = ranges.split_at(ranges.len() / 2);
                let from = right[0].0;
                let right = self.tree(right, lists)?;
                let left = self.tree(left, lists)?;
                Ok(self.branch(IF_GREATER_OR_EQUAL, from, right, left))
            }
        }
    }

    /// The first rule that fits answers.
    fn rules(&mut self, rules: &[u32], profile: &Profile, arch: &Arch) -> Result<Label, TooLong> {
        let mut next = self.answer(profile.default);
        for number in rules.iter().rev() {
            let rule = &profile.rules[*number as usize];
            if rule.any.is_empty() {
                next = self.answer(rule.action);
            }
            for all in rule.any.iter().rev() {
                self.check_length()?;
                let mut then = self.answer(rule.action);
                for check in all.iter().rev() {
                    then = self.check(check, arch, then, next);
                }
                next = then;
            }
        }
        Ok(next)
    }

    /// Compares an argument in two halves; on a 32-bit architecture there is only the low one.
    fn check(&mut self, check: &Check, arch: &Arch, then: Label, otherwise: Label) -> Label {
        let halves = |value: u64| ((value >> 32) as u32, value as u32);
        let ((mask_high, mask), (value_high, value)) = (halves(check.mask), halves(check.value));
        let (then, otherwise, op) = match check.op {
            Op::Equal => (then, otherwise, IF_EQUAL),
            Op::Different => (otherwise, then, IF_EQUAL),
            Op::Greater => (then, otherwise, IF_GREATER),
            Op::LessOrEqual => (otherwise, then, IF_GREATER),
            Op::GreaterOrEqual => (then, otherwise, IF_GREATER_OR_EQUAL),
            Op::Less => (otherwise, then, IF_GREATER_OR_EQUAL),
        };
        let at = ARGUMENTS + 8 * u32::from(check.argument);
        let (low_at, high_at) = if cfg!(target_endian = "little") { (at, at + 4) } else { (at + 4, at) };
        let low = self.branch(op, value, then, otherwise);
        let low = self.masked(low_at, mask, low);
        if !arch.wide || (mask_high == 0 && value_high == 0) {
            return low;
        }
        // The high half decides unless it is equal.
        let mut high = self.branch(IF_EQUAL, value_high, low, otherwise);
        if op != IF_EQUAL {
            high = self.branch(IF_GREATER, value_high, then, high);
        }
        self.masked(high_at, mask_high, high)
    }

    /// Loads half an argument and keeps the bits of the mask.
    fn masked(&mut self, at: u32, mask: u32, next: Label) -> Label {
        self.flow_into(next);
        if mask != u32::MAX {
            self.push(AND, mask, 0, 0);
        }
        self.push(LOAD, at, 0, 0)
    }

    fn check_length(&self) -> Result<(), TooLong> {
        if self.reversed.len() > LIMIT { Err(TooLong) } else { Ok(()) }
    }

    fn finish(mut self) -> Result<Vec<sock_filter>, TooLong> {
        self.check_length()?;
        self.reversed.reverse();
        Ok(self.reversed)
    }
}
