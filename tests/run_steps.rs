//! `RUN` through the library: one command in one fork, and what is left of it there and elsewhere.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rootling::build::key;
use rootling::build::plan::{
    Ground, MountKind, Network, Owner, RunMount, RunStep, Security as Walls, Sharing,
};
use rootling::build::run::{
    Allow, Cache, CacheWanted, Ended, Files, Given, Inputs, Room, Stop, Template, Users, parse_secret,
    parse_ssh, perform,
};
use rootling::image::Platform;
use rootling::runner::log::Stream;
use rootling::runner::net::Dns;
use rootling::runner::{IdBlock, Limits, Net, Security};
use rootling::store::{Base, CreateOptions, Ephemeral, Name, Node, Store};
use rootling_backends::{Access, DiffOptions, ErrorKind, Kind, Result};

use crate::environment::{BINARY, Environment};
use crate::grounds::on_file_systems;
use crate::host::FileSystem;
use crate::lab::eventually;

/// A build that has a tree, contexts and caches.
struct Build {
    store: Store,
    base: Node,
    template: Template,
    inputs: Given0,
    options: CreateOptions,
    _ids: IdBlock,
}

#[derive(Debug, Default)]
struct Given0 {
    files: BTreeMap<String, Files>,
    caches: PathBuf,
    ended: Arc<Mutex<Vec<bool>>>,
}

impl Inputs for Given0 {
    fn files(&self, from: Option<&Ground>) -> Result<Files> {
        let name = match from {
            None => "",
            Some(Ground::Context(name)) => name,
            Some(_) => "stage",
        };
        Ok(self.files[name].clone())
    }

    fn cache(&self, wanted: CacheWanted<'_>) -> Result<Box<dyn Cache>> {
        let dir = self.caches.join(wanted.id);
        fs::create_dir_all(&dir).unwrap();
        Ok(Box::new(Directory(dir, Arc::clone(&self.ended))))
    }
}

struct Directory(PathBuf, Arc<Mutex<Vec<bool>>>);

impl Cache for Directory {
    fn dir(&self) -> &Path {
        &self.0
    }

    fn end(self: Box<Self>, succeeded: bool) -> Result<()> {
        self.1.lock().unwrap().push(succeeded);
        Ok(())
    }
}

/// What a command did.
struct Did {
    ended: Ended,
    stdout: String,
    stderr: String,
    fork: Ephemeral,
}

impl Build {
    fn new(environment: &Environment) -> Self {
        let store = Store::open(&environment.store()).unwrap();
        let base = node(&store, "base");
        let ids = IdBlock::take().unwrap();
        let template = Template {
            program: BINARY.into(),
            users: Users::new(ids.userns(), true),
            security: Security::default(),
            limits: Limits::default(),
            devices: Vec::new(),
            net: Net::None,
            dns: Dns::default(),
            hosts: vec![("db".into(), "10.0.0.1".parse().unwrap())],
            hostname: None,
            sysctls: Vec::new(),
            binds: Vec::new(),
            tmpfs: Vec::new(),
            shm_size: None,
            allow: Allow::default(),
            given: Given::default(),
            stop: Stop::new().unwrap(),
        };
        let inputs = Given0 { caches: environment.path("caches"), ..Given0::default() };
        Self { store, base, template, inputs, options: CreateOptions::default(), _ids: ids }
    }

    fn room(&self) -> Room<'_> {
        Room { store: &self.store, template: &self.template, inputs: &self.inputs }
    }

    fn fork(&self) -> Ephemeral {
        self.store.ephemeral(Base::Node(&self.base), self.options.clone()).unwrap()
    }

    fn try_run(&self, step: &RunStep) -> Result<Did> {
        let fork = self.fork();
        let said = Mutex::new((Vec::new(), Vec::new()));
        let ended = perform(step, &fork, self.room(), &|stream, bytes| {
            let mut said = said.lock().unwrap();
            match stream {
                Stream::Stdout => said.0.extend_from_slice(bytes),
                Stream::Stderr => said.1.extend_from_slice(bytes),
                _ => unreachable!("there is no third"),
            }
        })?;
        let (stdout, stderr) = said.into_inner().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ok(Did { ended, stdout: text(stdout), stderr: text(stderr), fork })
    }

    fn run(&self, step: &RunStep) -> Did {
        self.try_run(step).unwrap()
    }

    /// What a script prints that must succeed.
    fn ok(&self, step: &RunStep) -> String {
        let did = self.run(step);
        assert_eq!(did.ended.status, 0, "{}{}", did.stdout, did.stderr);
        did.stdout
    }

    /// What differs in a fork, directories' times included.
    fn changes(&self, did: &Did) -> Vec<String> {
        let options = DiffOptions { times: true };
        let changes = self.store.ephemeral_changes(&did.fork, options).unwrap();
        changes.iter().map(|change| format!("{} {}", change.kind.letter(), change.path.display())).collect()
    }
}

