//! A program that runs into limits: makes cgroups, puts processes of its own into them, and looks what happens.
//!
//! `limits check [NAME...]` runs checks and prints `ok NAME`, `skip NAME: why` or `FAILED NAME: why`, at the end
//! `done COUNT`; `limits make LIMITS` makes a cgroup and prints `made` and its place, or `refused` and why;
//! `limits delegate LIMITS` asks systemd before; `limits as UID PROGRAM...` runs a program as a user; `limits work KIND`
//! is what is put into a cgroup: it waits for a line on its standard input first. The tests start it on the host and
//! in a virtual machine.

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rootling::runner::cgroup::{self, Cgroup, IoKind, IoRate, Limits};
use rootling_backends::ErrorKind;

type Check = fn() -> Outcome;
type Outcome = Result<Option<&'static str>, Box<dyn Error>>;

const MIB: u64 = 1 << 20;

/// Every check by its name; `Some` is why it cannot run here.
const CHECKS: &[(&str, Check)] = &[
    ("memory_beyond_the_limit_is_killed", memory_beyond_the_limit_is_killed),
    ("one_process_too_many_is_refused", one_process_too_many_is_refused),
    ("processor_time_is_rationed", processor_time_is_rationed),
    ("a_process_stays_on_its_processors", a_process_stays_on_its_processors),
    ("a_processor_that_is_not_there_is_refused", a_processor_that_is_not_there_is_refused),
    ("a_disk_is_as_fast_as_it_may_be", a_disk_is_as_fast_as_it_may_be),
    ("shares_and_reservations_are_written", shares_and_reservations_are_written),
    ("frozen_processes_stand_still", frozen_processes_stand_still),
    ("kill_reaches_what_forks_meanwhile", kill_reaches_what_forks_meanwhile),
    ("a_cgroup_is_found_again", a_cgroup_is_found_again),
    ("an_error_leaves_nothing", an_error_leaves_nothing),
    ("a_killed_maker_is_swept_after", a_killed_maker_is_swept_after),
    ("makers_and_sweepers_do_not_meet", makers_and_sweepers_do_not_meet),
    ("processes_are_in_leaves_alone", processes_are_in_leaves_alone),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["check", names @ ..] => check(names),
        ["as", uid, program, rest @ ..] => {
            let uid: u32 = uid.parse().expect("a number");
            let error = Command::new(program).args(rest).uid(uid).gid(uid).exec();
            say(&format!("FAILED as {uid}: {error}"));
            ExitCode::FAILURE
        }
        ["make", limits] => make(limits),
        ["delegate", limits] => match cgroup::delegate() {
            Ok(()) => make(limits),
            Err(error) => refused(&error),
        },
        ["work", kind, rest @ ..] => {
            std::io::stdin().read_line(&mut String::new()).expect("a line");
            work(kind, rest)
        }
        _ => {
            say(
                "usage: limits check [NAME...] | make LIMITS | delegate LIMITS | as UID PROGRAM... | work KIND",
            );
            ExitCode::FAILURE
        }
    }
}

fn make(limits: &str) -> ExitCode {
    let limits: Limits = serde_json::from_str(limits).expect("limits as JSON");
    match Cgroup::make("made", &limits) {
        Ok(cgroup) => {
            say(&format!("made {}", serde_json::to_string(cgroup.place()).expect("plain")));
            ExitCode::SUCCESS
        }
        Err(error) => refused(&error),
    }
}

fn refused(error: &rootling_backends::Error) -> ExitCode {
    say(&format!("refused {error:?}; {}", error.first_hint().unwrap_or("no hint")));
    ExitCode::FAILURE
}

fn check(names: &[&str]) -> ExitCode {
    let mut failed = 0;
    let chosen = CHECKS.iter().filter(|(name, _)| names.is_empty() || names.contains(name));
    let mut count = 0;
    for (name, check) in chosen {
        count += 1;
        match std::panic::catch_unwind(check) {
            Ok(Ok(None)) => say(&format!("ok {name}")),
            Ok(Ok(Some(why))) => say(&format!("skip {name}: {why}")),
            Ok(Err(error)) => {
                failed += 1;
                say(&format!("FAILED {name}: {error:?}"));
            }
            Err(_) => {
                failed += 1;
                say(&format!("FAILED {name}: see the panic above"));
            }
        }
    }
    say(&format!("done {count}"));
    ExitCode::from(failed)
}

