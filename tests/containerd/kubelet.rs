//! What a kubelet asks for, by containerd's service for Kubernetes: images, pods, containers in them, commands in those.

use std::time::Duration;

use prost::Message;
use tokio::runtime::Runtime;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use super::daemons::{Containerd, SOCKET};
use super::stage::{Stage, on_stage, on_stages};
use crate::host::FileSystem;
use crate::lab::eventually;

/// Those parts of Kubernetes' `runtime.v1` that are used here, with the numbers of its `api.proto`.
mod api {
    use std::collections::HashMap;

    use prost::Message;

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct ImageSpec {
        #[prost(string, tag = "1")]
        pub(super) image: String,
    }
    /// Also of `RemoveImage`.
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct PullImage {
        #[prost(message, optional, tag = "1")]
        pub(super) image: Option<ImageSpec>,
    }
    /// Many requests and answers have an id alone, and all have it first.
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Id {
        #[prost(string, tag = "1")]
        pub(super) id: String,
    }
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Empty {}
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct PodMetadata {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(string, tag = "2")]
        pub(super) uid: String,
        #[prost(string, tag = "3")]
        pub(super) namespace: String,
    }
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct NamespaceOption {
        /// 2 is the node's.
        #[prost(int32, tag = "1")]
        pub(super) network: i32,
    }
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct PodSecurity {
        #[prost(message, optional, tag = "1")]
        pub(super) namespaces: Option<NamespaceOption>,
    }
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct LinuxPod {
        #[prost(string, tag = "1")]
        pub(super) cgroup_parent: String,
        #[prost(message, optional, tag = "2")]
        pub(super) security: Option<PodSecurity>,
    }
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct PodConfig {
        #[prost(message, optional, tag = "1")]
        pub(super) metadata: Option<PodMetadata>,
        #[prost(map = "string, string", tag = "7")]
        pub(super) annotations: HashMap<String, String>,
        #[prost(message, optional, tag = "8")]
        pub(super) linux: Option<LinuxPod>,
    }
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct RunPod {
        #[prost(message, optional, tag = "1")]
        pub(super) config: Option<PodConfig>,
        #[prost(string, tag = "2")]
        pub(super) handler: String,
    }
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct ContainerMetadata {
        #[prost(string, tag = "1")]
        pub(super) name: String,
    }
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct ContainerSecurity {
        #[prost(message, optional, tag = "3")]
        pub(super) namespaces: Option<NamespaceOption>,
    }
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct LinuxContainer {
        #[prost(message, optional, tag = "2")]
        pub(super) security: Option<ContainerSecurity>,
    }
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct ContainerConfig {
        #[prost(message, optional, tag = "1")]
        pub(super) metadata: Option<ContainerMetadata>,
        #[prost(message, optional, tag = "2")]
        pub(super) image: Option<ImageSpec>,
        #[prost(string, repeated, tag = "3")]
        pub(super) command: Vec<String>,
        #[prost(message, optional, tag = "15")]
        pub(super) linux: Option<LinuxContainer>,
    }
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct CreateContainer {
        #[prost(string, tag = "1")]
        pub(super) pod: String,
        #[prost(message, optional, tag = "2")]
        pub(super) config: Option<ContainerConfig>,
        #[prost(message, optional, tag = "3")]
        pub(super) pod_config: Option<PodConfig>,
    }
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct ExecSync {
        #[prost(string, tag = "1")]
        pub(super) container: String,
        #[prost(string, repeated, tag = "2")]
        pub(super) command: Vec<String>,
        #[prost(int64, tag = "3")]
        pub(super) seconds: i64,
    }
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Executed {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) stdout: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) stderr: Vec<u8>,
        #[prost(int32, tag = "3")]
        pub(super) code: i32,
    }
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Number {
        #[prost(uint64, tag = "1")]
        pub(super) value: u64,
    }
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct FileSystemUsage {
        /// Whose first and only field is where it is mounted.
        #[prost(message, optional, tag = "2")]
        pub(super) place: Option<Id>,
        #[prost(message, optional, tag = "3")]
        pub(super) bytes: Option<Number>,
        #[prost(message, optional, tag = "4")]
        pub(super) inodes: Option<Number>,
    }
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct ImageUsage {
        #[prost(message, repeated, tag = "1")]
        pub(super) file_systems: Vec<FileSystemUsage>,
    }
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Stats {
        #[prost(message, optional, tag = "4")]
        pub(super) writable: Option<FileSystemUsage>,
    }
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct ContainerStats {
        #[prost(message, optional, tag = "1")]
        pub(super) stats: Option<Stats>,
    }
}

use api::{ContainerConfig, ContainerMetadata, Id, ImageSpec, NamespaceOption, PodConfig};

/// The node's network: pods of their own would need plugins.
const NODE: NamespaceOption = NamespaceOption { network: 2 };

/// What a kubelet says to containerd.
struct Kubelet {
    runtime: Runtime,
    channel: Channel,
}

