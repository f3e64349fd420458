//! containerd's own store of blobs, as a thread sees it that may block: blobs to read, and blobs that are being written.
//!
//! ```text
//! Read   ── digest ──────────────────> containerd ── messages of 1 MiB ──> [Blob] ──> read(2)'s likeness
//! Write  <── write(2)'s likeness ── [Ingest] ── STAT, WRITE ... WRITE, COMMIT ──> containerd
//!                                           <── an answer to each ───────────
//! ```
//!
//! A message or two are in memory at a time, whatever the size of the blob: HTTP/2's windows keep containerd from sending what nobody has read,
//! and a message is sent only once the one before was answered. The metadata of the request that is being served is sent along (the
//! namespace, without which containerd knows no blob, and the lease, without which it would collect what was written).

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rootling_backends::{Error, ErrorKind, Result};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use super::super::api::content::content_client::ContentClient;
use super::super::api::content::{
    AbortRequest, Info, InfoRequest, ReadContentRequest, ReadContentResponse, UpdateRequest, WriteAction,
    WriteContentRequest, WriteContentResponse,
};
use crate::image::Digest;

/// Bytes of a blob in one message, as containerd's own client has it.
const CHUNK_BYTES: usize = 1 << 20;
/// Bytes of the largest message: containerd's own limit.
const MESSAGE_BYTES: usize = 16 << 20;
/// Bytes on their way that nobody has read, of one blob and of all.
const WINDOW_BYTES: u32 = 4 << 20;
const WINDOWS_BYTES: u32 = 32 << 20;
/// How long another writer of the same name is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// What begins the names of metadata that is containerd's.
const METADATA: &str = "containerd-";

/// Returns the way to containerd's socket. It need not be there yet, and may be made anew: each call connects where it must.
///
/// Must be called inside a runtime.
pub(super) fn channel(socket: &Path) -> Result<Channel> {
    let refuse =
        |why: String| Error::new(ErrorKind::InvalidInput, format!("{socket:?} is no socket's path: {why}"));
    let path = socket.to_str().ok_or_else(|| refuse("it is no UTF-8".to_owned()))?;
    let endpoint =
        Endpoint::from_shared(format!("unix://{path}")).map_err(|error| refuse(error.to_string()))?;
    Ok(endpoint
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOWS_BYTES)
        .connect_lazy())
}

/// The store of blobs, as the client sees it whose request is served.
#[derive(Debug, Clone)]
pub(super) struct Content {
    client: ContentClient<Channel>,
    runtime: Handle,
    metadata: MetadataMap,
    /// Does nobody wait for what is done with it any more?
    is_given_up: Arc<AtomicBool>,
}

impl Content {
    /// `metadata` is that of the request. Must be called inside the runtime, and used outside it, by threads that may block.
    pub(super) fn new(channel: Channel, metadata: &MetadataMap, is_given_up: Arc<AtomicBool>) -> Self {
        let client = ContentClient::new(channel).max_decoding_message_size(MESSAGE_BYTES);
        let mut passed_on = MetadataMap::new();
        for entry in metadata.iter() {
            if let KeyAndValueRef::Ascii(key, value) = entry
                && key.as_str().starts_with(METADATA)
            {
                passed_on.append(key, value.clone());
            }
        }
        Self { client, runtime: Handle::current(), metadata: passed_on, is_given_up }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.metadata.clone();
        request
    }

    /// Opens a blob. One that is not there is an error of kind `NotFound`.
    pub(super) fn read(&self, digest: &Digest) -> Result<Blob> {
        let request = self.request(ReadContentRequest { digest: digest.to_string(), offset: 0, size: 0 });
        let mut client = self.client.clone();
        let messages = self.runtime.block_on(client.read(request));
        let messages =
            messages.map_err(|status| told(&status, || format!("read blob {digest} of containerd")))?;
        Ok(Blob {
            content: self.clone(),
            digest: digest.clone(),
            messages: messages.into_inner(),
            message: Vec::new(),
            used: 0,
        })
    }

    /// Begins a blob that is called `reference` while it is written; what was written under this name before, and never finished, is begun anew.
    ///
    /// Somebody else who is writing under the name is waited for, but not for ever: then the error is of kind `Busy`.
    pub(super) fn write(&self, reference: &str) -> Result<Ingest> {
        let began = Instant::now();
        let mut pause = Duration::from_millis(20);
        loop {
            match self.runtime.block_on(self.begin(reference)) {
                Err(status) if status.code() == Code::Unavailable && began.elapsed() < PATIENCE => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                begun => return begun.map_err(|status| told(&status, || intent(reference))),
            }
        }
    }