#[expect(clippy::print_stdout, reason = "this is a program")]
fn say(text: &str) {
    println!("{text}");
}

// ---------------------------------------------------------------- processes that use things

fn work(kind: &str, rest: &[&str]) -> ExitCode {
    let number = || rest.first().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    match kind {
        "allocate" => {
            let size = usize::try_from(number()).expect("it fits");
            let mut memory = vec![0_u8; size];
            memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
            std::hint::black_box(&memory);
        }
        "fork" => {
            let mut children: Vec<Child> = Vec::new();
            for _ in 0..number() {
                match Command::new("/proc/self/exe").args(["work", "wait"]).stdin(Stdio::piped()).spawn() {
                    Ok(child) => children.push(child),
                    Err(_) => break,
                }
            }
            say(&children.len().to_string());
            for mut child in children {
                drop(child.stdin.take());
                child.wait().expect("it is ours");
            }
        }
        "wait" => {}
        "spin" => {
            let until = Duration::from_millis(number());
            let start = Instant::now();
            while start.elapsed() < until {
                std::hint::spin_loop();
            }
        }
        "tick" => loop {
            say("tick");
            std::thread::sleep(Duration::from_millis(5));
        },
        "breed" => loop {
            // Children that outlive their parent, as fast as the limit lets them.
            let child = Command::new("/proc/self/exe").args(["work", "breed"]).stdin(Stdio::piped()).spawn();
            if let Ok(mut child) = child {
                child.stdin.as_mut().expect("piped").write_all(b"go\n").expect("it reads");
            }
        },
        "processors" => {
            let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
            let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
            say(line.expect("the field").trim());
        }
        "write" => {
            // Past the page cache: what the kernel writes back later from a bare disk is nobody's.
            let mut options = std::fs::OpenOptions::new();
            let mut disk = options.write(true).custom_flags(libc::O_DIRECT).open(rest[1]).expect("the disk");
            let room = vec![1_u8; (64 << 10) + 4096];
            let piece = &room[room.as_ptr().align_offset(4096)..][..64 << 10];
            for _ in 0..number() / (64 << 10) {
                disk.write_all(piece).expect("written");
            }
        }
        "hold" => {
            let limits = Limits { pids: Some(50), ..Limits::default() };
            let cgroup = Cgroup::make("held", &limits).expect("a cgroup");
            say(&serde_json::to_string(cgroup.place()).expect("plain"));
            std::thread::sleep(Duration::from_secs(60));
        }
        _ => panic!("no such work"),
    }
    ExitCode::SUCCESS
}

/// A process that waits for [`Self::go`].
struct Worker(Child);

impl Worker {
    fn new(arguments: &[&str]) -> Self {
        let mut command = Command::new("/proc/self/exe");
        command
            .arg("work")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        Self(command.spawn().expect("our own program starts"))
    }

    fn within(cgroup: &Cgroup, arguments: &[&str]) -> Result<Self, Box<dyn Error>> {
        let worker = Self::new(arguments);
        cgroup.add(worker.0.id().cast_signed(), false)?;
        Ok(worker)
    }

    fn go(&mut self) {
        self.0.stdin.as_mut().expect("piped").write_all(b"go\n").expect("it waits");
    }

