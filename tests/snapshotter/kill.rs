//! kill -9 in the middle of everything: what was acknowledged is there, and whatever is there can be removed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use rootling::containerd::api::snapshots::Kind;
use tonic::{Code, Status};

use super::client::Client;
use super::grounds::{Server, assert_nothing_left, backends};
use super::mounting::Mounted;
use crate::environment::Environment;
use crate::grounds::on_file_systems;

const ROUNDS: u64 = 6;
const WORKERS: u64 = 6;

/// What one worker knows of its keys.
#[derive(Default)]
struct Known {
    /// What was acknowledged: what there is, with its parent.
    sure: BTreeMap<String, (Kind, String)>,
    /// Keys of the call that was cut short: they may be as before, or as after.
    unsure: BTreeSet<String>,
    /// What a worker has called its trees so far.
    count: u64,
}

#[test]
fn what_was_acknowledged_survives_kills_under_load() {
    on_file_systems(|environment, sort| {
        for backend in backends(sort) {
            rounds(environment, backend);
        }
    });
}

fn rounds(environment: &Environment, backend: &str) {
    let mut all: Vec<Known> = (0..WORKERS).map(|_| Known::default()).collect();
    for round in 0..ROUNDS {
        let mut server = Server::start(environment, &["--backend", backend]);
        all.iter_mut().for_each(|known| check(&server.client(), known, environment));
        // Also with nothing going on but what the start does.
        environment.ok(["fsck"]);
        let address = server.address.as_path();
        std::thread::scope(|scope| {
            for (worker, known) in all.iter_mut().enumerate() {
                scope.spawn(move || work(address, worker as u64, round, known, environment));
            }
            // From the first calls on to a store that is well filled.
            std::thread::sleep(Duration::from_millis(40 + 170 * round));
            server.signal(Signal::SIGKILL);
        });
        server.wait();
    }
    let server = Server::start(environment, &["--backend", backend]);
    let client = server.client();
    all.iter_mut().for_each(|known| check(&client, known, environment));
    let commits =
        all.iter().flat_map(|known| known.sure.values()).filter(|(kind, _)| *kind == Kind::Committed);
    assert!(commits.count() > 0, "{backend}: nothing was going on");
    client.remove_all();
    client.cleanup().unwrap();
    server.end();
    assert_nothing_left(environment);
}

/// Compares what there is with what was acknowledged; what was unsure is sure then.
fn check(client: &Client, known: &mut Known, environment: &Environment) {
    for (key, (kind, parent)) in &known.sure {
        if known.unsure.contains(key) {
            continue;
        }
        let info = client.stat(key).unwrap();
        assert_eq!((info.kind(), &info.parent), (*kind, parent), "{key}");
    }
    for key in std::mem::take(&mut known.unsure) {
        match client.stat(&key) {
            Ok(info) => drop(known.sure.insert(key, (info.kind(), info.parent))),
            Err(status) => {
                assert_eq!(status.code(), Code::NotFound);
                known.sure.remove(&key);
            }
        }
    }
    // The content of some of what is committed.
    let committed = known.sure.iter().filter(|(_, (kind, _))| *kind == Kind::Committed);
    for (name, _) in committed.take(3) {
        let key = format!("look {name}");
        let at = environment.path(&format!("look-{}", name.replace('/', "-")));
        let mounted = Mounted::all(&client.view(&key, name).unwrap(), &at);
        let text = fs::read_to_string(mounted.path().join("name")).unwrap();
        assert_eq!(text, name.as_str());
        drop(mounted);
        client.remove(&key).unwrap();
    }
}

/// Works until the server is gone.
fn work(address: &Path, worker: u64, round: u64, known: &mut Known, environment: &Environment) {
    let client = Client::connect(address);
    while step(&client, worker, round, known, environment).is_ok() {}
}

/// One tree of a worker: prepared, written, and committed or removed. The error is the server's end.
fn step(
    client: &Client,
    worker: u64,
    round: u64,
    known: &mut Known,
    environment: &Environment,
) -> Result<(), Status> {
    known.count += 1;
    let number = known.count;
    let (key, name) = (format!("w{worker}/{round}/{number} a"), format!("w{worker}/{round}/{number}"));
    let mut names = known.sure.iter().filter(|(_, (kind, _))| *kind == Kind::Committed).map(|(name, _)| name);
    // On the last one of all, on the first, on nothing.
    let parent = match number % 3 {
        0 => String::new(),
        1 => names.next().cloned().unwrap_or_default(),
        _ => names.next_back().cloned().unwrap_or_default(),
    };
    let mounts = known.call(&[&key], || client.prepare(&key, &parent))?;
    known.sure.insert(key.clone(), (Kind::Active, parent.clone()));
    let at = environment.path(&format!("at-{worker}"));
    let mounted = Mounted::all(&mounts, &at);
    fs::write(mounted.path().join("name"), &name).unwrap();
    drop(mounted);
    if number % 4 == 3 {
        known.call(&[&key], || client.remove(&key))?;
        known.sure.remove(&key);
        return Ok(());
    }
    known.call(&[&key, &name], || client.commit(&name, &key))?;
    known.sure.remove(&key);
    known.sure.insert(name.clone(), (Kind::Committed, parent));
    let view = format!("{name} v");
    known.call(&[&view], || client.view(&view, &name))?;
    known.sure.insert(view.clone(), (Kind::View, name.clone()));
    if number.is_multiple_of(2) {
        known.call(&[&view], || client.remove(&view))?;
        known.sure.remove(&view);
        known.call(&[&name], || client.remove(&name))?;
        known.sure.remove(&name);
    }
    Ok(())
}

impl Known {
    /// Makes a call that is about some keys, of which nothing is known until it is answered.
    fn call<T>(&mut self, keys: &[&str], call: impl FnOnce() -> Result<T, Status>) -> Result<T, Status> {
        self.unsure.extend(keys.iter().map(|key| (*key).to_owned()));
        match call() {
            Ok(done) => {
                self.unsure.retain(|key| !keys.contains(&key.as_str()));
                Ok(done)
            }
            Err(status) => {
                let is_cut = matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled);
                assert!(is_cut, "{keys:?}: {status}");
                Err(status)
            }
        }
    }
}
