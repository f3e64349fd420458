//! How a server begins and ends: one at a time, by signals, beside a service manager, and what it counts meanwhile.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rootling::containerd::api::snapshots::Info;
use tonic::Code;

use super::client::code;
use super::grounds::{Server, assert_nothing_left};
use crate::environment::{BINARY, Environment, is_root, ran};
use crate::lab::eventually;

/// A store on what the tests run on; the backend that works everywhere.
fn environment() -> Option<Environment> {
    is_root().then(Environment::new)
}

const COPY: [&str; 2] = ["--backend", "copy"];

#[test]
fn one_server_serves_a_store_and_a_socket() {
    let Some(environment) = environment() else { return };
    let server = Server::start(&environment, &COPY);
    let mode = std::fs::metadata(&server.address).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let other = environment.path("other.sock");
    let said = environment.fails(["snapshotter", "--address", &other.to_string_lossy()]);
    assert!(said.contains("one process at a time serves it"), "{said}");
    assert!(!other.exists());
    // Another store, the same socket.
    let second = Environment::new();
    let said = second.fails(["snapshotter", "--address", &server.address.to_string_lossy()]);
    assert!(said.contains("is served already") && said.contains("choose another with --address"), "{said}");
    server.client().prepare("still", "").unwrap();
    server.end();
    // What a killed one left is replaced.
    let mut killed = Server::start(&environment, &COPY);
    killed.kill();
    assert!(killed.address.exists());
    let next = Server::start(&environment, &COPY);
    next.client().remove("still").unwrap();
    next.end();
    // What is no socket is left alone.
    let precious = environment.path("precious");
    std::fs::write(&precious, "mine").unwrap();
    let said = environment.fails(["snapshotter", "--address", &precious.to_string_lossy()]);
    assert!(said.contains("is there, and no socket"), "{said}");
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "mine");
}

#[test]
fn sigterm_under_load_answers_what_has_begun() {
    let Some(environment) = environment() else { return };
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut server = Server::start(&environment, &COPY);
        let kept = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for worker in 0..6 {
                let (server, kept) = (&server, &kept);
                scope.spawn(move || {
                    let client = server.client();
                    for number in 0.. {
                        let key = format!("{signal}-{worker}-{number}");
                        let prepared = client.prepare(&key, "");
                        let committed = prepared.and_then(|_| client.commit(&format!("{key} c"), &key));
                        match committed {
                            Ok(()) => kept.fetch_add(1, Ordering::Relaxed),
                            Err(status) => {
                                // What was not taken: nothing was cut short.
                                let refused = matches!(
                                    status.code(),
                                    Code::Unavailable | Code::Unknown | Code::Cancelled
                                );
                                assert!(refused, "{status}");
                                return;
                            }
                        };
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(300));
            server.signal(signal);
        });
        let status = server.wait();
        assert!(status.success(), "{status:?}: {}", server.said());
        assert!(!server.address.exists());
        let next = Server::start(&environment, &COPY);
        let client = next.client();
        let committed = client.names(&["kind==committed"]).len();
        assert!(kept.load(Ordering::Relaxed) > 0 && committed >= kept.load(Ordering::Relaxed));
        client.remove_all();
        client.cleanup().unwrap();
        next.end();
    }
    assert_nothing_left(&environment);
}

#[test]
fn clients_that_stay_connected_do_not_hold_up_the_end() {
    let Some(environment) = environment() else { return };
    let server = Server::start(&environment, &COPY);
    let idle = server.client();
    idle.prepare("a", "").unwrap();
    // Somebody who connects and says nothing at all.
    let silent = UnixStream::connect(&server.address).unwrap();
    let begun = Instant::now();
    server.end();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    drop(silent);
    assert!(idle.stat("a").is_err());
}

