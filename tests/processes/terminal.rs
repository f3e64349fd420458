//! The terminal in front of a box: bytes, sizes, jobs, visits, and how it is left.

use super::*;

#[test]
fn a_terminal_is_put_back_however_the_session_ends() {
    let Some(boxes) = Boxes::with_dev() else { return };
    let script = "trap 'exit 4' TERM; echo up; while :; do sleep 0.05; done";
    let begin = || {
        let mut session = Session::start(&boxes, &["-q", "exec", "dev", "--", "sh", "-c", script]);
        session.expect("up\r\n");
        assert!(!session.is_cooked(), "raw while it runs");
        session
    };
    let mut session = begin();
    session.child.signal(Signal::SIGTERM);
    assert_eq!(session.child.code(), 4, "the signal reached the command");
    assert!(session.is_cooked());
    let mut session = begin();
    boxes.ok(["kill", "dev"]);
    assert_eq!(session.child.code(), 137);
    assert!(session.is_cooked());
    let mut session = begin();
    let init = parent(boxes.pid("dev"));
    kill(Pid::from_raw(init), Signal::SIGKILL).unwrap();
    assert_eq!(session.child.code(), 137);
    assert!(session.is_cooked());
    let mut session = begin();
    session.type_in(b"\x03");
    assert_eq!(session.child.code(), 130);
    assert!(session.is_cooked());
}

#[test]
fn control_c_arrives_once_and_sizes_follow() {
    let Some(boxes) = Boxes::with_dev() else { return };
    let script = "n=0; trap 'n=$((n+1)); echo int $n' INT; trap 'stty size' WINCH; echo up; \
        i=0; while [ $i -lt 600 ]; do sleep 0.05; i=$((i+1)); done";
    let mut session = Session::start(&boxes, &["-q", "exec", "dev", "--", "sh", "-c", script]);
    session.expect("up\r\n");
    session.type_in(b"\x03");
    session.expect("int 1\r\n");
    session.resize(41, 99);
    session.expect("41 99\r\n");
    session.type_in(b"\x03");
    session.expect("int 2\r\n");
    assert!(!session.text().contains("int 3"));
    session.resize(20, 60);
    session.expect("20 60\r\n");
}

#[test]
fn a_session_stops_and_goes_on_as_a_job_of_a_shell() {
    let Some(boxes) = Boxes::with_dev() else { return };
    let mut command = Command::new("sh");
    command
        .arg("-i")
        .env("ROOTLING_ROOT", boxes.store())
        .env("PS1", "shell> ")
        .env("R", BINARY)
        .env_remove("ENV");
    let mut session = Session::spawn(command);
    session.expect("shell> ");
    session.type_in(b"$R -q exec dev -- sh -c 'echo inside; read line; echo line=$line'\n");
    session.expect("\ninside\r\n");
    let rootling = parent(parent(boxes.pid("dev")));
    for signal in [Signal::SIGTSTP, Signal::SIGSTOP] {
        kill(Pid::from_raw(rootling), signal).unwrap();
        session.expect("shell> ");
        // Nobody can put a terminal in order on SIGSTOP; some shells do it then, this one does not.
        session.type_in(if signal == Signal::SIGSTOP { b"stty sane; true\n" } else { b"true\n" });
        session.expect("shell> ");
        session.type_in(b"echo shell has it\n");
        session.expect("\nshell has it\r\n");
        session.expect("shell> ");
        session.type_in(b"fg\n");
        session.expect("exec dev");
        wait_until("raw again", || !session.is_cooked());
    }
    session.type_in(b"typed\r");
    session.expect("line=typed");
    session.expect("shell> ");
    // In the background it must not touch the shell's terminal, and waits to be brought to the front.
    session.type_in(b"$R -q exec dev -- sh -c 'echo inside; read line; echo line=$line' &\n");
    wait_until("it stops", || {
        let rows = boxes.row("dev");
        let Some(pid) = rows["pid"].as_i64() else { return false };
        let Some(init) = parent_if_alive(i32::try_from(pid).unwrap()) else { return false };
        parent_if_alive(init).is_some_and(|rootling| {
            fs::read_to_string(format!("/proc/{rootling}/stat")).is_ok_and(|stat| stat.contains(") T "))
        })
    });
    session.type_in(b"echo still mine\n");
    session.expect("\nstill mine\r\n");
    session.type_in(b"fg\n");
    session.expect("inside\r\n");
    session.type_in(b"again\r");
    session.expect("line=again");
    session.expect("shell> ");
    session.type_in(b"exit\n");
    assert_eq!(session.child.code(), 0);
}

