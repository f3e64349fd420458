//! What the kernel would make of a filter: an interpreter of the program, beside a plain reading of the profile.

use std::collections::HashMap;

use libc::sock_filter;
use proptest::prelude::*;

use super::arch::{self, Arch, X32, canonical};
use super::profile::{Action, Calls, Check, INT, Op, Profile, Rule};
use super::{Filter, generate, keeps, policy};

/// A call as a filter sees it.
#[derive(Debug, Clone, Copy)]
struct Call {
    audit: u32,
    number: u32,
    arguments: [u64; 6],
}

/// Checks a program as the kernel does before it takes it (bpf_check_classic, seccomp_check_filter).
pub(super) fn verify(program: &[sock_filter]) {
    assert!((1..=generate::LIMIT).contains(&program.len()), "{} instructions", program.len());
    for (at, instruction) in program.iter().enumerate() {
        let left = program.len() - at - 1;
        match instruction.code {
            0x20 => {
                assert!(instruction.k < 64 && instruction.k.is_multiple_of(4), "load of {}", instruction.k)
            }
            0x54 | 0x06 => {}
            0x05 => assert!((instruction.k as usize) < left, "a jump out of the program"),
            0x15 | 0x25 | 0x35 => {
                assert!(
                    usize::from(instruction.jt.max(instruction.jf)) < left,
                    "a branch out of the program"
                );
            }
            code => panic!("instruction {code:#x}"),
        }
    }
    assert_eq!(program.last().map(|last| last.code), Some(0x06));
}

/// Runs a program.
fn simulate(program: &[sock_filter], call: Call) -> u32 {
    let low = |value: u64| (value & INT) as u32;
    let word = |offset: u32| match offset {
        0 => call.number,
        4 => call.audit,
        16..64 if offset.is_multiple_of(4) => {
            let value = call.arguments[(offset as usize - 16) / 8];
            let first = offset.is_multiple_of(8) == cfg!(target_endian = "little");
            if first { low(value) } else { low(value >> 32) }
        }
        _ => panic!("load of {offset}"),
    };
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        at += 1;
        let jump = |condition: bool| usize::from(if condition { jt } else { jf });
        match code {
            0x20 => accumulator = word(k),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => at += jump(accumulator == k),
            0x25 => at += jump(accumulator > k),
            0x35 => at += jump(accumulator >= k),
            0x06 => return k,
            _ => panic!("instruction {code:#x}"),
        }
    }
}

/// What the profile says, read without any of the generator's ideas.
struct Reading<'a> {
    profile: &'a Profile,
    /// For each architecture the rules that name a call, by its number, and the largest such number.
    arches: Vec<ArchReading<'a>>,
}

type ArchReading<'a> = (&'static Arch, HashMap<u32, Vec<&'a Rule>>, u32);

impl<'a> Reading<'a> {
    fn of(profile: &'a Profile) -> Self {
        let named = |name: &str| {
            let names = |rule: &&Rule| rule.calls.iter().any(|call| canonical(call) == name);
            profile.rules.iter().filter(names).collect::<Vec<_>>()
        };
        let read = |arch: &&'static Arch| {
            let mut rules: HashMap<_, _> = arch.calls().map(|(number, name)| (number, named(name))).collect();
            rules.retain(|_, rules| !rules.is_empty());
            let youngest = rules.keys().copied().filter(|number| *number < 0x0f_0000).max();
            (*arch, rules, youngest.unwrap_or(0).max(423))
        };
        Self { profile, arches: profile.arches.iter().map(read).collect() }
    }

    fn expected(&self, call: Call) -> Action {
        let Some((arch, rules, youngest)) = self.arches.iter().find(|(arch, ..)| arch.audit == call.audit)
        else {
            return Action::KillProcess;
        };
        if arch.name == "x86_64" && call.number >= X32 {
            return Action::Errno(libc::ENOSYS as u16);
        }
        let Some(rules) = rules.get(&call.number) else {
            let newer = call.number > *youngest;
            return if newer { self.profile.newer } else { self.profile.default };
        };
        let holds = |check: &Check| {
            let narrow = if arch.wide { u64::MAX } else { INT };
            let argument = call.arguments[usize::from(check.argument)] & check.mask & narrow;
            let value = check.value & narrow;
            match check.op {
                Op::Equal => argument == value,
                Op::Different => argument != value,
                Op::Less => argument < value,
                Op::LessOrEqual => argument <= value,
                Op::Greater => argument > value,
                Op::GreaterOrEqual => argument >= value,
            }
        };
        let fits = |rule: &&&Rule| rule.any.is_empty() || rule.any.iter().any(|all| all.iter().all(holds));
        rules.iter().find(fits).map_or(self.profile.default, |rule| rule.action)
    }

    fn check(&self, program: &[sock_filter], call: Call) {
        let (is, should) = (simulate(program, call), self.expected(call));
        assert_eq!(is, should.code(), "{call:x?}: {is:#x} instead of {should}");
    }
}

