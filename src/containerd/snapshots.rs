//! The service `containerd.services.snapshots.v1.Snapshots`: containerd's snapshots are trees that the store holds for it.
//!
//! ```text
//! prepare(key, parent) ─ active ─ commit(name, key) ─ committed ─┬ prepare(.., parent: name) ...
//!                                                                └ view(.., parent: name) ─ view
//! ```
//!
//! Keys and names are one space, and any text. What is acknowledged is on disk. The field `snapshotter` of requests says by which name
//! containerd knows this server, and is not looked at: a server has one store.

use rootling_backends::{Error, ErrorKind};
use tonic::{Request, Response, Status};

use super::api::snapshots as api;
use super::api::types;
use super::calls::Calls;
use super::filter::Filters;
use super::labels::{self, Change};
use super::mounts;
use crate::store::{HeldInfo, HeldKind, HeldMount};

/// Infos in one message of a list, as many as containerd's own server sends.
const PAGE: usize = 100;

/// Bytes of labels after which a message of a list ends too: clients take 4 MiB at least.
const PAGE_BYTES: usize = 1 << 20;

/// The service.
pub(super) struct Snapshots(pub(super) Calls);

type Answered<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl api::snapshots_server::Snapshots for Snapshots {
    async fn prepare(
        &self,
        request: Request<api::PrepareSnapshotRequest>,
    ) -> Answered<api::PrepareSnapshotResponse> {
        let api::PrepareSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let made = self.0.work("Prepare", move |held| {
            let labels = labels::taken(labels)?;
            let mount = held.prepare(&key, &parent, HeldKind::Active, labels)?;
            Ok(api::PrepareSnapshotResponse { mounts: described(&mount)? })
        });
        made.await
    }

    async fn view(&self, request: Request<api::ViewSnapshotRequest>) -> Answered<api::ViewSnapshotResponse> {
        let api::ViewSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let made = self.0.work("View", move |held| {
            let labels = labels::taken(labels)?;
            let mount = held.prepare(&key, &parent, HeldKind::View, labels)?;
            Ok(api::ViewSnapshotResponse { mounts: described(&mount)? })
        });
        made.await
    }

    async fn mounts(&self, request: Request<api::MountsRequest>) -> Answered<api::MountsResponse> {
        let key = request.into_inner().key;
        let found = self
            .0
            .look("Mounts", move |held| Ok(api::MountsResponse { mounts: described(&held.mounts(&key)?)? }));
        found.await
    }

    async fn commit(&self, request: Request<api::CommitSnapshotRequest>) -> Answered<()> {
        let api::CommitSnapshotRequest { name, key, labels, parent, .. } = request.into_inner();
        let done =
            self.0.work("Commit", move |held| held.commit(&name, &key, &parent, labels::taken(labels)?));
        done.await
    }

    async fn remove(&self, request: Request<api::RemoveSnapshotRequest>) -> Answered<()> {
        let key = request.into_inner().key;
        let sweep = self.0.sweep.clone();
        let done = self.0.work("Remove", move |held| {
            held.remove(&key)?;
            sweep.is_due();
            Ok(())
        });
        done.await
    }

    async fn stat(&self, request: Request<api::StatSnapshotRequest>) -> Answered<api::StatSnapshotResponse> {
        let key = request.into_inner().key;
        self.0.glance("Stat", |held| Ok(api::StatSnapshotResponse { info: Some(told(held.stat(&key)?)) }))
    }

    async fn update(
        &self,
        request: Request<api::UpdateSnapshotRequest>,
    ) -> Answered<api::UpdateSnapshotResponse> {
        let api::UpdateSnapshotRequest { info, update_mask, .. } = request.into_inner();
        let done = self.0.work("Update", move |held| {
            let info = info.ok_or_else(|| Error::new(ErrorKind::InvalidInput, "it is not said of what"))?;
            let fields = update_mask.unwrap_or_default().paths;
            let change = Change::read(&fields, info.labels)?;
            let info = held.set_labels(&info.name, |labels| change.apply(labels))?;
            Ok(api::UpdateSnapshotResponse { info: Some(told(info)) })
        });
        done.await
    }

    type ListStream = tokio_stream::Iter<Pages>;

    async fn list(&self, request: Request<api::ListSnapshotsRequest>) -> Answered<Self::ListStream> {
        let filters = request.into_inner().filters;
        let listed = self.0.look("List", move |held| {
            let filters = Filters::parse(&filters)?;
            let mut infos = held.walk();
            infos.retain(|info| filters.matches(|path| field(info, path)));
            Ok(tokio_stream::iter(Pages(infos.into_iter())))
        });
        listed.await
    }

    async fn usage(&self, request: Request<api::UsageRequest>) -> Answered<api::UsageResponse> {
        let key = request.into_inner().key;
        let known = self.0.work("Usage", move |held| {
            let usage = held.usage(&key)?;
            let number = |value| i64::try_from(value).unwrap_or(i64::MAX);
            Ok(api::UsageResponse { size: number(usage.bytes), inodes: number(usage.inodes) })
        });
        known.await
    }

    async fn cleanup(&self, _: Request<api::CleanupRequest>) -> Answered<()> {
        self.0.work("Cleanup", |held| held.cleanup()).await
    }
}

