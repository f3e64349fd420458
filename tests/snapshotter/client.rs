//! A client of the service Snapshots that waits for each answer.

use std::collections::HashMap;
use std::path::Path;

use rootling::containerd::api::snapshots as api;
use rootling::containerd::api::snapshots::snapshots_client::SnapshotsClient;
use rootling::containerd::api::types::Mount;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

pub(crate) type Answered<T> = Result<T, Status>;

pub(crate) struct Client {
    runtime: tokio::runtime::Runtime,
    snapshots: SnapshotsClient<Channel>,
}

pub(crate) fn labels(labels: &[(&str, &str)]) -> HashMap<String, String> {
    labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// As containerd's own suite has it, of which a garbage collector would keep everything.
fn rooted() -> HashMap<String, String> {
    labels(&[("containerd.io/gc.root", "now")])
}

impl Client {
    pub(crate) fn connect(address: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let endpoint = Endpoint::from_shared(format!("unix:{}", address.display())).unwrap();
        let channel = runtime.block_on(endpoint.connect()).unwrap();
        let snapshots = SnapshotsClient::new(channel).max_decoding_message_size(16 << 20);
        Self { runtime, snapshots }
    }

    fn ask<T>(
        &self,
        call: impl AsyncFnOnce(SnapshotsClient<Channel>) -> Answered<tonic::Response<T>>,
    ) -> Answered<T> {
        self.runtime.block_on(call(self.snapshots.clone())).map(tonic::Response::into_inner)
    }

    pub(crate) fn prepare_with(
        &self,
        key: &str,
        parent: &str,
        labels: HashMap<String, String>,
    ) -> Answered<Vec<Mount>> {
        let (key, parent) = (key.to_owned(), parent.to_owned());
        let request = api::PrepareSnapshotRequest { snapshotter: "test".into(), key, parent, labels };
        self.ask(async |mut snapshots| snapshots.prepare(request).await).map(|answer| answer.mounts)
    }

    pub(crate) fn prepare(&self, key: &str, parent: &str) -> Answered<Vec<Mount>> {
        self.prepare_with(key, parent, rooted())
    }

    pub(crate) fn view_with(
        &self,
        key: &str,
        parent: &str,
        labels: HashMap<String, String>,
    ) -> Answered<Vec<Mount>> {
        let (key, parent) = (key.to_owned(), parent.to_owned());
        let request = api::ViewSnapshotRequest { snapshotter: "test".into(), key, parent, labels };
        self.ask(async |mut snapshots| snapshots.view(request).await).map(|answer| answer.mounts)
    }

    pub(crate) fn view(&self, key: &str, parent: &str) -> Answered<Vec<Mount>> {
        self.view_with(key, parent, rooted())
    }

    pub(crate) fn mounts(&self, key: &str) -> Answered<Vec<Mount>> {
        let request = api::MountsRequest { snapshotter: "test".into(), key: key.into() };
        self.ask(async |mut snapshots| snapshots.mounts(request).await).map(|answer| answer.mounts)
    }

    pub(crate) fn commit_with(
        &self,
        name: &str,
        key: &str,
        parent: &str,
        labels: HashMap<String, String>,
    ) -> Answered<()> {
        let request = api::CommitSnapshotRequest {
            snapshotter: "test".into(),
            name: name.into(),
            key: key.into(),
            labels,
            parent: parent.into(),
        };
        self.ask(async |mut snapshots| snapshots.commit(request).await)
    }

    pub(crate) fn commit(&self, name: &str, key: &str) -> Answered<()> {
        self.commit_with(name, key, "", rooted())
    }

    pub(crate) fn remove(&self, key: &str) -> Answered<()> {
        let request = api::RemoveSnapshotRequest { snapshotter: "test".into(), key: key.into() };
        self.ask(async |mut snapshots| snapshots.remove(request).await)
    }

    pub(crate) fn stat(&self, key: &str) -> Answered<api::Info> {
        let request = api::StatSnapshotRequest { snapshotter: "test".into(), key: key.into() };
        self.ask(async |mut snapshots| snapshots.stat(request).await).map(|answer| answer.info.unwrap())
    }

    pub(crate) fn update(&self, info: api::Info, paths: &[&str]) -> Answered<api::Info> {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        // Without paths, containerd's client sends no mask at all.
        let update_mask = (!paths.is_empty()).then_some(prost_types::FieldMask { paths });
        let request =
            api::UpdateSnapshotRequest { snapshotter: "test".into(), info: Some(info), update_mask };
        self.ask(async |mut snapshots| snapshots.update(request).await).map(|answer| answer.info.unwrap())
    }

    /// The messages of a list.
    pub(crate) fn pages(&self, filters: &[&str]) -> Answered<Vec<Vec<api::Info>>> {
        let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let request = api::ListSnapshotsRequest { snapshotter: "test".into(), filters };
        let mut snapshots = self.snapshots.clone();
        self.runtime.block_on(async {
            let mut stream = snapshots.list(request).await?.into_inner();
            let mut pages = Vec::new();
            while let Some(page) = stream.message().await? {
                pages.push(page.info);
            }
            Ok(pages)
        })
    }

    pub(crate) fn list(&self, filters: &[&str]) -> Vec<api::Info> {
        self.pages(filters).unwrap().into_iter().flatten().collect()
    }

    pub(crate) fn names(&self, filters: &[&str]) -> Vec<String> {
        self.list(filters).into_iter().map(|info| info.name).collect()
    }

    pub(crate) fn usage(&self, key: &str) -> Answered<(i64, i64)> {
        let request = api::UsageRequest { snapshotter: "test".into(), key: key.into() };
        self.ask(async |mut snapshots| snapshots.usage(request).await).map(|usage| (usage.size, usage.inodes))
    }

    pub(crate) fn cleanup(&self) -> Answered<()> {
        let request = api::CleanupRequest { snapshotter: "test".into() };
        self.ask(async |mut snapshots| snapshots.cleanup(request).await)
    }

    /// Removes everything, leaves first.
    pub(crate) fn remove_all(&self) {
        loop {
            let infos = self.list(&[]);
            if infos.is_empty() {
                return;
            }
            let leaves = infos.iter().filter(|info| infos.iter().all(|other| other.parent != info.name));
            for leaf in leaves {
                self.remove(&leaf.name).unwrap();
            }
        }
    }
}

/// The code of what must fail.
#[track_caller]
pub(crate) fn code<T: std::fmt::Debug>(answered: Answered<T>) -> Code {
    answered.expect_err("it must fail").code()
}
