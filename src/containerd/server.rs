//! The server: its runtime, its services on one socket, and its end.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rootling_backends::{Context, Error, ErrorKind, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;

use super::calls::{Calls, THREADS};
use super::mounts;
use super::page::Listening;
use super::services::Services;
use super::socket::Socket;
use crate::store::HeldTrees;

/// How long calls may go on once the end was asked for, whoever waits for them: less than `TimeoutStopSec` of the unit.
const LAST: Duration = Duration::from_secs(20);

/// How long an answer may take to be sent after that.
const WORDS: Duration = Duration::from_millis(500);

/// How often it is looked whether something is to be destroyed.
const SWEEP: Duration = Duration::from_secs(1);

/// What becomes of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Calls are answered.
    Ready,
    /// The end was asked for: no more are taken.
    Stopping,
}

/// A server of trees that containerd holds.
pub struct Server {
    calls: Calls,
    containerd: PathBuf,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("store", &self.calls.held.store().root()).finish_non_exhaustive()
    }
}

impl Server {
    /// Takes what is to be served. A store whose path mounts cannot carry is an error of kind `FailedPrecondition`.
    ///
    /// `containerd` is the socket of whoever asks for trees: where the blobs of layers are. It need not be there yet.
    pub fn new(held: HeldTrees, containerd: &Path) -> Result<Self> {
        mounts::plain(held.store().root())?;
        Ok(Self { calls: Calls::new(held), containerd: containerd.to_owned() })
    }

    /// Serves until SIGTERM or SIGINT; then calls that have begun are answered, and the socket is removed: up to twenty seconds in all.
    ///
    /// What is in the way of a call is its own error. A kill leaves the store as a kill of any command does.
    pub fn run(&self, socket: Socket, metrics: Option<Listening>, told: &dyn Fn(Moment)) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(THREADS)
            .thread_name("rootling-rpc")
            .enable_all()
            .build()
            .context(|| "start threads")?;
        let metrics = metrics.map(Arc::new);
        if let Some(listening) = metrics.clone() {
            let calls = self.calls.clone();
            let answering = std::thread::Builder::new().name("rootling-metrics".to_owned());
            // It ends with the process: nothing that it does has to be finished.
            answering.spawn(move || listening.answer(&calls)).context(|| "start a thread")?;
        }
        let served = runtime.block_on(self.serve(&socket.listener, told));
        socket.remove();
        if let Some(metrics) = metrics {
            metrics.remove();
        }
        // Calls that nobody waits for any more, and what is being destroyed.
        let left = served.as_ref().map_or(LAST, |asked| LAST.saturating_sub(asked.elapsed()));
        runtime.shutdown_timeout(left);
        served.map(drop)
    }

    /// Returns when the end was asked for.
    async fn serve(&self, listener: &UnixListener, told: &dyn Fn(Moment)) -> Result<Instant> {
        let mut term = signal(SignalKind::terminate()).context(|| "sigaction(SIGTERM)")?;
        let mut int = signal(SignalKind::interrupt()).context(|| "sigaction(SIGINT)")?;
        let listener = listener.try_clone().context(|| "dup(listener)")?;
        listener.set_nonblocking(true).context(|| "fcntl(listener, O_NONBLOCK)")?;
        let listener = tokio::net::UnixListener::from_std(listener).context(|| "epoll_ctl(listener)")?;
        // Out of descriptors, or gone again: others may still come.
        let incoming = UnixListenerStream::new(listener).then(async |taken| {
            if taken.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            taken
        });
        let (end, ended) = oneshot::channel::<()>();
        let serving = tonic::transport::Server::builder().serve_with_incoming_shutdown(
            Services::new(&self.calls, &self.containerd)?,
            incoming,
            async { drop(ended.await) },
        );
        tokio::pin!(serving);
        tokio::spawn(sweep(self.calls.clone()));
        told(Moment::Ready);
        let served = tokio::select! {
            served = &mut serving => Some(served),
            _ = term.recv() => None,
            _ = int.recv() => None,
        };
        let asked = Instant::now();
        let served = match served {
            Some(served) => served,
            None => {
                told(Moment::Stopping);
                drop(end);
                tokio::select! {
                    served = serving => served,
                    () = self.are_answered(asked) => Ok(()),
                }
            }
        };
        served.map(|()| asked).map_err(|error| Error::new(ErrorKind::Io, format!("serve: {error}")))
    }

    /// Waits until no call is running, and what was answered had time to be sent, to clients that do not hang up as well.
    async fn are_answered(&self, asked: Instant) {
        let mut quiet_since = asked;
        while quiet_since.elapsed() < WORDS {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if self.calls.metrics.running() > 0 {
                quiet_since = Instant::now();
            }
            if asked.elapsed() > LAST {
                return log::warn!("calls go on after {} seconds: they are left", LAST.as_secs());
            }
        }
    }
}

/// Destroys what was removed, whenever nothing else goes on.
async fn sweep(calls: Calls) {
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        ticks.tick().await;
        if !calls.sweep.take() {
            continue;
        }
        let held = calls.held.clone();
        match tokio::task::spawn_blocking(move || held.cleanup()).await {
            Ok(Ok(())) => {}
            // What comes next tries again, and so does the next start.
            Ok(Err(error)) => log::warn!("destroy what was removed: {}", error.chain().join(": ")),
            Err(error) => log::warn!("destroy what was removed: {error}"),
        }
    }
}