#[test]
fn a_call_that_goes_on_for_ever_is_left_before_a_service_manager_would_kill() {
    let Some(environment) = environment() else { return };
    let mut server = Server::start(&environment, &COPY);
    let client = server.client();
    let tree = std::path::PathBuf::from(&client.prepare("a", "").unwrap()[0].source);
    // Somebody changes the record, and does not come to an end with it.
    let mut options = std::fs::File::options();
    let change =
        options.create(true).truncate(false).write(true).open(tree.with_file_name("change")).unwrap();
    let _held = nix::fcntl::Flock::lock(change, nix::fcntl::FlockArg::LockExclusive).unwrap();
    let call = std::thread::spawn(move || {
        let info = Info { name: "a".to_owned(), ..Info::default() };
        client.update(info, &["labels.x"])
    });
    std::thread::sleep(Duration::from_millis(500));
    let begun = Instant::now();
    server.signal(Signal::SIGTERM);
    let status = server.wait();
    assert!(status.success(), "{status:?}: {}", server.said());
    // As long as it may go on, and less than `TimeoutStopSec` of the unit.
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(19) && took < Duration::from_secs(30), "{took:?}");
    assert!(call.join().unwrap().is_err());
}

#[test]
fn a_service_manager_makes_the_socket_and_is_told() {
    let Some(environment) = environment() else { return };
    let address = environment.path("given.sock");
    let listener = UnixListener::bind(&address).unwrap();
    let notified = UnixDatagram::bind(environment.path("notify")).unwrap();
    notified.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let hear = || {
        let mut bytes = [0; 64];
        let length = notified.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let mut command = Command::new("sh");
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" snapshotter --backend copy";
    command
        .args(["-c", script, BINARY])
        .env("ROOTLING_ROOT", environment.store())
        .env("NOTIFY_SOCKET", environment.path("notify"))
        .stdin(Stdio::from(OwnedFd::from(listener)));
    let mut server = Server::of(command, address.clone());
    assert_eq!(hear(), "READY=1");
    server.client().prepare("a", "").unwrap();
    server.signal(Signal::SIGTERM);
    assert_eq!(hear(), "STOPPING=1");
    assert!(server.wait().success());
    // It is not the server's to remove.
    assert!(address.exists());
}

#[test]
fn looks_do_not_wait_for_work() {
    let Some(environment) = environment() else { return };
    let server = Server::start(&environment, &COPY);
    let client = server.client();
    client.prepare("tmp", "").unwrap();
    let tree = client.mounts("tmp").unwrap()[0].source.clone();
    for directory in 0..2 {
        let directory = std::path::Path::new(&tree).join(directory.to_string());
        std::fs::create_dir(&directory).unwrap();
        (0..100).for_each(|file| std::fs::write(directory.join(file.to_string()), "x").unwrap());
    }
    client.commit("big", "tmp").unwrap();
    let done = AtomicBool::new(false);
    let mut looks = 0;
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            // More than there are places for.
            std::thread::scope(|scope| {
                for number in 0..40 {
                    let server = &server;
                    scope.spawn(move || server.client().prepare(&format!("fork {number}"), "big").unwrap());
                }
            });
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            client.stat("big").unwrap();
            client.names(&["kind==committed"]);
            looks += 1;
        }
        load.join().unwrap();
    });
    // One that waited for a place would have been among the last.
    assert!(looks >= 10, "{looks} looks");
    client.remove_all();
    client.cleanup().unwrap();
    server.end();
    assert_nothing_left(&environment);
}

#[test]
fn what_was_removed_is_destroyed_when_nothing_goes_on() {
    let Some(environment) = environment() else { return };
    let server = Server::start(&environment, &COPY);
    let client = server.client();
    for key in ["a", "b", "c"] {
        client.prepare(key, "").unwrap();
        client.remove(key).unwrap();
    }
    let trash = environment.store().join("trash");
    eventually("nobody asked for it", || std::fs::read_dir(&trash).unwrap().count() == 0);
    server.end();
    assert_nothing_left(&environment);
}

