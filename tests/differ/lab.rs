//! A containerd of a test's own, and our server beside it, asked as containerd would ask it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rootling::containerd::api::content::content_client::ContentClient;
use rootling::containerd::api::content::{
    Info, InfoRequest, ReadContentRequest, WriteAction, WriteContentRequest,
};
use rootling::containerd::api::diff::diff_client::DiffClient;
use rootling::containerd::api::diff::{ApplyRequest, DiffRequest};
use rootling::containerd::api::types::{Descriptor, Mount};
use rootling::image::Digest;
use rootling_backends::Kind;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::environment::{Environment, found, skip};
use crate::snapshotter::client::Client;
use crate::snapshotter::grounds::Server;
use crate::snapshotter::mounting::Mounted;
use crate::support::tree::TreeValue;

pub(crate) const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

pub(crate) struct Lab<'a> {
    pub(crate) environment: &'a Environment,
    pub(crate) containerd: Containerd,
    pub(crate) server: Server,
    pub(crate) runtime: Runtime,
    /// Ours.
    pub(crate) differ: DiffClient<Channel>,
    /// containerd's own.
    pub(crate) walking: DiffClient<Channel>,
    content: ContentClient<Channel>,
    trees: Client,
}

/// Says why these tests cannot run, if so.
pub(crate) fn can_run() -> bool {
    let there = found("containerd");
    if !there {
        skip("containerd is not installed");
    }
    there
}

impl<'a> Lab<'a> {
    /// Trees are made by `backend`.
    pub(crate) fn new(environment: &'a Environment, backend: Kind) -> Self {
        let containerd = Containerd::start(environment);
        let server = serve(environment, backend, &containerd.socket);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build().unwrap();
        let (ours, theirs) =
            runtime.block_on(async { (channel(&server.address), channel(&containerd.socket)) });
        let (differ, walking) = (DiffClient::new(ours), DiffClient::new(theirs.clone()));
        let (content, trees) = (ContentClient::new(theirs), server.client());
        Self { environment, containerd, server, runtime, differ, walking, content, trees }
    }

    /// Starts our server again, which was killed.
    pub(crate) fn serve_again(&mut self, backend: Kind) {
        self.server = serve(self.environment, backend, &self.containerd.socket);
        self.trees = self.server.client();
    }

    // ------------------------------------------------------------ blobs

    /// Puts a blob into containerd's store.
    pub(crate) fn put(&self, media_type: &str, bytes: &[u8]) -> Descriptor {
        let digest = Digest::sha256_of(bytes).to_string();
        let write = |action: WriteAction, offset: usize, data: &[u8]| WriteContentRequest {
            action: action.into(),
            r#ref: format!("put-{digest}"),
            total: bytes.len() as i64,
            expected: digest.clone(),
            offset: offset as i64,
            data: data.to_vec(),
            labels: kept(),
        };
        let mut requests: Vec<_> = bytes
            .chunks(1 << 20)
            .enumerate()
            .map(|(at, data)| write(WriteAction::Write, at << 20, data))
            .collect();
        requests.push(write(WriteAction::Commit, bytes.len(), b""));
        let mut client = self.content.clone();
        let put = self.runtime.block_on(async {
            let mut answers = client.write(named(tokio_stream::iter(requests))).await?.into_inner();
            while answers.message().await?.is_some() {}
            Ok::<_, Status>(())
        });
        match put {
            Err(status) if status.code() != tonic::Code::AlreadyExists => panic!("{status:?}"),
            _ => Descriptor {
                media_type: media_type.to_owned(),
                digest,
                size: bytes.len() as i64,
                ..Descriptor::default()
            },
        }
    }

    /// Reads a blob of containerd's store.
    pub(crate) fn get(&self, digest: &str) -> Vec<u8> {
        let mut client = self.content.clone().max_decoding_message_size(16 << 20);
        let request = ReadContentRequest { digest: digest.to_owned(), ..ReadContentRequest::default() };
        self.runtime.block_on(async {
            let mut messages = client.read(named(request)).await.unwrap().into_inner();
            let mut bytes = Vec::new();
            while let Some(message) = messages.message().await.unwrap() {
                bytes.extend_from_slice(&message.data);
            }
            bytes
        })
    }

    pub(crate) fn info(&self, digest: &str) -> Option<Info> {
        let request = InfoRequest { digest: digest.to_owned() };
        let answer = self.runtime.block_on(self.content.clone().info(named(request)));
        answer.ok().and_then(|answer| answer.into_inner().info)
    }

