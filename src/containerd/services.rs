//! Which service a request is for: the first part of its path says so.

use std::convert::Infallible;
use std::path::Path;
use std::task::{Context, Poll};

use rootling_backends::Result;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;

use super::api::diff::diff_server::DiffServer;
use super::api::snapshots::snapshots_server::SnapshotsServer;
use super::calls::Calls;
use super::differ::Differ;
use super::snapshots::Snapshots;

/// Bytes of the longest message, as containerd has it for its own (`DefaultMaxRecvMsgSize`).
const MESSAGE_MAX: usize = 16 << 20;

/// All services of one socket.
#[derive(Clone)]
pub(super) struct Services {
    snapshots: SnapshotsServer<Snapshots>,
    diff: DiffServer<Differ>,
}

impl Services {
    /// `containerd` is the socket that it listens on. Must be called inside a runtime.
    pub(super) fn new(calls: &Calls, containerd: &Path) -> Result<Self> {
        let snapshots = SnapshotsServer::new(Snapshots(calls.clone()))
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX);
        let diff = DiffServer::new(Differ::new(calls.clone(), containerd)?)
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX);
        Ok(Self { snapshots, diff })
    }
}

impl Service<http::Request<Body>> for Services {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        if service == SnapshotsServer::<Snapshots>::NAME {
            return self.snapshots.call(request);
        }
        if service == DiffServer::<Differ>::NAME {
            return self.diff.call(request);
        }
        let refused = Status::unimplemented(format!("there is no service {service:?} here"));
        Box::pin(std::future::ready(Ok(refused.into_http())))
    }
}