    fn end(mut self) -> (ExitStatus, String) {
        self.go();
        let mut text = String::new();
        self.0.stdout.take().expect("piped").read_to_string(&mut text).expect("text");
        (self.0.wait().expect("it is ours"), text)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

// ---------------------------------------------------------------- checks

fn memory_beyond_the_limit_is_killed() -> Outcome {
    let size = (96 * MIB).to_string();
    let (status, _) = Worker::new(&["allocate", &size]).end();
    assert!(status.success(), "without a limit it is fine");
    // Swap would only make it slower.
    let limit = 32 * MIB;
    let limits = Limits { memory_bytes: Some(limit), memory_swap_bytes: Some(limit), ..Limits::default() };
    let cgroup = match Cgroup::make("memory", &limits) {
        Err(error)
            if error.kind() == ErrorKind::Unsupported && error.to_string().contains("--memory-swap") =>
        {
            Cgroup::make("memory", &Limits { memory_bytes: Some(limit), ..Limits::default() })?
        }
        made => made?,
    };
    let (status, _) = Worker::within(&cgroup, &["allocate", &size])?.end();
    assert_eq!(status.signal(), Some(9), "{status:?}");
    let stats = cgroup.stats()?;
    assert_eq!(stats.memory_limit_bytes, Some(limit));
    assert!(stats.oom_kills.is_some_and(|kills| kills >= 1), "{stats:?}");
    // Linux 5.19 and later remember the peak in version 2.
    assert!(stats.memory_peak_bytes.is_none_or(|peak| (16 * MIB..=limit).contains(&peak)), "{stats:?}");
    // What fits is let be.
    let (status, _) = Worker::within(&cgroup, &["allocate", &(8 * MIB).to_string()])?.end();
    assert!(status.success());
    Ok(None)
}

fn one_process_too_many_is_refused() -> Outcome {
    let (status, text) = Worker::new(&["fork", "8"]).end();
    assert!(status.success() && text.trim() == "8", "without a limit it is fine");
    let cgroup = Cgroup::make("pids", &Limits { pids: Some(5), ..Limits::default() })?;
    let (status, text) = Worker::within(&cgroup, &["fork", "8"])?.end();
    assert!(status.success());
    assert_eq!(text.trim(), "4", "itself and four children");
    assert_eq!(cgroup.stats()?.pids_limit, Some(5));
    Ok(None)
}

fn processor_time_is_rationed() -> Outcome {
    let cgroup = Cgroup::make("cpus", &Limits { cpu_thousandths: Some(50), ..Limits::default() })?;
    let (status, _) = Worker::within(&cgroup, &["spin", "1000"])?.end();
    assert!(status.success());
    let stats = cgroup.stats()?;
    assert!(stats.cpu_throttled_periods.is_some_and(|periods| periods >= 3), "{stats:?}");
    let used = stats.cpu_us.ok_or("processor time is not counted")?;
    // A twentieth of what it wants, and slices on top; a busy machine gives less, but more than that.
    assert!((10_000..400_000).contains(&used), "{stats:?}");
    Ok(None)
}

fn a_process_stays_on_its_processors() -> Outcome {
    let (_, text) = Worker::new(&["processors"]).end();
    let all = cgroup::parse_list(&text)?;
    let [.., last] = all.as_slice() else { return Err("no processors".into()) };
    if all.len() < 2 {
        return Ok(Some("the machine has one processor"));
    }
    let limits = Limits { cpuset_cpus: Some(last.to_string()), ..Limits::default() };
    let cgroup = Cgroup::make("cpuset", &limits)?;
    let (_, text) = Worker::within(&cgroup, &["processors"])?.end();
    assert_eq!(cgroup::parse_list(&text)?, [*last]);
    Ok(None)
}

fn a_processor_that_is_not_there_is_refused() -> Outcome {
    let before = left();
    let limits = Limits { cpuset_cpus: Some("0,4095".into()), ..Limits::default() };
    let error = Cgroup::make("cpuset", &limits).expect_err("there are not so many");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
    assert!(error.to_string().contains("--cpuset-cpus 0,4095: 4095"), "{error:?}");
    assert!(error.first_hint().is_some());
    assert_eq!(left(), before);
    Ok(None)
}

fn a_disk_is_as_fast_as_it_may_be() -> Outcome {
    let Some(disk) = std::env::var_os("LIMITS_DISK") else { return Ok(Some("LIMITS_DISK names no disk")) };
    let text = disk.to_string_lossy().into_owned();
    let size = (2 * MIB).to_string();
    let seconds = |worker: Worker| {
        let start = Instant::now();
        let (status, _) = worker.end();
        assert!(status.success());
        start.elapsed().as_secs_f64()
    };
    let free = seconds(Worker::new(&["write", &size, &text]));
    let rate = IoRate { device: disk.into(), what: IoKind::WriteBytes, per_second: MIB };
    let cgroup = Cgroup::make("io", &Limits { io_rates: vec![rate], ..Limits::default() })?;
    let slow = seconds(Worker::within(&cgroup, &["write", &size, &text])?);
    assert!(slow > 1.2 && slow > free, "{free} s without, {slow} s with a limit");
    let stats = cgroup.stats()?;
    assert!(stats.io_write_bytes.is_some_and(|bytes| bytes >= 2 * MIB), "{stats:?}");
    Ok(None)
}

fn shares_and_reservations_are_written() -> Outcome {
    let limits = Limits {
        cpu_shares: Some(512),
        memory_bytes: Some(64 * MIB),
        memory_reservation_bytes: Some(16 * MIB),
        cpuset_mems: Some("0".into()),
        pids: Some(cgroup::UNLIMITED),
        ..Limits::default()
    };
    let made = Cgroup::make("shares", &limits)?;
    let place = made.place();
    // The name in version 1, the name in version 2, and what each must hold.
    for (controller, v1, v2) in [
        ("cpu", ("cpu.shares", "512"), ("cpu.weight", "20")),
        ("memory", ("memory.soft_limit_in_bytes", "16777216"), ("memory.low", "16777216")),
        ("memory", ("memory.limit_in_bytes", "67108864"), ("memory.max", "67108864")),
        ("cpuset", ("cpuset.mems", "0"), ("cpuset.mems", "0")),
        ("pids", ("pids.max", "max"), ("pids.max", "max")),
    ] {
        let (path, (file, wanted)) = match (place.controllers.get(controller), &place.unified) {
            (Some(path), _) => (path, v1),
            (None, Some(path)) => (path, v2),
            _ => return Err(format!("{controller} is nowhere: {place:?}").into()),
        };
        assert_eq!(std::fs::read_to_string(path.join(file))?.trim(), wanted, "{file}");
    }
    drop(made);
    // Whether disks can be weighed depends on their scheduler: then it is written, or refused in words.
    match Cgroup::make("weight", &Limits { io_weight: Some(500), ..Limits::default() }) {
        Ok(made) => drop(made),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
            assert!(error.to_string().contains("--io-weight"), "{error:?}");
            assert!(error.first_hint().is_some_and(|hint| hint.contains("bfq")), "{error:?}");
        }
    }
    Ok(None)
}

fn frozen_processes_stand_still() -> Outcome {
    let cgroup = Cgroup::make("freeze", &Limits { pids: Some(50), ..Limits::default() })?;
    let mut worker = Worker::within(&cgroup, &["tick"])?;
    worker.go();
    let mut ticks = BufReader::new(worker.0.stdout.take().expect("piped")).lines();
    ticks.next().ok_or("no tick")??;
    let written = || -> Result<u64, Box<dyn Error>> {
        let io = std::fs::read_to_string(format!("/proc/{}/io", worker.0.id()))?;
        let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
        Ok(line.ok_or("no wchar")?.parse()?)
    };
    cgroup.freeze()?;
    let before = written()?;
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(written()?, before, "it went on");
    cgroup.freeze()?;
    cgroup.thaw()?;
    let start = Instant::now();
    while written()? == before {
        assert!(start.elapsed() < Duration::from_secs(10), "it does not go on");
        std::thread::sleep(Duration::from_millis(2));
    }
    // What is frozen can be killed.
    cgroup.freeze()?;
    cgroup.kill()?;
    Ok(None)
}

fn kill_reaches_what_forks_meanwhile() -> Outcome {
    let cgroup = Cgroup::make("kill", &Limits { pids: Some(30), ..Limits::default() })?;
    let mut worker = Worker::within(&cgroup, &["breed"])?;
    worker.go();
    let start = Instant::now();
    while cgroup.processes()?.len() < 10 {
        assert!(start.elapsed() < Duration::from_secs(20), "they do not multiply");
        std::thread::sleep(Duration::from_millis(5));
    }
    cgroup.kill()?;
    assert!(cgroup.processes()?.is_empty());
    assert_eq!(worker.0.wait()?.signal(), Some(9));
    Ok(None)
}

fn a_cgroup_is_found_again() -> Outcome {
    let limits = Limits { pids: Some(50), memory_bytes: Some(64 * MIB), ..Limits::default() };
    let cgroup = Cgroup::make("found ../again", &limits)?;
    let mut worker = Worker::within(&cgroup, &["wait"])?;
    let text = serde_json::to_string(cgroup.place())?;
    let other = Cgroup::open(&serde_json::from_str(&text)?)?;
    assert_eq!(other.processes()?, [worker.0.id().cast_signed()]);
    let stats = other.stats()?;
    assert_eq!((stats.pids, stats.pids_limit), (Some(1), Some(50)));
    assert!(stats.memory_bytes.is_some(), "{stats:?}");
    drop(other);
    assert_eq!(cgroup.processes()?.len(), 1, "dropping what was opened does nothing");
    worker.go();
    worker.0.wait()?;
    let place = cgroup.place().clone();
    cgroup.remove()?;
    assert_eq!(Cgroup::open(&place).expect_err("it is removed").kind(), ErrorKind::NotFound);
    Ok(None)
}

fn an_error_leaves_nothing() -> Outcome {
    let before = left();
    // The kernel has no room for a reservation of all that, in any version, but takes the limits before it.
    let limits = Limits { pids: Some(50), cpuset_mems: Some("4000".into()), ..Limits::default() };
    let error = Cgroup::make("error", &limits).expect_err("there is no such node");
    assert!(error.to_string().contains("--cpuset-mems"), "{error:?}");
    assert_eq!(left(), before);
    Ok(None)
}

fn a_killed_maker_is_swept_after() -> Outcome {
    let mut maker = Worker::new(&["hold"]);
    maker.go();
    let mut line = String::new();
    BufReader::new(maker.0.stdout.take().expect("piped")).read_line(&mut line)?;
    let place: cgroup::Place = serde_json::from_str(&line)?;
    Cgroup::sweep();
    Cgroup::open(&place)?;
    drop(maker);
    Cgroup::sweep();
    assert_eq!(Cgroup::open(&place).expect_err("it is swept").kind(), ErrorKind::NotFound);
    for path in place.unified.iter().chain(place.controllers.values()) {
        assert!(!path.exists(), "{path:?} is left");
    }
    Ok(None)
}

fn makers_and_sweepers_do_not_meet() -> Outcome {
    let makers: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(|| -> Result<(), String> {
                for _ in 0..40 {
                    let limits = Limits { pids: Some(50), ..Limits::default() };
                    let cgroup = Cgroup::make("many", &limits).map_err(|error| format!("{error:?}"))?;
                    Cgroup::open(cgroup.place()).map_err(|error| format!("swept alive: {error:?}"))?;
                    Cgroup::sweep();
                    cgroup.remove().map_err(|error| format!("{error:?}"))?;
                }
                Ok(())
            })
        })
        .collect();
    for maker in makers {
        maker.join().expect("no panic")?;
    }
    assert_eq!(left().iter().filter(|name| name.contains("many")).count(), 0);
    Ok(None)
}