    /// Begins a blob and leaves it.
    pub(crate) fn begin(&self, reference: &str, bytes: &[u8]) {
        let request = WriteContentRequest {
            action: WriteAction::Write.into(),
            r#ref: reference.to_owned(),
            data: bytes.to_vec(),
            ..WriteContentRequest::default()
        };
        let mut client = self.content.clone();
        self.runtime.block_on(async {
            let mut answers = client.write(named(tokio_stream::iter([request]))).await.unwrap().into_inner();
            while answers.message().await.unwrap().is_some() {}
        });
    }

    /// Returns what containerd has of blobs that were never finished.
    pub(crate) fn ingests(&self) -> Vec<PathBuf> {
        let place = self.environment.path("c-root/io.containerd.content.v1.content/ingest");
        fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    // ------------------------------------------------------------ trees

    /// Prepares a tree, and returns its mounts.
    pub(crate) fn prepare(&self, key: &str, parent: &str) -> Vec<Mount> {
        self.trees.prepare(key, parent).unwrap()
    }

    pub(crate) fn view(&self, key: &str, parent: &str) -> Vec<Mount> {
        self.trees.view(key, parent).unwrap()
    }

    pub(crate) fn mounts(&self, key: &str) -> Vec<Mount> {
        self.trees.mounts(key).unwrap()
    }

    pub(crate) fn commit(&self, name: &str, key: &str) {
        self.trees.commit(name, key).unwrap();
    }

    /// Commits on another parent than the tree was prepared on.
    pub(crate) fn commit_on(&self, name: &str, key: &str, parent: &str) -> Result<(), Status> {
        self.trees.commit_with(name, key, parent, HashMap::new())
    }

    pub(crate) fn remove(&self, key: &str) -> Result<(), Status> {
        self.trees.remove(key)
    }

    /// Removes all that is held, and waits until nothing of it is left on disk.
    pub(crate) fn remove_all(&self) {
        self.trees.remove_all();
        self.trees.cleanup().unwrap();
        for directory in ["o", "trash", "tmp"] {
            let place = self.environment.store().join(directory);
            let left: Vec<_> = fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }

    /// Commits what `blob` makes on `parent`, and returns its tree.
    pub(crate) fn layer(&self, name: &str, parent: &str, blob: &Descriptor) -> TreeValue {
        let key = format!("extract {name}");
        let mounts = self.prepare(&key, parent);
        self.apply(&self.differ, blob, &mounts).unwrap();
        self.commit(name, &key);
        self.tree(name)
    }

    /// Returns what a tree shows: an active one, or what a view of a committed one does.
    pub(crate) fn tree(&self, key: &str) -> TreeValue {
        match self.trees.mounts(key) {
            Ok(mounts) => self.shown(&mounts),
            Err(_) => {
                let view = format!("view of {key}");
                let tree = self.shown(&self.view(&view, key));
                self.remove(&view).unwrap();
                tree
            }
        }
    }

    pub(crate) fn shown(&self, mounts: &[Mount]) -> TreeValue {
        self.mounted(mounts, TreeValue::read_path)
    }

    /// Shows a tree at a path while something is done in it.
    pub(crate) fn at<T>(&self, key: &str, act: impl FnOnce(&Path) -> T) -> T {
        self.mounted(&self.mounts(key), act)
    }

    /// Mounts as containerd does.
    fn mounted<T>(&self, mounts: &[Mount], act: impl FnOnce(&Path) -> T) -> T {
        let place = tempfile::tempdir_in(self.environment.path("")).unwrap();
        act(Mounted::all(mounts, place.path()).path())
    }

    /// Returns the directory of a committed tree, which nobody should be told.
    pub(crate) fn at_rest(&self, key: &str) -> PathBuf {
        let view = format!("rest of {key}");
        let mounts = self.view(&view, key);
        self.remove(&view).unwrap();
        PathBuf::from(&mounts[0].source)
    }

    // ------------------------------------------------------------ the service

    pub(crate) fn apply(
        &self,
        differ: &DiffClient<Channel>,
        blob: &Descriptor,
        mounts: &[Mount],
    ) -> Result<Descriptor, Status> {
        let (diff, mounts) = (Some(blob.clone()), mounts.to_vec());
        let request = ApplyRequest { diff, mounts, sync_fs: true, ..ApplyRequest::default() };
        let answer = self.runtime.block_on(differ.clone().apply(named(request)));
        answer.map(|answer| answer.into_inner().applied.unwrap())
    }

    pub(crate) fn diff(
        &self,
        left: &[Mount],
        right: &[Mount],
        media_type: &str,
    ) -> Result<Descriptor, Status> {
        self.diff_as(DiffRequest {
            left: left.to_vec(),
            right: right.to_vec(),
            media_type: media_type.to_owned(),
            ..DiffRequest::default()
        })
    }

    pub(crate) fn diff_as(&self, mut request: DiffRequest) -> Result<Descriptor, Status> {
        request.labels.extend(kept());
        let answer = self.runtime.block_on(self.differ.clone().diff(named(request)));
        answer.map(|answer| answer.into_inner().diff.unwrap())
    }

    /// Makes a directory that is nobody's tree.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.environment.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }
}

fn channel(socket: &Path) -> Channel {
    Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap().connect_lazy()
}

/// Gives a request the namespace that containerd wants.
pub(crate) fn named<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", "test".parse().unwrap());
    request
}

pub(crate) fn bind(path: &Path) -> Vec<Mount> {
    let options = vec!["rbind".to_owned(), "rw".to_owned()];
    vec![Mount {
        r#type: "bind".to_owned(),
        source: path.to_str().unwrap().to_owned(),
        options,
        target: String::new(),
    }]
}

/// Returns what containerd's own snapshotter says of directories, one on the other.
pub(crate) fn overlay(upper: Option<(&Path, &Path)>, lowers: &[&Path]) -> Vec<Mount> {
    let mut options = vec!["index=off".to_owned()];
    match upper {
        Some((upper, work)) => {
            options.extend([format!("workdir={}", work.display()), format!("upperdir={}", upper.display())]);
        }
        None => options.push("ro".to_owned()),
    }
    let lowers: Vec<String> = lowers.iter().map(|lower| lower.display().to_string()).collect();
    options.push(format!("lowerdir={}", lowers.join(":")));
    vec![Mount { r#type: "overlay".to_owned(), source: "overlay".to_owned(), options, target: String::new() }]
}

/// Starts `rootling snapshotter` beside a containerd.
fn serve(environment: &Environment, backend: Kind, containerd: &Path) -> Server {
    let containerd = containerd.to_string_lossy();
    Server::start(environment, &["--backend", backend.name(), "--containerd", &containerd])
}

fn await_socket(socket: &Path, who: &str, said: &dyn Fn() -> String) {
    let began = Instant::now();
    while std::os::unix::net::UnixStream::connect(socket).is_err() {
        assert!(began.elapsed() < Duration::from_secs(30), "{who} does not listen: {}", said());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A containerd with root, state and socket of its own; it ends with the test.
pub(crate) struct Containerd {
    pub(crate) socket: PathBuf,
    config: PathBuf,
    log: PathBuf,
    child: Child,
}

impl Containerd {
    fn start(environment: &Environment) -> Self {
        let [root, state, opt, socket, config] =
            ["c-root", "c-state", "c-opt", "c.sock", "c.toml"].map(|name| environment.path(name));
        fs::write(
            &config,
            format!(
                "version = 2\nroot = {root:?}\nstate = {state:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]
                [grpc]\naddress = {socket:?}\n[plugins.\"io.containerd.internal.v1.opt\"]\npath = {opt:?}"
            ),
        )
        .unwrap();
        let log = environment.path("c.log");
        let child = run(&config, &log, &socket);
        Self { socket, config, log, child }
    }

    pub(crate) fn start_again(&mut self) {
        self.child = run(&self.config, &self.log, &self.socket);
    }

    /// Ends it, as a crash would.
    pub(crate) fn kill(&mut self) {
        // Best effort: it may have ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn run(config: &Path, log: &Path, socket: &Path) -> Child {
    // Best effort: that of one before is in the way.
    drop(fs::remove_file(socket));
    let said = fs::File::create(log).unwrap();
    let child = Command::new("containerd")
        .arg("--config")
        .arg(config)
        .args(["--log-level", "debug"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said)
        .spawn()
        .unwrap();
    await_socket(socket, "containerd", &|| fs::read_to_string(log).unwrap_or_default());
    child
}

/// What keeps a blob from being collected.
fn kept() -> HashMap<String, String> {
    labels(&[("containerd.io/gc.root", "1")])
}

/// Labels of a request.
pub(crate) fn labels(of: &[(&str, &str)]) -> HashMap<String, String> {
    of.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}
