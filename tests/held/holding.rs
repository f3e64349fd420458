//! The program that holds trees (`holder.rs`), as a test talks to it.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

pub(crate) fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(path.exists(), "{path:?} is missing: `cargo build --examples` makes it");
    path
}

/// The program that holds trees, running.
pub(crate) struct Holder {
    pub(crate) child: Child,
    calls: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Holder {
    pub(crate) fn try_open(store: &Path, kind: &str) -> Result<Self, Value> {
        let mut command = Command::new(example("holder"));
        command.arg(store).arg(kind).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let calls = child.stdin.take();
        let mut holder = Self { answers: BufReader::new(child.stdout.take().unwrap()), child, calls };
        let opened = holder.answer();
        if opened["ok"] == "open" { Ok(holder) } else { Err(opened) }
    }

    #[track_caller]
    pub(crate) fn open(store: &Path, kind: &str) -> Self {
        Self::try_open(store, kind).unwrap_or_else(|error| panic!("{error}"))
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    pub(crate) fn call(&mut self, call: &Value) -> Value {
        writeln!(self.calls.as_mut().unwrap(), "{call}").unwrap();
        self.answer()
    }

    /// Does what must succeed.
    #[track_caller]
    pub(crate) fn ok(&mut self, call: Value) -> Value {
        let mut answer = self.call(&call);
        assert!(answer.get("ok").is_some(), "{call}: {answer}");
        answer["ok"].take()
    }

    /// Does what must fail; returns the kind of error.
    #[track_caller]
    pub(crate) fn fails(&mut self, call: Value) -> String {
        let answer = self.call(&call);
        assert!(answer.get("error").is_some(), "{call}: {answer}");
        answer["error"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub(crate) fn sh(&mut self, key: &str, script: &str) -> String {
        self.ok(json!(["sh", key, script])).as_str().unwrap().to_owned()
    }

    pub(crate) fn stat(&mut self, key: &str) -> Value {
        self.ok(json!(["stat", key]))
    }

    /// Prepares, does something in it, commits.
    #[track_caller]
    pub(crate) fn layer(&mut self, name: &str, parent: &str, script: &str) {
        let key = format!("making {name}");
        self.ok(json!(["prepare", key, parent, {}]));
        self.sh(&key, script);
        self.ok(json!(["commit", name, key, "", {}]));
    }

    /// Keys of all, in order.
    pub(crate) fn keys(&mut self) -> Vec<String> {
        let all = self.ok(json!(["walk"]));
        all.as_array().unwrap().iter().map(|info| info["key"].as_str().unwrap().to_owned()).collect()
    }

    /// Removes everything, children first.
    #[track_caller]
    pub(crate) fn remove_all(&mut self) {
        let mut left = self.keys();
        while !left.is_empty() {
            for key in &left {
                self.call(&json!(["remove", key]));
            }
            let now = self.keys();
            assert!(now.len() < left.len(), "none of {left:?} can be removed");
            left = now;
        }
        self.ok(json!(["cleanup"]));
    }

    pub(crate) fn close(mut self) {
        drop(self.calls.take());
        assert!(self.child.wait().unwrap().code().is_some());
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.calls.take());
        // Does nothing to a process that was waited for.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
