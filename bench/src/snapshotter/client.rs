//! The client of containerd's snapshots, by the service's own description: the same for whoever keeps the trees.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use rootling::containerd::api::snapshots::snapshots_client::SnapshotsClient;
use rootling::containerd::api::snapshots::{
    CommitSnapshotRequest, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest,
    RemoveSnapshotRequest, UsageRequest, ViewSnapshotRequest,
};
use rootling::containerd::api::types::Mount;
use rootling_backends::{Context, Error, ErrorKind, Result};
use tokio::runtime::{Builder, Runtime};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::command::{command, timed};

/// Says to containerd that nobody collects it as garbage.
const ROOT: &str = "containerd.io/gc.root";

/// One connection, one namespace, one snapshotter.
pub(super) struct Client {
    runtime: Runtime,
    snapshots: SnapshotsClient<Channel>,
    namespace: String,
    snapshotter: String,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("snapshotter", &self.snapshotter).finish_non_exhaustive()
    }
}

impl Client {
    pub(super) fn connect(socket: &Path, namespace: &str, snapshotter: &str) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build().context(|| "start a runtime")?;
        let address = format!("unix:{}", socket.display());
        let channel = Endpoint::from_shared(address)
            .map(|endpoint| runtime.block_on(async { endpoint.connect_lazy() }))
            .map_err(|error| Error::new(ErrorKind::InvalidInput, format!("{socket:?}: {error}")))?;
        let snapshots = SnapshotsClient::new(channel);
        Ok(Self { runtime, snapshots, namespace: namespace.to_owned(), snapshotter: snapshotter.to_owned() })
    }

    fn request<T>(&self, message: T) -> Result<Request<T>> {
        let mut request = Request::new(message);
        let namespace = MetadataValue::try_from(&self.namespace)
            .map_err(|error| Error::new(ErrorKind::InvalidInput, format!("{:?}: {error}", self.namespace)))?;
        request.metadata_mut().insert("containerd-namespace", namespace);
        Ok(request)
    }

    pub(super) fn prepare(&mut self, key: &str, parent: &str) -> Result<Vec<Mount>> {
        let (snapshotter, labels) = (self.snapshotter.clone(), rooted());
        let message = PrepareSnapshotRequest { snapshotter, key: key.into(), parent: parent.into(), labels };
        let request = self.request(message)?;
        let answer = self.runtime.block_on(self.snapshots.prepare(request));
        Ok(answer.map_err(|status| failed("prepare", key, &status))?.into_inner().mounts)
    }

    pub(super) fn view(&mut self, key: &str, parent: &str) -> Result<Vec<Mount>> {
        let (snapshotter, labels) = (self.snapshotter.clone(), rooted());
        let message = ViewSnapshotRequest { snapshotter, key: key.into(), parent: parent.into(), labels };
        let request = self.request(message)?;
        let answer = self.runtime.block_on(self.snapshots.view(request));
        Ok(answer.map_err(|status| failed("view", key, &status))?.into_inner().mounts)
    }

    pub(super) fn mounts(&mut self, key: &str) -> Result<Vec<Mount>> {
        let message = MountsRequest { snapshotter: self.snapshotter.clone(), key: key.into() };
        let request = self.request(message)?;
        let answer = self.runtime.block_on(self.snapshots.mounts(request));
        Ok(answer.map_err(|status| failed("mounts", key, &status))?.into_inner().mounts)
    }

    pub(super) fn commit(&mut self, name: &str, key: &str) -> Result<()> {
        let (snapshotter, labels) = (self.snapshotter.clone(), rooted());
        let message = CommitSnapshotRequest {
            snapshotter,
            name: name.into(),
            key: key.into(),
            labels,
            parent: String::new(),
        };
        let request = self.request(message)?;
        let answer = self.runtime.block_on(self.snapshots.commit(request));
        answer.map(drop).map_err(|status| failed("commit", key, &status))
    }

    pub(super) fn remove(&mut self, key: &str) -> Result<()> {
        let message = RemoveSnapshotRequest { snapshotter: self.snapshotter.clone(), key: key.into() };
        let request = self.request(message)?;
        let answer = self.runtime.block_on(self.snapshots.remove(request));
        answer.map(drop).map_err(|status| failed("remove", key, &status))
    }

    /// Returns the bytes that one has for itself.
    pub(super) fn usage(&mut self, key: &str) -> Result<i64> {
        let message = UsageRequest { snapshotter: self.snapshotter.clone(), key: key.into() };
        let request = self.request(message)?;
        let answer = self.runtime.block_on(self.snapshots.usage(request));
        Ok(answer.map_err(|status| failed("usage", key, &status))?.into_inner().size)
    }

    /// Returns how many there are.
    pub(super) fn walk(&mut self) -> Result<usize> {
        let message = ListSnapshotsRequest { snapshotter: self.snapshotter.clone(), filters: Vec::new() };
        let request = self.request(message)?;
        let Self { runtime, snapshots, .. } = self;
        let walked = runtime.block_on(async {
            let mut stream = snapshots.list(request).await?.into_inner();
            let mut count = 0;
            while let Some(part) = stream.message().await? {
                count += part.info.len();
            }
            Ok(count)
        });
        walked.map_err(|status: Status| failed("walk", "all", &status))
    }
}

fn rooted() -> HashMap<String, String> {
    HashMap::from([(ROOT.to_owned(), "bench".to_owned())])
}

fn failed(call: &str, key: &str, status: &Status) -> Error {
    Error::new(ErrorKind::Io, format!("{call} {key}: {:?}: {}", status.code(), status.message()))
}

/// A tree shown at a path by what a snapshotter said, as mount(8) does it; dropped, it is unmounted.
#[derive(Debug)]
pub(super) struct Shown(PathBuf);

impl Shown {
    /// Mounts it at a new directory.
    pub(super) fn at(mounts: &[Mount], target: &Path) -> Result<Self> {
        let [mount] = mounts else {
            let message = format!("{} mounts where one was expected", mounts.len());
            return Err(Error::new(ErrorKind::Unsupported, message));
        };
        std::fs::create_dir(target).context(|| format!("mkdir({target:?})"))?;
        let mut options = mount.options.clone();
        let mut words = command("mount", [""; 0]);
        if mount.r#type == "bind" {
            options.retain(|option| option != "rbind" && option != "bind");
            options.insert(0, "bind".to_owned());
        } else {
            words.args(["-t", &mount.r#type]);
        }
        if !options.is_empty() {
            words.args(["-o", &options.join(",")]);
        }
        timed(words.arg(&mount.source).arg(target))?;
        Ok(Self(target.to_owned()))
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        // Best effort: it goes with the namespace.
        drop(timed(command("umount", ["--lazy"]).arg(&self.0)));
        drop(std::fs::remove_dir(&self.0));
    }
}