fn page(stream: &mut (impl Read + Write), request: &str) -> String {
    stream.write_all(format!("{request} HTTP/1.1\r\nHost: here\r\n\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn what_is_counted_can_be_read() {
    let Some(environment) = environment() else { return };
    let place = environment.path("metrics.sock");
    let server = Server::start(
        &environment,
        &["--backend", "copy", "--metrics", &format!("unix:{}", place.display())],
    );
    let client = server.client();
    client.prepare("a", "").unwrap();
    client.prepare("b", "").unwrap();
    client.commit("c", "b").unwrap();
    assert_eq!(code(client.prepare("a", "")), Code::AlreadyExists);
    assert_eq!(code(client.stat("none")), Code::NotFound);
    let text = page(&mut UnixStream::connect(&place).unwrap(), "GET /metrics");
    for line in [
        "HTTP/1.1 200 OK\r",
        "Content-Type: text/plain; version=0.0.4; charset=utf-8\r",
        "# TYPE rootling_requests_total counter",
        "rootling_requests_total{method=\"Prepare\",code=\"OK\"} 2",
        "rootling_requests_total{method=\"Prepare\",code=\"AlreadyExists\"} 1",
        "rootling_requests_total{method=\"Stat\",code=\"NotFound\"} 1",
        "rootling_requests_running{method=\"Prepare\"} 0",
        "# TYPE rootling_request_seconds histogram",
        "rootling_request_seconds_bucket{method=\"Prepare\",le=\"+Inf\"} 3",
        "rootling_request_seconds_count{method=\"Commit\"} 1",
        "rootling_held_trees{kind=\"active\"} 1",
        "rootling_held_trees{kind=\"committed\"} 1",
        "rootling_held_trees{kind=\"view\"} 0",
        "rootling_trash_trees 0",
    ] {
        assert!(text.lines().any(|found| found == line.trim_end()), "{line} is not in {text}");
    }
    let value = |name: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(value("rootling_store_free_bytes ") > 0);
    assert!(value("rootling_store_free_bytes ") <= value("rootling_store_bytes "));
    let refused = page(&mut UnixStream::connect(&place).unwrap(), "GET /elsewhere");
    assert!(refused.starts_with("HTTP/1.1 404 "), "{refused}");
    let refused = page(&mut UnixStream::connect(&place).unwrap(), "DELETE /metrics");
    assert!(refused.starts_with("HTTP/1.1 405 "), "{refused}");
    server.end();
    assert!(!place.exists());

    let server = Server::start(&environment, &["--backend", "copy", "--metrics", "127.0.0.1:0"]);
    let said = server.said();
    let address = said.split("metrics at http://").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
    let text = page(&mut TcpStream::connect(address).unwrap(), "GET /metrics");
    assert!(text.contains("rootling_held_trees{kind=\"committed\"} 1"), "{text}");
    server.end();
    let ran = environment.run(["snapshotter", "--metrics", "0.0.0.0:9100"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("others could read"), "{}", ran.stderr);
}

#[test]
fn only_root_serves_and_a_path_must_fit_mounts() {
    let Some(environment) = environment() else { return };
    let strange = environment.path("a,b");
    environment.ok(["--root", &strange.to_string_lossy(), "init"]);
    let address = environment.path("s.sock");
    let arguments =
        ["--root", &strange.to_string_lossy(), "snapshotter", "--address", &address.to_string_lossy()];
    let said = environment.fails(arguments);
    assert!(
        said.contains("which options of mount(2) cannot carry") && said.contains("symbolic link"),
        "{said}"
    );
    let long = environment.path(&"x".repeat(120));
    let said = environment.fails(["snapshotter", "--address", &long.to_string_lossy()]);
    assert!(said.contains("107 bytes"), "{said}");
    // The way out that was named works.
    let link = environment.path("plain");
    std::os::unix::fs::symlink(&strange, &link).unwrap();
    let mut command = environment.command();
    command.arg("--root").arg(&link).args(["snapshotter", "--backend", "copy", "--address"]).arg(&address);
    let server = Server::of(command, address.clone());
    let mounts = server.client().prepare("a", "").unwrap();
    assert!(mounts[0].source.starts_with(&*link.to_string_lossy()), "{mounts:?}");
    server.end();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", BINARY, "snapshotter"]);
    let ran = ran(command.env("ROOTLING_ROOT", "/nonexistent").output().unwrap());
    assert_ne!(ran.code, 0);
}