fn node(store: &Store, name: &str) -> Node {
    let id = store.resolve_name(&Name::parse(name).unwrap()).unwrap().unwrap();
    store.node(&id).unwrap()
}

fn step(script: &str) -> RunStep {
    RunStep {
        args: ["/bin/busybox", "sh", "-c", script].map(str::to_owned).to_vec(),
        files: Vec::new(),
        env: BTreeMap::new(),
        quiet_env: BTreeMap::new(),
        user: String::new(),
        workdir: "/".into(),
        mounts: Vec::new(),
        network: Network::Default,
        security: Walls::Sandbox,
    }
}

fn with(script: &str, mounts: impl IntoIterator<Item = (&'static str, MountKind)>) -> RunStep {
    let mounts = mounts.into_iter().map(|(target, kind)| RunMount { target: target.into(), kind }).collect();
    RunStep { mounts, ..step(script) }
}

fn bind(from: Option<&str>, source: &str, writable: bool) -> MountKind {
    let from = from.map(|name| match name {
        "stage" => Ground::Stage(0),
        name => Ground::Context(name.into()),
    });
    MountKind::Bind { from, source: source.into(), writable }
}

/// A store with a tree of one static program and nothing else.
fn scratch_tree(environment: &Environment) -> bool {
    if !environment.import_busybox() {
        return false;
    }
    let root = environment.path("scratch");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::copy(environment.path("root/bin/busybox"), root.join("bin/busybox")).unwrap();
    environment.ok(["rm", "--now", "base"]);
    environment.ok(["import", &format!("dir:{}", root.display()), "base"]);
    true
}

#[test]
fn a_layer_is_exactly_what_the_command_did_on_every_backend() {
    on_file_systems(|environment, sort| {
        if !scratch_tree(environment) {
            return;
        }
        let backends: &[Kind] = match sort {
            FileSystem::Btrfs => &[Kind::Btrfs, Kind::Overlay, Kind::Reflink, Kind::Copy],
            FileSystem::Xfs => &[Kind::Overlay, Kind::Reflink, Kind::Copy],
            _ => &[Kind::Overlay, Kind::Copy],
        };
        for backend in backends {
            let mut build = Build::new(environment);
            build.options.backend = Some(*backend);
            let context = environment.path("context");
            fs::create_dir_all(&context).unwrap();
            build.inputs.files.insert(String::new(), Files::Directory { path: context, hidden: vec![] });
            build.template.given = secrets(&["id=s,env=S"], &[("S", "hush")]);
            let mounts = || {
                [
                    ("/run/secrets/s", secret("s", None, true)),
                    ("/deep/er/still", bind(None, "", false)),
                    ("/tmp", MountKind::Tmpfs { size: None }),
                ]
            };
            let nothing = build.run(&with("true", mounts()));
            assert_eq!(nothing.ended.status, 0, "{}", nothing.stderr);
            assert_eq!(build.changes(&nothing), [""; 0], "{sort} {backend:?}");
            let script = "/bin/busybox touch /x /etc-is-mine; /bin/busybox mkdir /run; echo hi > /bin/new";
            let something = build.run(&RunStep { files: vec![script_file()], ..with(script, mounts()) });
            let mut changes = build.changes(&something);
            changes.sort();
            // Where `/run` was made for the secret, the command finds it.
            let expected = ["A bin/new", "A etc-is-mine", "A x", "C ", "C bin"];
            assert_eq!(changes, expected, "{sort} {backend:?} {}", something.stderr);
        }
    });
}

fn script_file() -> (String, String, u32) {
    ("/dev/pipes/EOF".into(), "#!/bin/busybox sh\necho \"$0 $1\"\n".into(), 0o755)
}

fn secrets(flags: &[&str], variables: &[(&str, &str)]) -> Given {
    let flags: Vec<_> = flags.iter().map(|text| parse_secret(text).unwrap()).collect();
    Given::read(&flags, &[], |name| {
        variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
    })
    .unwrap()
}

fn secret(id: &str, env: Option<&str>, is_file: bool) -> MountKind {
    MountKind::Secret {
        id: id.into(),
        required: true,
        env: env.map(str::to_owned),
        is_file,
        owner: Owner { uid: 0, gid: 0, mode: 0o400 },
    }
}

fn cache(id: &str, read_only: bool) -> MountKind {
    MountKind::Cache {
        id: id.into(),
        sharing: Sharing::Shared,
        from: None,
        source: String::new(),
        read_only,
        owner: Owner { uid: 0, gid: 0, mode: 0o755 },
    }
}

/// A store with a tree of busybox.
fn build() -> Option<(Environment, Build)> {
    let environment = Environment::new();
    environment.import_busybox().then(|| {
        let build = Build::new(&environment);
        (environment, build)
    })
}

#[test]
fn a_command_ends_as_a_shell_would_show_it() {
    let Some((_environment, build)) = build() else { return };
    let status = |args: &[&str]| {
        let args = args.iter().map(|text| (*text).to_owned()).collect();
        let ended = build.run(&RunStep { args, ..step("") }).ended;
        (ended.status, ended.signal(), ended.refused.map(|error| format!("{error}")))
    };
    assert_eq!(status(&["true"]), (0, None, None));
    assert_eq!(status(&["sh", "-c", "exit 7"]), (7, None, None));
    assert_eq!(status(&["sh", "-c", "kill -9 $$"]), (137, Some(9), None));
    let (code, _, refused) = status(&["nothing-of-the-sort"]);
    assert!(code == 127 && refused.unwrap().contains("nothing-of-the-sort"));
    let (code, _, refused) = status(&["/etc/passwd"]);
    assert!(code == 126 && refused.unwrap().contains("/etc/passwd"));
    let error = build.try_run(&RunStep { user: "nobody-here".into(), ..step("true") }).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn what_a_command_says_is_heard_in_order_and_whole() {
    let Some((_environment, build)) = build() else { return };
    let did = build.run(&step("seq 1 20000; seq 1 20000 >&2; printf 'no end'"));
    let lines: String = (1..=20000).map(|number| format!("{number}\n")).collect();
    assert_eq!(did.stderr, lines);
    assert_eq!(did.stdout, lines + "no end");
    // What reads gets nothing, and what is left behind ends with the command.
    let began = Instant::now();
    assert_eq!(build.ok(&step("cat; sleep 60 & echo done")), "done\n");
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_command_has_the_surroundings_of_its_step() {
    let Some((environment, build)) = build() else { return };
    let pairs = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let env = build.ok(&RunStep {
        env: pairs(&[("A", "b c"), ("PATH", "/bin")]),
        quiet_env: pairs(&[("http_proxy", "p"), ("A", "lost")]),
        user: "me".into(),
        ..step("env -u SHLVL -u PWD | sort; id -u; pwd; hostname")
    });
    assert_eq!(env, "A=b c\nHOME=/\nPATH=/bin\nhttp_proxy=p\n1000\n/\nbuildkitsandbox\n");
    let env = build.ok(&step("echo $HOME $PATH; cat /etc/hostname; grep -w db /etc/hosts; umask; tty; true"));
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(env, format!("/root {path}\nbuildkitsandbox\n10.0.0.1\tdb\n0022\nnot a tty\n"));
    let did = build.run(&RunStep { workdir: "/srv/a b".into(), ..step("pwd") });
    assert_eq!(did.stdout, "/srv/a b\n");
    assert!(build.changes(&did).contains(&"A srv/a b".to_owned()));
    assert_eq!(
        build.ok(&RunStep {
            files: vec![script_file()],
            args: vec!["/dev/pipes/EOF".into(), "x".into()],
            ..step("")
        }),
        "/dev/pipes/EOF x\n"
    );
    drop(environment);
}

/// Every byte of every file of a directory.
fn everything(dir: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in walkdir::WalkDir::new(dir) {
        let entry = entry.unwrap();
        bytes.extend_from_slice(entry.path().as_os_str().as_encoded_bytes());
        if entry.file_type().is_file() {
            bytes.extend(fs::read(entry.path()).unwrap());
        }
    }
    bytes
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn secrets_are_seen_by_the_command_and_by_nothing_else() {
    const HUSH: &str = "hush-4711-hush";
    let Some((environment, mut build)) = build() else { return };
    build.template.given = secrets(&["id=file,env=F", "id=var,env=V"], &[("F", HUSH), ("V", HUSH)]);
    let script = "ls -l /run/secrets/file /own | cut -c1-10,14-; cat /run/secrets/file; echo; echo $TOKEN; cat /own; echo; until [ -e /go/now ]; do sleep 0.01; done";
    let own = MountKind::Secret {
        id: "file".into(),
        required: true,
        env: None,
        is_file: true,
        owner: Owner { uid: 1000, gid: 1000, mode: 0o440 },
    };
    let step = with(
        script,
        [
            ("/run/secrets/file", secret("file", None, true)),
            ("/nowhere", secret("var", Some("TOKEN"), false)),
            ("/own", own),
            ("/go", cache("go", false)),
        ],
    );
    let fork = build.fork();
    let said = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            perform(&step, &fork, build.room(), &|_, bytes| said.lock().unwrap().extend_from_slice(bytes))
        });
        let _ended = EndedWithThis(&build.template.stop);
        let seen = || String::from_utf8(said.lock().unwrap().clone()).unwrap();
        eventually("it says all of it", || running.is_finished() || seen().matches(HUSH).count() == 3);
        assert!(!running.is_finished(), "{}", seen());
        // While it runs: everybody's arguments, and the variables of all but those of the box.
        let mut looked_at = 0;
        for entry in fs::read_dir("/proc").unwrap() {
            let process = entry.unwrap().path();
            let Ok(cmdline) = fs::read(process.join("cmdline")) else { continue };
            assert!(!holds(&cmdline, HUSH), "{process:?}");
            let is_inside = holds(&cmdline, "/go/now") || cmdline.starts_with(b"sleep");
            let environ = fs::read(process.join("environ")).unwrap_or_default();
            assert!(is_inside || !holds(&environ, HUSH), "{process:?} {}", String::from_utf8_lossy(&cmdline));
            looked_at += 1;
        }
        assert!(looked_at > 3);
        assert!(!holds(&everything(&environment.store()), HUSH), "in the store while it runs");
        fs::write(build.inputs.caches.join("go/now"), "").unwrap();
        let ended = running.join().unwrap().unwrap();
        assert_eq!(ended.status, 0);
        let said = seen();
        let lines: Vec<_> = said.lines().collect();
        assert!(lines[0].starts_with("-r--r-----") && lines[1].starts_with("-r--------"), "{said}");
        assert_eq!(lines[2..], [HUSH, HUSH, HUSH]);
        assert!(!format!("{ended:?}{:?}{step:?}", build.template).contains(HUSH));
    });
    assert!(!holds(&everything(&environment.store()), HUSH), "in the store");
    let fields = key::of_run(&step, "", &Platform::host(), &[]);
    assert!(!format!("{fields:?}").contains(HUSH));
    assert!(!fork_root(&build, &fork).join("run").exists());
}

