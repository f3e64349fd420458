//! The filter of system calls as another program makes it of ours: each call is answered as by our own.

use std::os::unix::fs::PermissionsExt;

use nix::errno::Errno;

use super::{runtimes, script_ok};
use crate::attack::calls::{Door, Program, Value};
use crate::environment::{Environment, is_root};

/// Calls that change nothing whether they are done or not, among them every sort that arguments decide. Descriptor 99 is not open.
fn programs() -> Vec<Program> {
    let no = || Value::from(99);
    let mut program = Program::x86_64();
    for request in [0x5401, 0x5412, 0x5413, 0x541c, 0x5423, 0x5422, 0x1_0000_5412, 0xffff_ffff] {
        program = program.call(libc::SYS_ioctl, &[no(), Value::Number(request), 0.into()]);
    }
    for personality in [0xffff_ffff_u64, 0x4_0000, 0x8, 0x2_0000, 0x2_0008, 0x40_0000, 0x0] {
        program = program.call(libc::SYS_personality, &[Value::Number(personality)]);
    }
    let mut programs = Vec::new();
    for (index, family) in (0..48).chain([0x100, 0xffff_ffff]).enumerate() {
        // A program has room for a hundred calls and some.
        if index % 16 == 0 {
            programs.push(std::mem::replace(&mut program, Program::x86_64()));
        }
        let family = || Value::Number(family);
        // The type is wrong: what gets to the kernel is refused there.
        program = program.call(libc::SYS_socket, &[family(), 77.into(), 0.into()]);
        program = program.call(libc::SYS_socket, &[family(), 77.into(), 9.into()]);
        program = program.call(libc::SYS_socketpair, &[family(), 77.into(), 0.into(), 0.into()]);
        program = program.call_by(Door::I386, 359, &[family(), 77.into(), 0.into()]);
    }
    for flags in [0x1000_0000_u64, 0x2_0000, 0x4000_0000, 0x80, 0x8000_0000] {
        program = program.call(libc::SYS_unshare, &[Value::Number(flags)]);
        program = program.call_by(Door::I386, 310, &[Value::Number(flags)]);
    }
    // Flags that contradict themselves: threads without shared memory.
    for flags in [0x1_0000_u64, 0x1001_0000, 0x2_0200] {
        program = program.call(libc::SYS_clone, &[Value::Number(flags), 0.into(), 0.into(), 0.into()]);
    }
    let refused = [
        libc::SYS_clone3,
        libc::SYS_setns,
        libc::SYS_bpf,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_perf_event_open,
        libc::SYS_open_by_handle_at,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_fsopen,
        libc::SYS_kexec_load,
        libc::SYS_init_module,
        libc::SYS_swapon,
        libc::SYS_acct,
        libc::SYS_quotactl,
        libc::SYS_nfsservctl,
        libc::SYS_kcmp,
        libc::SYS_settimeofday,
        libc::SYS_syslog,
        // Younger than everything.
        900,
    ];
    for call in refused {
        program = program.call(call, &[no(), no(), no(), no(), no()]);
    }
    programs.push(program);
    programs
}

/// What of the numbers of i386 alone is answered otherwise: see `socketcall` in `src/runner/seccomp/oci.rs`.
fn multiplexer() -> Program {
    let nothing = || Value::from(&[0; 24]);
    Program::x86_64()
        .call_by(Door::I386, 102, &[1.into(), nothing()])
        .call_by(Door::I386, 102, &[8.into(), nothing()])
        .call_by(Door::I386, 102, &[2.into(), nothing()])
}

fn answers(environment: &Environment, program: &Program, flags: &str, runtime: Option<&str>) -> Vec<i64> {
    let path = environment.path("root/probe");
    std::fs::write(&path, program.file()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let how = match runtime {
        None => format!("$R -q run --userns host --net none {flags} probe -- /probe > $D/answers"),
        Some(runtime) => format!(
            "$R -q bundle {flags} probe $D/b -- /probe > $D/id; by {runtime} $D/b > $D/answers; $R -q bundle --rm $D/b"
        ),
    };
    let text = format!(
        "$R -q import dir:$D/root probe > $D/id; {how}; $R -q rm --now --force probe; $R -q prune --removed > $D/id"
    );
    script_ok(environment, &text);
    program.results(&std::fs::read(environment.path("answers")).unwrap())
}

#[test]
fn every_call_is_answered_as_by_our_own_filter() {
    if !cfg!(target_arch = "x86_64") || !is_root() {
        return;
    }
    let environment = Environment::new();
    for name in ["proc", "sys", "dev"] {
        std::fs::create_dir_all(environment.path("root").join(name)).unwrap();
    }
    let programs = programs();
    let all = |flags: &str, runtime: Option<&str>| -> Vec<i64> {
        programs.iter().flat_map(|program| answers(&environment, program, flags, runtime)).collect()
    };
    for flags in ["", "--cap-add net_admin", "--security-opt seccomp=i386"] {
        let ours = all(flags, None);
        let refused =
            |errno: Errno| ours.iter().filter(|answer| **answer == -i64::from(errno as i32)).count();
        assert!(refused(Errno::EPERM) > 20 && refused(Errno::EAFNOSUPPORT) > 20, "{ours:?}");
        for runtime in runtimes() {
            let theirs = all(flags, Some(runtime));
            let differ: Vec<_> =
                ours.iter().zip(&theirs).enumerate().filter(|(_, (ours, theirs))| ours != theirs).collect();
            assert!(differ.is_empty() && ours.len() == theirs.len(), "{runtime} {flags}: {differ:?}");
        }
    }
    let refused = vec![-i64::from(Errno::EPERM as i32); 3];
    for runtime in runtimes() {
        let theirs = answers(&environment, &multiplexer(), "", Some(runtime));
        assert_eq!(theirs, refused, "{runtime}: sockets of any family could be had through socketcall");
        let open = answers(&environment, &multiplexer(), "--security-opt seccomp=i386", Some(runtime));
        assert_ne!(open[0], refused[0], "{runtime}");
    }
}