/// The default profile for an architecture that need not be ours.
fn default_for(arches: Vec<&'static Arch>, capabilities: u64) -> (Profile, Vec<sock_filter>) {
    let profile = Profile { arches, ..policy::default("default", |word| keeps(capabilities, word)) };
    let program = generate::generate(&profile).unwrap();
    verify(&program);
    (profile, program)
}

const NO_ARGUMENTS: [u64; 6] = [0; 6];

fn errno(number: i32) -> u32 {
    Action::Errno(number as u16).code()
}

/// The answer of the default filter, with these capabilities, to a call by name.
fn answer(arch: &'static Arch, capabilities: u64, name: &str, arguments: &[u64]) -> u32 {
    let (_, program) = default_for(vec![arch], capabilities);
    let (number, _) = arch.calls().find(|call| call.1 == name).expect("it is in the table");
    let mut all = NO_ARGUMENTS;
    all[..arguments.len()].copy_from_slice(arguments);
    simulate(&program, Call { audit: arch.audit, number, arguments: all })
}

fn arch_named(name: &str) -> &'static Arch {
    arch::ALL.into_iter().find(|arch| arch.name == name).expect("it is in the list")
}

#[test]
fn the_default_filter_is_the_default_policy_for_every_number_of_every_architecture() {
    let pairs = [["x86_64", "i386"].as_slice(), &["aarch64", "arm"], &["i386"], &["arm"], &["riscv64"]];
    for capabilities in [0, crate::runner::DEFAULT_CAPABILITIES, 1 << 21, u64::MAX] {
        for names in pairs {
            let (profile, program) =
                default_for(names.iter().map(|name| arch_named(name)).collect(), capabilities);
            let reading = Reading::of(&profile);
            let interesting = [0, 1, 2, 8, 9, 16, 17, 38, 0x200, 0x5412, 0x1000_0000, u64::MAX];
            for arch in arch::ALL {
                let ends = [X32 - 1, X32, X32 + 59, 0x0f_0001, 0x0f_0002, u32::MAX - 1, u32::MAX];
                for number in (0..520).chain(ends) {
                    let arguments = interesting[number as usize % interesting.len()];
                    for arguments in [NO_ARGUMENTS, [arguments; 6]] {
                        reading.check(&program, Call { audit: arch.audit, number, arguments });
                    }
                }
            }
        }
    }
}