/// A test that fails waits for nobody.
struct EndedWithThis<'a>(&'a Stop);

impl Drop for EndedWithThis<'_> {
    fn drop(&mut self) {
        self.0.ask();
        self.0.ask();
    }
}

/// Where a fork's files are written: a directory whose changes show in the box.
fn fork_root(build: &Build, fork: &Ephemeral) -> PathBuf {
    match fork.mount(&build.store, Access::ReadWrite, true).unwrap() {
        rootling_backends::Mount::Bind { source } => source,
        rootling_backends::Mount::Overlay(overlay) | rootling_backends::Mount::FuseOverlay(overlay) => {
            overlay.upper.unwrap().dir
        }
    }
}

#[test]
fn a_secret_that_is_missing_is_an_error_only_where_it_is_required() {
    let Some((_environment, mut build)) = build() else { return };
    build.template.given = secrets(&["id=tokens,env=T"], &[("T", "x")]);
    let error = build.try_run(&with("true", [("/s", secret("token", None, true))])).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(format!("{error:?}").contains("type=secret,target=/s"), "{error:?}");
    assert!(error.first_hint().unwrap().contains("\"tokens\""), "{error:?}");
    let MountKind::Secret { id, env, is_file, owner, .. } = secret("token", Some("T"), true) else { return };
    let optional = MountKind::Secret { id, env, is_file, owner, required: false };
    assert_eq!(
        build.ok(&with("ls /s 2>&1; echo [$T]", [("/s", optional)])),
        "ls: /s: No such file or directory\n[]\n"
    );
}