impl Kubelet {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let endpoint = Endpoint::from_shared(format!("unix:{SOCKET}")).unwrap();
        let channel = runtime.block_on(async { endpoint.connect_lazy() });
        Self { runtime, channel }
    }

    fn try_ask<Q, A>(&self, method: &str, request: Q) -> Result<A, tonic::Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let service = if method.contains("Image") { "ImageService" } else { "RuntimeService" };
        let path = PathAndQuery::try_from(format!("/runtime.v1.{service}/{method}")).unwrap();
        self.runtime.block_on(async {
            let mut client = Grpc::new(self.channel.clone());
            client.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
            let mut request = tonic::Request::new(request);
            request.set_timeout(Duration::from_secs(60));
            let answer = client.unary(request, path, ProstCodec::<Q, A>::default()).await?;
            Ok(answer.into_inner())
        })
    }

    fn ask<Q, A>(&self, method: &str, request: Q) -> A
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.try_ask(method, request).unwrap_or_else(|status| panic!("{method}: {status}"))
    }

    /// Waits until containerd knows again what there is.
    fn wait(&self) {
        eventually("containerd serves a kubelet", || {
            self.try_ask::<_, api::Empty>("ListContainers", api::Empty {}).is_ok()
        });
    }

    fn pull(&self, image: &str) -> String {
        let image = Some(ImageSpec { image: image.to_owned() });
        self.ask::<_, Id>("PullImage", api::PullImage { image }).id
    }

    fn remove_image(&self, image: &str) {
        let image = Some(ImageSpec { image: image.to_owned() });
        self.ask::<_, api::Empty>("RemoveImage", api::PullImage { image });
    }

    /// Where containerd says that images are, and their bytes and inodes as it last looked.
    fn image_usage(&self) -> (String, (u64, u64)) {
        let usage: api::ImageUsage = self.ask("ImageFsInfo", api::Empty {});
        let file_system = usage.file_systems.into_iter().next().unwrap_or_default();
        let numbers = numbers(&file_system);
        (file_system.place.unwrap_or_default().id, numbers)
    }

    /// Starts a pod on the node's network; returns its id, and what containers in it are to be told.
    fn pod(&self, name: &str, cgroup: &str, handler: &str) -> (String, PodConfig) {
        let metadata =
            api::PodMetadata { name: name.to_owned(), uid: name.to_owned(), namespace: "default".to_owned() };
        let security = Some(api::PodSecurity { namespaces: Some(NODE) });
        let linux = Some(api::LinuxPod { cgroup_parent: cgroup.to_owned(), security });
        let config = PodConfig { metadata: Some(metadata), linux, ..PodConfig::default() };
        let request = api::RunPod { config: Some(config.clone()), handler: handler.to_owned() };
        (self.ask::<_, Id>("RunPodSandbox", request).id, config)
    }

    /// Starts a container in a pod and returns its id.
    fn container(&self, pod: &(String, PodConfig), name: &str, image: &str, script: &str) -> String {
        let security = Some(api::ContainerSecurity { namespaces: Some(NODE) });
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.to_owned() }),
            image: Some(ImageSpec { image: image.to_owned() }),
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            linux: Some(api::LinuxContainer { security }),
        };
        let request = api::CreateContainer {
            pod: pod.0.clone(),
            config: Some(config),
            pod_config: Some(pod.1.clone()),
        };
        let id = self.ask::<_, Id>("CreateContainer", request).id;
        self.ask::<_, api::Empty>("StartContainer", Id { id: id.clone() });
        id
    }

    /// Runs a script in a container; returns what it printed.
    fn exec(&self, container: &str, script: &str) -> String {
        let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let request = api::ExecSync { container: container.to_owned(), command, seconds: 20 };
        let done: api::Executed = self.ask("ExecSync", request);
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        assert_eq!(done.code, 0, "{script}: {text}{}", String::from_utf8_lossy(&done.stderr));
        text
    }

    /// Bytes and inodes that a container wrote, as containerd last looked.
    fn written(&self, container: &str) -> (u64, u64) {
        let stats: api::ContainerStats = self.ask("ContainerStats", Id { id: container.to_owned() });
        let written = stats.stats.and_then(|stats| stats.writable);
        written.as_ref().map(numbers).unwrap_or_default()
    }

    fn remove_container(&self, id: &str) {
        self.ask::<_, api::Empty>("StopContainer", Id { id: id.to_owned() });
        self.ask::<_, api::Empty>("RemoveContainer", Id { id: id.to_owned() });
    }

    fn remove_pod(&self, id: &str) {
        self.ask::<_, api::Empty>("StopPodSandbox", Id { id: id.to_owned() });
        self.ask::<_, api::Empty>("RemovePodSandbox", Id { id: id.to_owned() });
    }
}

fn numbers(usage: &api::FileSystemUsage) -> (u64, u64) {
    let value = |number: &Option<api::Number>| number.as_ref().map_or(0, |number| number.value);
    (value(&usage.bytes), value(&usage.inodes))
}