#[test]
fn arguments_decide() {
    const SYS_ADMIN: u64 = 1 << 21;
    let allow = Action::Allow.code();
    let table: &[(&str, &[u64], u32)] = &[
        // ioctl(fd, TIOCSTI): also with bit 32 set, which the kernel cuts off.
        ("ioctl", &[0, 0x5401], allow),
        ("ioctl", &[0, 0x5412], errno(libc::EPERM)),
        ("ioctl", &[0, 0x1_0000_5412], errno(libc::EPERM)),
        ("ioctl", &[0, 0xffff_ffff_0000_5412], errno(libc::EPERM)),
        ("ioctl", &[0, 0x541c], errno(libc::EPERM)),
        ("ioctl", &[0, 0x5423], errno(libc::EPERM)),
        ("clone", &[libc::SIGCHLD as u64], allow),
        ("clone", &[libc::CLONE_NEWUSER as u64 | libc::SIGCHLD as u64], errno(libc::EPERM)),
        ("clone", &[libc::CLONE_NEWNET as u64], errno(libc::EPERM)),
        // A thread: none of its flags is a namespace's.
        ("clone", &[0x003d_0f00], allow),
        ("clone3", &[], errno(libc::ENOSYS)),
        ("unshare", &[libc::CLONE_FILES as u64], allow),
        ("unshare", &[libc::CLONE_NEWUSER as u64], errno(libc::EPERM)),
        // CLONE_NEWTIME, which clone cannot have.
        ("unshare", &[0x80], errno(libc::EPERM)),
        ("personality", &[0], allow),
        ("personality", &[8], allow),
        ("personality", &[0xffff_ffff], allow),
        ("personality", &[0x004_0000], errno(libc::EPERM)),
        ("socket", &[1, 1, 0], allow),
        ("socket", &[10, 1, 0], allow),
        ("socket", &[16, 3, 0], allow),
        ("socket", &[16, 3, 9], errno(libc::EPROTONOSUPPORT)),
        ("socket", &[38, 5, 0], errno(libc::EAFNOSUPPORT)),
        ("socket", &[40, 1, 0], errno(libc::EAFNOSUPPORT)),
        ("socketpair", &[30, 1, 0], errno(libc::EAFNOSUPPORT)),
        ("keyctl", &[1], errno(libc::ENOSYS)),
    ];
    for arch in arch::ALL {
        for (name, arguments, should) in table {
            let is = answer(arch, 0, name, arguments);
            assert_eq!(is, *should, "{} {name} {arguments:x?}: {is:#x}", arch.name);
        }
        assert_eq!(answer(arch, SYS_ADMIN, "unshare", &[libc::CLONE_NEWUSER as u64]), allow);
        assert_eq!(answer(arch, SYS_ADMIN, "clone", &[libc::CLONE_NEWNET as u64]), allow);
        assert_eq!(answer(arch, SYS_ADMIN, "clone3", &[]), allow);
        assert_eq!(answer(arch, SYS_ADMIN, "ioctl", &[0, 0x5412]), errno(libc::EPERM));
        assert_eq!(answer(arch, 1 << 29, "socket", &[16, 3, 9]), allow, "audit_write");
    }
    // A family whose upper half is not zero is the same family to the kernel.
    let wide = arch_named("x86_64");
    assert_eq!(answer(wide, 0, "socket", &[0x1_0000_0026, 5, 0]), errno(libc::EAFNOSUPPORT));
    let i386 = arch_named("i386");
    assert_eq!(answer(i386, 0, "socketcall", &[1]), errno(libc::ENOSYS));
    assert_eq!(answer(i386, 0, "socketcall", &[3]), allow, "connect");
}

#[test]
fn what_dockers_and_podmans_lists_refuse_is_refused() {
    // Of docker, what its list has only for capabilities, or not at all; of containers-common, its EPERM list.
    let refused = "acct add_key bpf chroot clock_settime delete_module fanotify_init finit_module fsconfig fsmount \
        fsopen fspick get_mempolicy init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp \
        kexec_file_load kexec_load keyctl lookup_dcookie lsm_get_self_attr lsm_list_modules lsm_set_self_attr mbind \
        migrate_pages mount mount_setattr move_mount move_pages nfsservctl open_by_handle_at open_tree \
        perf_event_open pidfd_getfd pivot_root process_madvise quotactl quotactl_fd reboot request_key \
        set_mempolicy set_mempolicy_home_node setdomainname sethostname setns settimeofday swapoff swapon sysfs \
        syslog umount2 uselib userfaultfd ustat vhangup vmsplice";
    let arch = arch_named("x86_64");
    for name in refused.split_ascii_whitespace() {
        let is = answer(arch, 0, name, &[]);
        assert!(is == errno(libc::EPERM) || is == errno(libc::ENOSYS), "{name}: {is:#x}");
    }
}

fn op() -> impl Strategy<Value = Op> {
    use Op::{Different, Equal, Greater, GreaterOrEqual, Less, LessOrEqual};
    prop::sample::select(vec![Equal, Different, Less, LessOrEqual, Greater, GreaterOrEqual])
}

/// Numbers at which a comparison of two halves goes wrong, if it does.
fn number() -> impl Strategy<Value = u64> {
    let edges = vec![0, 1, 2, INT - 1, INT, INT + 1, INT + 2, 0x2_0000_0001, u64::MAX - 1, u64::MAX, 1 << 63];
    prop_oneof![4 => prop::sample::select(edges), 1 => any::<u64>()]
}