    async fn begin(&self, reference: &str) -> Result<Ingest, Status> {
        let (requests, outgoing) = mpsc::channel(1);
        let stat = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: reference.to_owned(),
            ..WriteContentRequest::default()
        };
        // The server answers no call before it was told something.
        requests.try_send(stat).map_err(|_| Status::internal("a new channel has no room"))?;
        let mut client = self.client.clone();
        let answers = client.write(self.request(ReceiverStream::new(outgoing))).await?.into_inner();
        let mut ingest = Ingest {
            content: self.clone(),
            reference: reference.to_owned(),
            requests: Some(requests),
            answers,
            chunk: Vec::with_capacity(CHUNK_BYTES),
            offset: 0,
            awaited: 1,
        };
        ingest.settle().await?;
        Ok(ingest)
    }

    /// Returns what is known of a blob.
    fn info(&self, digest: &Digest) -> Result<Info> {
        let request = self.request(InfoRequest { digest: digest.to_string() });
        let answer = self.runtime.block_on(self.client.clone().info(request));
        let intent = || format!("look at blob {digest} of containerd");
        let answer = answer.map_err(|status| told(&status, intent))?.into_inner();
        answer
            .info
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, "containerd answered nothing").context(intent()))
    }

    /// Gives a blob those of the labels that it has none of; others stay as they are.
    pub(super) fn label(&self, digest: &Digest, labels: &HashMap<String, String>) -> Result<()> {
        let info = self.info(digest)?;
        let missing: HashMap<String, String> = labels
            .iter()
            .filter(|(key, _)| !info.labels.contains_key(*key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let paths = missing.keys().map(|key| format!("labels.{key}")).collect();
        let request = UpdateRequest {
            info: Some(Info { digest: digest.to_string(), labels: missing, ..Info::default() }),
            update_mask: Some(prost_types::FieldMask { paths }),
        };
        let answer = self.runtime.block_on(self.client.clone().update(self.request(request)));
        answer.map(drop).map_err(|status| told(&status, || format!("label blob {digest} of containerd")))
    }

    /// Fails once nobody waits for the answer.
    fn require_wanted(&self) -> io::Result<()> {
        if self.is_given_up.load(Ordering::Relaxed) {
            return Err(io::Error::other("the client that asked for it has gone"));
        }
        Ok(())
    }
}

/// A blob that is being read, from its first byte to its last.
#[derive(Debug)]
pub(super) struct Blob {
    content: Content,
    digest: Digest,
    messages: Streaming<ReadContentResponse>,
    message: Vec<u8>,
    used: usize,
}

impl Read for Blob {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.used == self.message.len() {
            self.content.require_wanted()?;
            let next = self.content.runtime.block_on(self.messages.message());
            let next = next.map_err(|status| {
                as_io(&told(&status, || format!("read blob {} of containerd", self.digest)))
            })?;
            let Some(next) = next else { return Ok(0) };
            (self.message, self.used) = (next.data, 0);
        }
        let length = into.len().min(self.message.len() - self.used);
        into[..length].copy_from_slice(&self.message[self.used..self.used + length]);
        self.used += length;
        Ok(length)
    }
}

/// A blob that is being written. What is not committed is to be [`abort`](Self::abort)ed; dropped, containerd keeps it for a while.
#[derive(Debug)]
pub(super) struct Ingest {
    content: Content,
    reference: String,
    requests: Option<mpsc::Sender<WriteContentRequest>>,
    answers: Streaming<WriteContentResponse>,
    chunk: Vec<u8>,
    /// Bytes sent.
    offset: u64,
    /// Requests that were not answered yet.
    awaited: usize,
}