fn described(mount: &HeldMount) -> Result<Vec<types::Mount>, Error> {
    mounts::described(&mount.mount, mount.access)
}

/// Returns the value of a field by the names that filters have for it.
fn field<'a>(info: &'a HeldInfo, path: &[String]) -> Option<&'a str> {
    let [first, rest @ ..] = path else { return None };
    match first.as_str() {
        "name" => Some(&info.key),
        "parent" => Some(&info.parent),
        "kind" => Some(match info.kind {
            HeldKind::View => "view",
            HeldKind::Active => "active",
            HeldKind::Committed => "committed",
        }),
        "labels" => info.labels.get(&rest.join(".")).map(String::as_str),
        _ => None,
    }
}

fn told(info: HeldInfo) -> api::Info {
    let kind = match info.kind {
        HeldKind::View => api::Kind::View,
        HeldKind::Active => api::Kind::Active,
        HeldKind::Committed => api::Kind::Committed,
    };
    api::Info {
        name: info.key,
        parent: info.parent,
        kind: kind.into(),
        created_at: Some(timestamp(info.created)),
        updated_at: Some(timestamp(info.updated)),
        labels: info.labels.into_iter().collect(),
    }
}

/// To the nanosecond. On the wire the nanoseconds count forward, before 1970 too.
fn timestamp(time: jiff::Timestamp) -> prost_types::Timestamp {
    const SECOND: i128 = 1_000_000_000;
    let nanoseconds = time.as_nanosecond();
    let seconds =
        i64::try_from(nanoseconds.div_euclid(SECOND)).expect("jiff's times are years of four digits");
    let nanos = i32::try_from(nanoseconds.rem_euclid(SECOND)).expect("it is less than a second");
    prost_types::Timestamp { seconds, nanos }
}

/// The messages of a list.
pub(super) struct Pages(std::vec::IntoIter<HeldInfo>);

impl Iterator for Pages {
    type Item = Result<api::ListSnapshotsResponse, Status>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut page = Vec::new();
        let mut bytes = 0;
        while page.len() < PAGE && bytes < PAGE_BYTES {
            let Some(info) = self.0.next() else { break };
            bytes += info.labels.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
            page.push(told(info));
        }
        (!page.is_empty()).then(|| Ok(api::ListSnapshotsResponse { info: page }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_exact_before_1970_too() {
        for (nanoseconds, seconds, nanos) in
            [(0, 0, 0), (1_700_000_000_123_456_789, 1_700_000_000, 123_456_789), (-1, -1, 999_999_999)]
        {
            let time = jiff::Timestamp::from_nanosecond(nanoseconds).unwrap();
            assert_eq!(timestamp(time), prost_types::Timestamp { seconds, nanos });
        }
    }
}