/// What a node's configuration says of pods; `sandbox` is the image that holds their namespaces.
fn configuration(snapshotter: &str, sandbox: &str) -> String {
    format!(
        "[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = {sandbox:?}\nrestrict_oom_score_adj = true\n\
         stats_collect_period = 1\ndisable_apparmor = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = {snapshotter:?}\ndisable_snapshot_annotations = false\n"
    )
}

/// Starts containerd once more, as a node has it.
fn become_node(stage: &mut Stage<'_>) {
    stage.containerd.kill();
    let configuration = configuration(&stage.containerd.snapshotter, &stage.images.reference("pause", "1"));
    let (directory, snapshotter) = (stage.environment.path("node"), stage.containerd.snapshotter.clone());
    stage.containerd = Containerd::start_with(&directory, &snapshotter, "k8s.io", "", &configuration);
}

/// A pod's life; what its containers wrote lives as long as they do, whatever ends meanwhile.
fn pods(stage: &mut Stage<'_>) {
    become_node(stage);
    let kubelet = Kubelet::new();
    kubelet.wait();
    let [first, second] = ["1", "2"].map(|tag| stage.image(tag));
    kubelet.pull(&first);
    kubelet.pull(&second);
    let pod = kubelet.pod("pod", &stage.namespace, "");
    let one = kubelet.container(&pod, "one", &first, "sleep 3600");
    let two = kubelet.container(&pod, "two", &second, "sleep 3600");
    assert_eq!(
        kubelet
            .exec(&one, "cat /etc/version; dd if=/dev/urandom of=/srv/data bs=1M count=3 2>&1 | rm -f /none"),
        "first\n"
    );
    assert_eq!(kubelet.exec(&two, "cat /etc/version; ls /srv"), "second\na\nb\n");
    eventually("what was written is counted", || kubelet.written(&one).0 >= 3 << 20);
    assert!(kubelet.written(&two).0 < 1 << 20, "{:?}", kubelet.written(&two));
    eventually("images are counted", || {
        let (place, (bytes, inodes)) = kubelet.image_usage();
        // This is what KUBERNETES.md says where a kubelet looks for room.
        assert!(place.ends_with(&format!("/io.containerd.snapshotter.v1.{}", stage.containerd.snapshotter)));
        bytes > 4 << 20 && inodes > 20
    });

    // Containers go on without containerd, and without us.
    if let Some(ours) = &mut stage.ours {
        ours.kill();
        ours.start_again();
    }
    stage.containerd.kill();
    stage.containerd.start_again();
    kubelet.wait();
    assert_eq!(kubelet.exec(&one, "ls /srv"), "a\nb\ndata\n");
    let again = kubelet.container(&pod, "again", &first, "sleep 3600");
    assert_eq!(kubelet.exec(&again, "ls /srv"), "a\nb\n");

    for container in [&one, &two, &again] {
        kubelet.remove_container(container);
    }
    kubelet.remove_pod(&pod.0);
    for image in [&first, &second, &stage.images.reference("pause", "1")] {
        kubelet.remove_image(image);
    }
    eventually("all of containerd's snapshots are gone", || stage.listed().is_empty());
}

#[test]
fn pods_run_and_what_they_wrote_outlives_both_daemons() {
    on_stages(|stage| {
        pods(stage);
        stage.assert_nothing_is_held();
    });
}

#[test]
fn what_rootling_pulled_is_not_fetched_by_containerd() {
    on_stages(|stage| {
        become_node(stage);
        let image = stage.image("1");
        stage.environment.ok(["-q", "pull", &image, "app:1"]);
        let kubelet = Kubelet::new();
        kubelet.wait();
        kubelet.pull(&image);
        let blobs = stage.containerd.directory.join("root/io.containerd.content.v1.content/blobs/sha256");
        let fetched = std::fs::read_dir(&blobs).map_or(0, Iterator::count);
        assert_eq!(fetched, 2, "the manifest and the configuration, and none of three layers");
        kubelet.pull(&stage.images.reference("pause", "1"));
        let pod = kubelet.pod("pod", &stage.namespace, "");
        let one = kubelet.container(&pod, "one", &image, "sleep 3600");
        assert_eq!(kubelet.exec(&one, "cat /etc/version /srv/b"), "first\nseen\n");
        kubelet.remove_container(&one);
        kubelet.remove_pod(&pod.0);
        kubelet.remove_image(&image);
        kubelet.remove_image(&stage.images.reference("pause", "1"));
        eventually("all of containerd's snapshots are gone", || stage.listed().is_empty());
        // What rootling pulled for itself stays.
        stage.environment.ok(["-q", "create", "app:1", "dev"]);
        stage.environment.ok(["fsck", "--verify"]);
    });
}

#[test]
fn the_harness_runs_pods_on_containerds_own_overlayfs() {
    on_stage(FileSystem::Ext4, "overlayfs", pods);
}
