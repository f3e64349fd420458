//! What the services have in common: a call that may wait is done by a thread that may block; each is counted, and its error told as gRPC's.
//!
//! Calls that work on trees take one of so many places. There are more threads than places, so that one that only looks into memory
//! never waits for them. A call that has begun is done to its end, whether the client waits for it or not.

use std::sync::Arc;
use std::time::Instant;

use rootling_backends::Result;
use tokio::sync::Semaphore;
use tonic::{Code, Response, Status};

use super::metrics::Metrics;
use super::status::{code, status};
use super::sweep::Sweep;
use crate::store::HeldTrees;

/// Calls that work on trees at once. Most wait for the disk.
const PLACES: usize = 32;

/// Threads for calls.
pub(super) const THREADS: usize = 2 * PLACES;

/// How calls are done; what it clones is shared.
#[derive(Clone)]
pub(super) struct Calls {
    /// What is served.
    pub(super) held: Arc<HeldTrees>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) sweep: Arc<Sweep>,
    places: Arc<Semaphore>,
}

impl Calls {
    pub(super) fn new(held: HeldTrees) -> Self {
        let places = Arc::new(Semaphore::new(PLACES));
        Self { held: Arc::new(held), metrics: Arc::default(), sweep: Arc::default(), places }
    }

    /// Does a call that looks into memory for a moment, and never at the disk: at once, for handing it to a thread would take several times
    /// as long. containerd asks so of every tree that it lists.
    pub(super) fn glance<T>(
        &self,
        method: &'static str,
        act: impl FnOnce(&HeldTrees) -> Result<T>,
    ) -> Result<Response<T>, Status> {
        self.metrics.begin(method);
        told(method, counted(&self.metrics, method, Instant::now(), || act(&self.held)))
    }

    /// Does a call that looks into memory, but maybe also at the disk, or for long.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        method: &'static str,
        act: impl FnOnce(&HeldTrees) -> Result<T> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        self.metrics.begin(method);
        self.hand_over(method, Instant::now(), act).await
    }

    /// Does a call that works on trees.
    pub(super) async fn work<T: Send + 'static>(
        &self,
        method: &'static str,
        act: impl FnOnce(&HeldTrees) -> Result<T> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let begun = Instant::now();
        let waiting = Waiting::begin(self, method);
        let place = self.places.clone().acquire_owned().await.expect("nobody closes it");
        waiting.end();
        let sweep = self.sweep.clone();
        self.hand_over(method, begun, move |held| {
            let _place = place;
            let _running = sweep.running();
            act(held)
        })
        .await
    }

    async fn hand_over<T: Send + 'static>(
        &self,
        method: &'static str,
        begun: Instant,
        act: impl FnOnce(&HeldTrees) -> Result<T> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let (held, metrics) = (self.held.clone(), self.metrics.clone());
        let done = tokio::task::spawn_blocking(move || counted(&metrics, method, begun, || act(&held)));
        match done.await {
            Ok(done) => told(method, done),
            // One that was not begun ends with the server.
            Err(_) => Err(Status::unavailable("the server ends")),
        }
    }
}

/// Does a call and counts it. A panic is that call's alone.
fn counted<T>(
    metrics: &Metrics,
    method: &'static str,
    begun: Instant,
    act: impl FnOnce() -> Result<T>,
) -> std::thread::Result<Result<T>> {
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
    let code = match &done {
        Ok(Ok(_)) => Code::Ok,
        Ok(Err(error)) => code(error.kind()),
        Err(_) => Code::Internal,
    };
    metrics.end(method, code, begun.elapsed());
    done
}

/// Tells what came of a call, in gRPC's words.
fn told<T>(method: &str, done: std::thread::Result<Result<T>>) -> Result<Response<T>, Status> {
    match done {
        Ok(Ok(done)) => Ok(Response::new(done)),
        Ok(Err(error)) => {
            let status = status(&error);
            let is_ours = matches!(status.code(), Code::Internal | Code::DataLoss | Code::ResourceExhausted);
            let level = if is_ours { log::Level::Warn } else { log::Level::Debug };
            log::log!(level, "{method}: {}", status.message());
            Err(status)
        }
        // The panic was told on stderr, with its place.
        Err(_) => Err(Status::internal(format!("{method}: the server failed, see what it says"))),
    }
}

/// A call that waits for a place, and may be given up meanwhile.
struct Waiting<'a> {
    calls: &'a Calls,
    method: &'static str,
}

impl<'a> Waiting<'a> {
    fn begin(calls: &'a Calls, method: &'static str) -> Self {
        calls.metrics.begin(method);
        Self { calls, method }
    }

    fn end(self) {
        std::mem::forget(self);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.calls.metrics.give_up(self.method);
    }
}