#[test]
fn every_byte_passes_both_ways_and_a_large_paste_arrives_whole() {
    let Some(boxes) = Boxes::with_dev() else { return };
    const SIZE: usize = 10 << 20;
    let script = format!("stty raw -echo; echo up; head -c 256; echo end; head -c {SIZE} | md5sum");
    let mut session = Session::start(&boxes, &["-q", "exec", "dev", "--", "sh", "-c", &script]);
    session.expect("up");
    let all: Vec<u8> = (0..=255).collect();
    session.type_in(&all);
    let start = Instant::now();
    while find(&session.seen, b"end\n").is_none() {
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", session.text());
        session.read();
    }
    assert_eq!(&session.seen[session.seen.len() - 260..][..256], all.as_slice());
    let pasted: Vec<u8> = (0..SIZE).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect();
    fs::write(boxes.path("pasted"), &pasted).unwrap();
    let sum = ran(Command::new("md5sum").arg(boxes.path("pasted")).output().unwrap()).stdout;
    let mut writer = session.master.try_clone().unwrap();
    let typing = std::thread::spawn(move || writer.write_all(&pasted).unwrap());
    session.expect(&sum[..32]);
    typing.join().unwrap();
    assert_eq!(session.child.code(), 0);
}

#[test]
fn the_end_of_a_pipe_is_the_end_of_the_input() {
    let Some(boxes) = Boxes::with_dev() else { return };
    // Also where the last line has no end: then one control-D only ends the line.
    for (typed, seen) in [("one\ntwo\n", "one\r\ntwo\r\none\r\ntwo\r\n"), ("half", "halfhalf"), ("", "")] {
        let mut command = boxes.command();
        command.args(["-q", "exec", "-t", "dev", "--", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Killed(command.spawn().unwrap());
        let mut input = child.0.stdin.take().unwrap();
        input.write_all(typed.as_bytes()).unwrap();
        drop(input);
        let mut output = String::new();
        child.0.stdout.take().unwrap().read_to_string(&mut output).unwrap();
        assert_eq!((child.code(), output.as_str()), (0, seen), "{typed:?}");
    }
}

#[test]
fn a_session_whose_output_nobody_reads_can_still_be_ended() {
    let Some(boxes) = Boxes::with_dev() else { return };
    let mut command = boxes.command();
    command.args(["-q", "exec", "-t", "dev", "--", "sh", "-c", "while :; do echo filling the pipe; done"]);
    let mut child = Killed(command.stdout(Stdio::piped()).spawn().unwrap());
    wait_until("it runs", || boxes.row("dev")["status"] == "running");
    std::thread::sleep(Duration::from_millis(300));
    child.signal(Signal::SIGTERM);
    std::thread::sleep(Duration::from_millis(100));
    // The first ends the command, the second us: what is left to show, nobody reads.
    child.signal(Signal::SIGTERM);
    assert_eq!(child.code(), 143);
}

#[test]
fn visitors_come_and_go_and_the_box_stays() {
    let Some(boxes) = Boxes::with_dev() else { return };
    let script = "stty size; while read line; do case $line in size) stty size;; *) echo got $line;; esac; done; \
        echo eof; exit 6";
    boxes.ok(["start", "-t", "dev", "--", "sh", "-c", script]);
    boxes.logged("dev", "24 80");
    let mut one = Session::start(&boxes, &["attach", "dev"]);
    wait_until("one is there", || !one.is_cooked());
    one.type_in(b"size\r");
    one.expect("33 77\r\n");
    one.type_in(b"first\r");
    one.expect("got first\r\n");
    let mut two = Session::start(&boxes, &["attach", "dev"]);
    wait_until("two is there", || !two.is_cooked());
    two.resize(12, 34);
    two.type_in(b"size\r");
    two.expect("12 34\r\n");
    one.expect("12 34\r\n");
    two.type_in(b"second\r");
    two.expect("got second\r\n");
    one.expect("got second\r\n");
    // The keys, with one of them alone in between.
    one.type_in(b"\x10x\r");
    one.expect("got \x10x\r\n");
    one.type_in(b"\x10");
    one.type_in(b"\x11");
    one.expect("left dev running");
    assert_eq!(one.child.code(), 0);
    assert!(one.is_cooked());
    two.child.signal(Signal::SIGTERM);
    assert_eq!(two.child.code(), 143, "a signal ends the visit");
    assert!(two.is_cooked());
    assert_eq!(boxes.row("dev")["status"], "running");
    let mut three = Session::start(&boxes, &["attach", "--detach-keys", "ctrl-a,d", "dev"]);
    wait_until("three is there", || !three.is_cooked());
    three.type_in(b"\x01d");
    three.expect("left dev running");
    assert_eq!(three.child.code(), 0);
    let mut four = Session::start(&boxes, &["attach", "--detach-keys", "", "dev"]);
    wait_until("four is there", || !four.is_cooked());
    four.type_in(b"\x04");
    four.expect("eof\r\n");
    assert_eq!(four.child.code(), 6, "a visitor who stays to the end ends as the command did");
    assert!(four.is_cooked());
    assert!(boxes.fails(["attach", "dev"]).contains("dev does not run"));
    let log = boxes.ok(["logs", "dev"]);
    assert!(log.contains("got first\r\n") && log.contains("got second\r\n"), "{log:?}");
    assert!(!boxes.slot("dev").join("attach").exists());
    boxes.assert_tidy(&["base", "dev"]);
}

#[test]
fn a_visit_ends_with_a_killed_box_and_the_terminal_is_put_back() {
    let Some(boxes) = Boxes::with_dev() else { return };
    boxes.ok(["start", "-t", "dev", "--", "sleep", "1000"]);
    let mut session = Session::start(&boxes, &["attach", "dev"]);
    wait_until("it is there", || !session.is_cooked());
    boxes.ok(["kill", "dev"]);
    assert_eq!(session.child.code(), 137);
    assert!(session.is_cooked());
    boxes.ok(["start", "-t", "dev", "--", "sleep", "1000"]);
    let mut session = Session::start(&boxes, &["attach", "dev"]);
    wait_until("it is there", || !session.is_cooked());
    kill(Pid::from_raw(boxes.supervisor("dev")), Signal::SIGKILL).unwrap();
    assert_eq!(session.child.code(), 137);
    assert!(session.is_cooked());
    boxes.ok(["start", "dev", "--", "sleep", "1000"]);
    assert!(boxes.fails(["attach", "dev"]).contains("dev has no terminal"));
    boxes.ok(["kill", "dev"]);
}

#[test]
fn a_visitor_who_does_not_read_holds_nobody_up() {
    let Some(boxes) = Boxes::with_dev() else { return };
    let script = "read go; echo begun; i=0; while [ $i -lt 40000 ]; do echo a line of some length to fill what there is $i; i=$((i+1)); done; exit 8";
    boxes.ok(["start", "-t", "dev", "--", "sh", "-c", script]);
    let mut stuck = Session::start(&boxes, &["attach", "dev"]);
    wait_until("it is there", || !stuck.is_cooked());
    stuck.type_in(b"\r");
    boxes.logged("dev", "begun");
    stuck.child.signal(Signal::SIGSTOP);
    wait_until("the box ends all the same", || boxes.row("dev")["status"] == "exited");
    assert_eq!(boxes.row("dev")["exit_code"], 8);
    stuck.child.signal(Signal::SIGCONT);
}

#[test]
fn escape_sequences_in_logs_and_names_do_not_reach_a_terminal() {
    let Some(boxes) = Boxes::with_dev() else { return };
    let escape = "echo -e 'a\\x1b]52;c;aGk=\\x07b\\rc'";
    boxes.ok(["start", "dev", "--", "sh", "-c", escape]);
    boxes.ok(["wait", "dev"]);
    let mut session = Session::start(&boxes, &["logs", "dev"]);
    session.expect("a\\u{1b}]52;c;aGk=\\u{7}b\\rc\r\n");
    assert_eq!(boxes.ok(["logs", "dev"]), "a\x1b]52;c;aGk=\x07b\rc\n", "what is no terminal gets the bytes");
    // A session's own log is meant for a terminal: the positive control.
    boxes.ok(["start", "-t", "dev", "--", "sh", "-c", escape]);
    boxes.ok(["wait", "dev"]);
    let mut session = Session::start(&boxes, &["logs", "-n", "1", "dev"]);
    session.expect("a\x1b]52;c;aGk=\x07b\rc");
    boxes.ok(["start", "dev", "--", "sh", "-c", "exec sleep 1000", "\x1b[2Jname"]);
    for command in [&["ps"][..], &["top", "dev"]] {
        let text = boxes.ok(command);
        assert!(!text.contains('\x1b'), "{text:?}");
    }
    assert!(boxes.ok(["ps"]).contains("\\x1b[2Jname"));
    boxes.ok(["kill", "dev"]);
}