#[test]
fn files_of_a_context_show_without_what_is_ignored() {
    on_file_systems(|environment, sort| {
        if !environment.import_busybox() {
            return;
        }
        let mut build = Build::new(environment);
        let context = environment.path("context");
        for (path, content) in [
            ("a/keep", "kept\n"),
            ("a/drop/x", "no\n"),
            ("a/.git/y", "no\n"),
            ("b", "b\n"),
            ("z/only", "no\n"),
        ] {
            let path = context.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        symlink("/etc/hostname", context.join("a/link")).unwrap();
        symlink("../../../../b", context.join("a/up")).unwrap();
        fs::set_permissions(context.join("a"), fs::Permissions::from_mode(0o751)).unwrap();
        let hidden = ["a/drop", "a/.git", "z"].map(PathBuf::from).to_vec();
        build.inputs.files.insert(String::new(), Files::Directory { path: context.clone(), hidden });
        build.inputs.files.insert("all".into(), Files::Directory { path: context.clone(), hidden: vec![] });
        let list = "cd /m && find . | sort | tr '\\n' ' '; stat -c %a /m/a 2>/dev/null; echo x > /m/new 2>/dev/null || echo refused";
        let shown = build.ok(&with(list, [("/m", bind(None, "/", false))]));
        assert_eq!(shown, ". ./a ./a/keep ./a/link ./a/up ./b 751\nrefused\n", "{sort}");
        let shown = build.ok(&with(list, [("/m", bind(None, "a", false))]));
        assert_eq!(shown, ". ./keep ./link ./up refused\n", "{sort}");
        let error = build.try_run(&with("true", [("/m", bind(None, "a/drop/x", false))])).err().unwrap();
        assert!(format!("{error:?}").contains(".dockerignore"), "{error:?}");
        let error = build.try_run(&with("true", [("/m", bind(Some("all"), "none", false))])).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        // Within the context: its links lead to its own files, whatever they are called on the host.
        let error = build.try_run(&with("true", [("/m", bind(Some("all"), "a/link", false))])).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(build.ok(&with("cat /m", [("/m", bind(Some("all"), "a/up", false))])), "b\n");
        // Written to, and as it was afterwards.
        for from in [None, Some("all")] {
            let before = everything(&context);
            let script = "cd /m && echo more >> b && rm -r a/keep && mkdir -p new/d && cat b && ls a";
            let shown = build.ok(&with(script, [("/m", bind(from, "", true))]));
            let rest = if from.is_some() { "drop\nlink\nup\n" } else { "link\nup\n" };
            assert_eq!(shown, format!("b\nmore\n{rest}"), "{sort}");
            assert_eq!(everything(&context), before);
        }
        assert_eq!(build.ok(&with("echo y >> /f; cat /f", [("/f", bind(Some("all"), "b", true))])), "b\ny\n");
        assert_eq!(fs::read_to_string(context.join("b")).unwrap(), "b\n");
        assert_eq!(fs::metadata(context.join("b")).unwrap().uid(), 0);
        let left: Vec<_> = fs::read_dir(environment.store().join("tmp")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    });
}

#[test]
fn files_of_another_stage_show_whatever_its_backend_is() {
    on_file_systems(|environment, sort| {
        if !environment.import_busybox() {
            return;
        }
        environment.ok(["create", "base", "box"]);
        environment.ok(["exec", "box", "--", "sh", "-c", "mkdir /out; echo made > /out/file; rm /etc/group"]);
        environment.ok(["commit", "box", "made"]);
        let mut build = Build::new(environment);
        let (shown, _) = build.store.mount(&node(&build.store, "made")).unwrap();
        build.inputs.files.insert("stage".into(), Files::Tree(shown));
        let cat = |writable| {
            with(
                "cat /m/file; echo x >> /m/file && cat /m/file",
                [("/m", bind(Some("stage"), "/out", writable))],
            )
        };
        assert_eq!(build.run(&cat(false)).stdout, "made\n", "{sort}");
        assert_eq!(build.run(&cat(true)).stdout, "made\nmade\nx\n", "{sort}");
        assert_eq!(build.run(&cat(false)).stdout, "made\n", "{sort}");
        let whole = with("ls /m/etc; ls -ldn /m/out | cut -c1-20", [("/m", bind(Some("stage"), "", false))]);
        let shown = build.ok(&whole);
        assert!(shown.starts_with("passwd\ndrwxr-xr-x"), "{sort}: {shown}");
    });
}

#[test]
fn a_cache_stays_and_hears_how_the_command_ended() {
    let Some((_environment, build)) = build() else { return };
    let did = build.run(&with("echo first > /c/x; touch /c/y; exit 3", [("/c", cache("one", false))]));
    assert_eq!(did.ended.status, 3);
    assert_eq!(build.changes(&did), [""; 0]);
    assert_eq!(
        build.ok(&with("cat /c/x; rm /c/y 2>/dev/null || echo refused", [("/c", cache("one", true))])),
        "first\nrefused\n"
    );
    assert_eq!(*build.inputs.ended.lock().unwrap(), [false, true]);
    assert_eq!(
        fs::metadata(build.inputs.caches.join("one/x")).unwrap().uid(),
        0,
        "root inside is root on disk"
    );
}

#[test]
fn memory_holds_no_more_than_was_asked_for() {
    let Some((_environment, build)) = build() else { return };
    let script = "dd if=/dev/zero of=$0 bs=1k count=100 2>&1 | grep -c 'No space'";
    for target in ["/m", "/dev/shm"] {
        let script = script.replace("$0", &format!("{target}/x"));
        let step = with(&script, [(target, MountKind::Tmpfs { size: Some(64 << 10) })]);
        assert_eq!(build.run(&step).stdout, "1\n", "{target}");
    }
}

#[test]
fn walls_are_as_the_step_and_the_build_say() {
    let Some((_environment, mut build)) = build() else { return };
    let net = "ls /sys/class/net; grep CapEff /proc/self/status";
    let host = RunStep { network: Network::Host, ..step(net) };
    let insecure = RunStep { security: Walls::Insecure, ..step(net) };
    assert_eq!(build.ok(&step(net)), "lo\nCapEff:\t00000000a80425fb\n");
    for refused in [&host, &insecure] {
        let error = build.try_run(refused).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.first_hint().unwrap().contains("--allow"), "{error:?}");
    }
    build.template.allow = Allow { insecure: true, host_network: true };
    let ours = fs::read_dir("/sys/class/net").unwrap().count();
    assert_eq!(build.ok(&host).lines().count(), ours + 1);
    assert_ne!(build.ok(&insecure), build.ok(&step(net)));
    build.template.net = Net::Host;
    build.template.allow = Allow::default();
    assert_eq!(build.ok(&host).lines().count(), ours + 1);
    assert_eq!(build.ok(&RunStep { network: Network::None, ..step(net) }).lines().next(), Some("lo"));
}

#[test]
fn steps_run_beside_each_other() {
    let Some((_environment, build)) = build() else { return };
    let meet = |mine: &str, theirs: &str| {
        let script =
            format!("touch /c/{mine}; until [ -e /c/{theirs} ]; do sleep 0.01; done; echo {mine} > /mine");
        with(&script, [("/c", cache("meet", false))])
    };
    std::thread::scope(|scope| {
        let both = [("a", "b"), ("b", "a")].map(|(mine, theirs)| {
            let build = &build;
            scope.spawn(move || build.run(&meet(mine, theirs)))
        });
        for (one, mine) in both.into_iter().zip(["a\n", "b\n"]) {
            let did = one.join().unwrap();
            assert_eq!(did.ended.status, 0);
            assert_eq!(fs::read_to_string(fork_root(&build, &did.fork).join("mine")).unwrap(), mine);
        }
    });
}

#[test]
fn what_runs_is_asked_to_end_and_then_killed() {
    let stopped = |script: &str, times: u32| {
        let Some((_environment, build)) = build() else { return (0, false) };
        let began = Instant::now();
        let fork = build.fork();
        let said = Mutex::new(Vec::new());
        let ended = std::thread::scope(|scope| {
            let running = scope.spawn(|| {
                perform(&step(script), &fork, build.room(), &|_, bytes| {
                    said.lock().unwrap().extend_from_slice(bytes)
                })
            });
            eventually("it runs", || holds(&said.lock().unwrap(), "ready"));
            (0..times).for_each(|_| build.template.stop.ask());
            running.join().unwrap().unwrap()
        });
        assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
        let again = build.run(&step("true"));
        assert!(again.ended.stopped, "nothing runs any more");
        (ended.status, ended.stopped)
    };
    assert_eq!(
        stopped("trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.01; done", 1),
        (5, true)
    );
    assert_eq!(stopped("trap '' TERM; echo ready; while :; do sleep 0.01; done", 2), (143, true));
}

#[test]
fn an_agent_is_reached_through_a_socket_of_the_steps_own() {
    use std::io::{Read, Write};
    let Some((environment, mut build)) = build() else { return };
    let socket = environment.path("agent");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut asked = [0; 5];
            drop(stream.read_exact(&mut asked).and_then(|()| stream.write_all(b"agent heard ")));
            drop(stream.write_all(&asked));
        }
    });
    let flag = parse_ssh(&format!("default={}", socket.display())).unwrap();
    build.template.given = Given::read(&[], &[flag], |_| None).unwrap();
    let ssh = |id: &str, required| MountKind::Ssh {
        id: id.into(),
        required,
        owner: Owner { uid: 1000, gid: 1000, mode: 0o600 },
    };
    // The one who talks is dynamic: the host's libraries come along.
    let examples = PathBuf::from(BINARY).parent().unwrap().join("examples");
    for (name, path) in [("usr", PathBuf::from("/usr")), ("examples", examples)] {
        build.inputs.files.insert(name.into(), Files::Directory { path, hidden: vec![] });
    }
    for name in ["lib", "lib64"] {
        symlink(format!("usr/{name}"), environment.path("root").join(name)).unwrap();
    }
    environment.ok(["import", &format!("dir:{}", environment.path("root").display()), "dynamic"]);
    build.base = node(&build.store, "dynamic");
    let script =
        "echo $SSH_AUTH_SOCK; ls -ln $SSH_AUTH_SOCK | cut -c1-10; /p/prober talk $SSH_AUTH_SOCK hello";
    let target = "/run/buildkit/ssh_agent.0";
    let mounts = [
        (target, ssh("default", true)),
        ("/usr", bind(Some("usr"), "", false)),
        ("/p", bind(Some("examples"), "", false)),
    ];
    let did = build.run(&RunStep { user: "me".into(), ..with(script, mounts) });
    let expected = format!("{target}\nsrw-------\ntalk: agent heard hello: done\n");
    assert_eq!(did.stdout, expected, "{}", did.stderr);
    assert_eq!(build.changes(&did), [""; 0]);
    assert!(build.try_run(&with("true", [(target, ssh("other", true))])).is_err());
    assert_eq!(build.ok(&with("echo [$SSH_AUTH_SOCK]", [(target, ssh("other", false))])), "[]\n");
}

#[test]
fn root_inside_is_root_outside_where_owners_cannot_be_mapped() {
    // A file system that maps no owners takes a build with the host's users, once and for all of its steps.
    let Some((_environment, mut build)) = build() else { return };
    build.template.users = Users::new(rootling::runner::Userns::Host, false);
    assert_eq!(build.ok(&step("cat /proc/self/uid_map | tr -s ' '")), " 0 0 4294967295\n");
}