impl Ingest {
    /// Sends what was gathered.
    fn send(&mut self) -> Result<()> {
        let data = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_BYTES));
        let length = data.len() as u64;
        // A first one at offset 0 takes away what is there.
        let request = WriteContentRequest { data, ..self.request(WriteAction::Write) };
        self.call(request)?;
        self.offset += length;
        Ok(())
    }

    fn request(&self, action: WriteAction) -> WriteContentRequest {
        WriteContentRequest {
            action: action.into(),
            r#ref: self.reference.clone(),
            offset: self.offset.cast_signed(),
            ..WriteContentRequest::default()
        }
    }

    /// Sends a request once the one before was answered.
    fn call(&mut self, request: WriteContentRequest) -> Result<()> {
        let runtime = self.content.runtime.clone();
        let sent = runtime.block_on(async {
            self.settle().await?;
            self.awaited += 1;
            match &self.requests {
                Some(requests) if requests.send(request).await.is_ok() => Ok(()),
                // The call ended: why, its answer says.
                _ => self.settle().await.map(drop),
            }
        });
        sent.map_err(|status| told(&status, || intent(&self.reference)))
    }

    /// Waits for the answers to all requests, and returns the last.
    async fn settle(&mut self) -> Result<Option<WriteContentResponse>, Status> {
        let mut last = None;
        while self.awaited > 0 {
            last = self.answers.message().await?;
            if last.is_none() {
                return Err(Status::aborted("containerd ended the call"));
            }
            self.awaited -= 1;
        }
        Ok(last)
    }

    /// Makes it a blob with labels; one that is there already keeps its own, and gets those that it has none of.
    ///
    /// containerd takes the digest of what it received, and it must be `digest`.
    pub(super) fn commit(mut self, digest: &Digest, labels: &HashMap<String, String>) -> Result<()> {
        let committed = self.finish(digest, labels);
        match committed {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => self.content.label(digest, labels),
            Err(error) => {
                self.abort();
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    fn finish(&mut self, digest: &Digest, labels: &HashMap<String, String>) -> Result<()> {
        if !self.chunk.is_empty() {
            self.send()?;
        }
        // No digest is expected: where there is such a blob, containerd would answer before it notes that the client's lease holds it.
        let total = self.offset.cast_signed();
        self.call(WriteContentRequest {
            total,
            labels: labels.clone(),
            ..self.request(WriteAction::Commit)
        })?;
        let runtime = self.content.runtime.clone();
        let last =
            runtime.block_on(self.settle()).map_err(|status| told(&status, || intent(&self.reference)))?;
        let made = last.map(|answer| answer.digest).unwrap_or_default();
        if made != digest.to_string() {
            let message = format!("containerd received {made}, and {digest} was sent");
            return Err(Error::new(ErrorKind::Corrupt, message).context(intent(&self.reference)));
        }
        Ok(())
    }

    /// Takes back what was written.
    pub(super) fn abort(mut self) {
        let content = self.content.clone();
        let request = content.request(AbortRequest { r#ref: self.reference.clone() });
        let aborted = content.runtime.block_on(async {
            // The end of the requests is the end of the call; then nobody holds the name.
            self.requests = None;
            while let Ok(Some(_)) = self.answers.message().await {}
            content.client.clone().abort(request).await
        });
        // Best effort: the error that brought us here is the one to tell, and containerd forgets what is never finished.
        if let Err(status) = aborted {
            log::debug!("{:?}", told(&status, || intent(&self.reference)));
        }
    }
}

impl Write for Ingest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.chunk.len() == CHUNK_BYTES {
            self.content.require_wanted()?;
            self.send().map_err(|error| as_io(&error))?;
        }
        let length = bytes.len().min(CHUNK_BYTES - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..length]);
        Ok(length)
    }

    /// Does nothing: the rest is sent with the commit.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn intent(reference: &str) -> String {
    format!("write a blob into containerd as {reference:?}")
}

/// Returns the error of a call that containerd refused, or never got.
fn told(status: &Status, intent: impl FnOnce() -> String) -> Error {
    let kind = match status.code() {
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::InvalidArgument | Code::OutOfRange => ErrorKind::InvalidInput,
        Code::FailedPrecondition => ErrorKind::FailedPrecondition,
        Code::Unavailable => ErrorKind::Busy,
        Code::PermissionDenied | Code::Unauthenticated => ErrorKind::PermissionDenied,
        Code::ResourceExhausted => ErrorKind::NoSpace,
        Code::DataLoss => ErrorKind::Corrupt,
        _ => ErrorKind::Io,
    };
    let mut causes = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        causes = format!("{causes}: {error}");
        cause = error.source();
    }
    let error = Error::new(kind, causes);
    let error = if status.code() == Code::Unavailable && std::error::Error::source(status).is_some() {
        error.hint("say where containerd listens: `rootling snapshotter --containerd SOCKET`")
    } else {
        error
    };
    error.context(intent())
}

/// Carries an error through code that reads or writes, with its kind as far as that has one.
fn as_io(error: &Error) -> io::Error {
    let kind = match error.kind() {
        ErrorKind::NotFound => io::ErrorKind::NotFound,
        ErrorKind::AlreadyExists => io::ErrorKind::AlreadyExists,
        ErrorKind::InvalidInput => io::ErrorKind::InvalidInput,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error.chain().join(": "))
}