fn action() -> impl Strategy<Value = Action> {
    let fixed = [Action::Allow, Action::Log, Action::KillThread, Action::KillProcess];
    prop_oneof![
        prop::sample::select(fixed.to_vec()),
        (0..=4095_u16).prop_map(Action::Errno),
        (0..=u16::MAX).prop_map(Action::Trap),
    ]
}

fn check() -> impl Strategy<Value = Check> {
    (0..6_u8, prop_oneof![Just(u64::MAX), Just(INT), number()], op(), number())
        .prop_map(|(argument, mask, op, value)| Check { argument, mask, op, value })
}

fn rule() -> impl Strategy<Value = Rule> {
    // Few names, so that several rules meet.
    let names = ["read", "write", "ioctl", "clone", "clone3", "mmap", "execve", "socketcall", "no_such_call"];
    let names = prop::collection::vec(prop::sample::select(names.to_vec()), 1..5);
    let any = prop::collection::vec(prop::collection::vec(check(), 1..4), 0..3);
    (names, any, action()).prop_map(|(names, any, action)| Rule {
        name: "r".into(),
        reason: "".into(),
        calls: Calls::List(names.into_iter().map(Into::into).collect()),
        any,
        action,
    })
}

fn any_profile() -> impl Strategy<Value = Profile> {
    (prop::collection::vec(rule(), 0..12), action(), action(), 0..3_usize).prop_map(
        |(rules, default, newer, arches)| Profile {
            name: "random".into(),
            arches: [vec!["x86_64", "i386"], vec!["aarch64", "arm"], vec!["x86_64"]][arches]
                .iter()
                .map(|name| arch_named(name))
                .collect(),
            rules,
            default,
            newer,
            flags: 0,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_profile_and_its_program_agree(
        profile in any_profile(),
        arguments in prop::collection::vec(prop::array::uniform6(number()), 1..6),
    ) {
        let program = generate::generate(&profile).unwrap();
        verify(&program);
        let reading = Reading::of(&profile);
        for arch in &profile.arches {
            for (number, _) in arch.calls().chain([(423, ""), (424, ""), (470, ""), (X32, ""), (u32::MAX, "")]) {
                for arguments in &arguments {
                    // Registers are 32 bits wide there.
                    let narrow = if arch.wide { u64::MAX } else { INT };
                    let arguments = arguments.map(|argument| argument & narrow);
                    reading.check(&program, Call { audit: arch.audit, number, arguments });
                }
            }
        }
    }
}

#[test]
fn far_targets_are_reached() {
    // Each call has answers of its own, so that nothing is shared and the tree is as long as it gets.
    let arch = arch_named("x86_64");
    let rules = (1..).zip(arch.calls()).map(|(errno, (_, call))| Rule {
        name: "r".into(),
        reason: "".into(),
        calls: Calls::Text(call),
        any: if errno % 8 == 0 {
            vec![vec![Check { argument: 0, mask: u64::MAX, op: Op::Equal, value: errno }]]
        } else {
            vec![]
        },
        action: Action::Errno(errno as u16),
    });
    let profile = Profile {
        name: "long".into(),
        arches: vec![arch],
        rules: rules.collect(),
        default: Action::KillThread,
        newer: Action::Log,
        flags: 0,
    };
    let program = generate::generate(&profile).unwrap();
    verify(&program);
    let reading = Reading::of(&profile);
    assert!(program.len() > 700, "{} instructions are too few to test this", program.len());
    for number in 0..600 {
        for argument in [0, 8, u64::from(number) + 1] {
            reading.check(&program, Call { audit: arch.audit, number, arguments: [argument; 6] });
        }
    }
}

#[test]
fn a_profile_that_is_too_long_is_refused() {
    let check = |value| vec![Check { argument: 0, mask: u64::MAX, op: Op::Equal, value }];
    let rule = Rule {
        name: "r".into(),
        reason: "".into(),
        calls: Calls::Text("read"),
        any: (0..1200).map(check).collect(),
        action: Action::Allow,
    };
    let profile = Profile { rules: vec![rule], ..policy::default("long", |_| false) };
    assert!(Filter::of(profile, true).unwrap_err().to_string().contains("more than 4096 instructions"));
}