fn processes_are_in_leaves_alone() -> Outcome {
    let cgroup = Cgroup::make("leaf", &Limits { pids: Some(50), ..Limits::default() })?;
    let place = cgroup.place();
    let Some(unified) = &place.unified else { return Ok(Some("version 2 is not mounted")) };
    let middle = unified.parent().ok_or("no parent")?;
    assert_eq!(std::fs::read_to_string(middle.join("cgroup.procs"))?, "");
    if !place.controllers.is_empty() {
        return Ok(Some("limits are on version 1 here, which has no such rule"));
    }
    let handed = std::fs::read_to_string(middle.join("cgroup.subtree_control"))?;
    assert!(handed.split_whitespace().any(|name| name == "pids"), "{handed:?}");
    let base = middle.parent().ok_or("no parent")?;
    // The root of the hierarchy alone may have both, and has no such file.
    if base.join("cgroup.type").exists() {
        assert_eq!(std::fs::read_to_string(base.join("cgroup.procs"))?, "");
    }
    Ok(None)
}

/// Names of the cgroups of ours of this process, in every hierarchy.
fn left() -> Vec<String> {
    let me = format!("-{}", std::process::id());
    let mut found = Vec::new();
    let mut places = vec![Path::new("/sys/fs/cgroup").to_owned()];
    while let Some(place) = places.pop() {
        for entry in std::fs::read_dir(&place).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let name = entry.file_name().to_string_lossy().into_owned();
                if place.ends_with("rootling") && name.starts_with("box-") && name.contains(&me) {
                    found.push(name);
                }
                places.push(entry.path());
            }
        }
    }
    found.sort();
    found
}
