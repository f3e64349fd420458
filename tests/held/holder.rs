//! Holds trees of a store as containerd's snapshotter does, by what it is told: a line of JSON for each call, and one for the answer.
//!
//! ```text
//! holder STORE [KIND [CALL...]]       KIND is a backend, or `-`; without calls they are read from the standard input, until it ends
//!
//! ["prepare", KEY, PARENT, {LABELS}]  ["view", KEY, PARENT, {LABELS}]  ["mounts", KEY]
//! ["commit", NAME, KEY, PARENT, {LABELS}]  ["remove", KEY]  ["label", KEY, {LABELS}]  ["stat", KEY]  ["walk"]  ["usage", KEY]
//! ["cleanup"]  ["sh", KEY, SCRIPT]  ["of", ID]
//! ["together", [CALL...]]             each in a thread of its own
//! ["time", COUNT, CALL]               that many times, `#` in it is the number; the answer is in nanoseconds
//! ```
//!
//! `sh` runs a script in the tree, as it is shown to the holder. The answer is `{"ok": ...}`, or `{"error": KIND, "says": TEXT}`.

#![expect(clippy::print_stdout, reason = "that is what it is for")]

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use rootling::store::{HeldInfo, HeldKind, HeldTrees, ObjectId, Store};
use rootling_backends::{Context, Error, ErrorKind, Kind, Mount, Result};
use serde_json::{Value, json};

fn main() -> ExitCode {
    rootling_backends::sys::clear_umask();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let kind = arguments.get(1).and_then(|name| Kind::ALL.into_iter().find(|kind| kind.name() == name));
    let opened = Store::open(Path::new(&arguments[0])).and_then(|store| HeldTrees::open(store, kind));
    let held = match opened {
        Ok(held) => held,
        Err(error) => {
            println!("{}", said(Err(error)));
            return ExitCode::FAILURE;
        }
    };
    let mut went_well = true;
    let mut answer = |call: &str| {
        let call = serde_json::from_str(call).expect("a call is JSON");
        let answer = said(called(&held, &call));
        went_well &= answer.get("ok").is_some();
        println!("{answer}");
        std::io::stdout().flush().expect("somebody reads");
    };
    match arguments.get(2..) {
        Some(calls) if !calls.is_empty() => calls.iter().for_each(|call| answer(call)),
        _ => {
            println!("{}", json!({ "ok": "open" }));
            std::io::stdin().lock().lines().for_each(|line| answer(&line.expect("text")));
        }
    }
    if went_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn said(result: Result<Value>) -> Value {
    match result {
        Ok(value) => json!({ "ok": value }),
        Err(error) => json!({ "error": format!("{:?}", error.kind()), "says": error.chain().join(": ") }),
    }
}

fn called(held: &HeldTrees, call: &Value) -> Result<Value> {
    let text = |index: usize| call[index].as_str().unwrap_or_default();
    let labels = |index: usize| -> BTreeMap<String, String> {
        let given = call[index].as_object().into_iter().flatten();
        given.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
    };
    match text(0) {
        "prepare" => held.prepare(text(1), text(2), HeldKind::Active, labels(3)).map(shown),
        "view" => held.prepare(text(1), text(2), HeldKind::View, labels(3)).map(shown),
        "mounts" => held.mounts(text(1)).map(shown),
        "commit" => held.commit(text(1), text(2), text(3), labels(4)).map(Value::from),
        "remove" => held.remove(text(1)).map(Value::from),
        "label" => held.set_labels(text(1), |known| *known = labels(2)).map(|info| told(&info)),
        "stat" => held.stat(text(1)).map(|info| told(&info)),
        "walk" => Ok(held.walk().iter().map(told).collect()),
        "of" => Ok(held.of_object(&ObjectId::parse(text(1))?).map_or(Value::Null, |info| told(&info))),
        "usage" => held.usage(text(1)).map(|usage| json!([usage.bytes, usage.inodes])),
        "cleanup" => held.cleanup().map(Value::from),
        "sh" => script(held, text(1), text(2)).map(Value::from),
        "together" => Ok(together(held, call[1].as_array().map_or(&[], Vec::as_slice))),
        "time" => timed(held, call[1].as_u64().unwrap_or_default(), &call[2].to_string()).map(Value::from),
        _ => Err(Error::new(ErrorKind::InvalidInput, format!("no call: {call}"))),
    }
}

fn shown(shown: rootling::store::HeldMount) -> Value {
    let layers = match &shown.mount {
        Mount::Bind { .. } => 1,
        Mount::Overlay(overlay) | Mount::FuseOverlay(overlay) => overlay.lowers.len(),
    };
    json!({ "mount": shown.mount, "access": format!("{:?}", shown.access), "layers": layers })
}

fn told(info: &HeldInfo) -> Value {
    json!({
        "key": info.key, "parent": info.parent, "kind": info.kind, "labels": info.labels, "id": info.id,
        "created": info.created.to_string(), "updated": info.updated.to_string(),
    })
}

fn script(held: &HeldTrees, key: &str, script: &str) -> Result<String> {
    let shown = held.mounts(key)?;
    let mount = shown.mount.open(shown.access)?;
    let root = format!("/proc/{}/fd/{}", std::process::id(), mount.as_raw_fd());
    let output = Command::new("sh").args(["-euc", script]).current_dir(&root).output();
    let output = output.context(|| "exec(sh)")?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message = format!("{script}: {}", String::from_utf8_lossy(&output.stderr));
    Err(Error::new(ErrorKind::Io, message))
}

fn together(held: &HeldTrees, calls: &[Value]) -> Value {
    std::thread::scope(|scope| {
        let calls: Vec<_> = calls.iter().map(|call| scope.spawn(move || said(called(held, call)))).collect();
        calls.into_iter().map(|call| call.join().expect("no call panics")).collect()
    })
}

fn timed(held: &HeldTrees, count: u64, call: &str) -> Result<u64> {
    let calls: Vec<Value> = (0..count)
        .map(|number| serde_json::from_str(&call.replace('#', &number.to_string())).expect("it was JSON"))
        .collect();
    let start = Instant::now();
    for call in &calls {
        called(held, call)?;
    }
    Ok(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX))
}
