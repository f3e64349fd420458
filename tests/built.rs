//! What was built, as an image: layers that say the same whatever backend made them, and only what was asked for.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::process::Command;

use rootling::build::plan::{self, Base, Bases, Plan, PlanOptions};
use rootling::build::result::{self, ImageOptions, Layers};
use rootling::build::syntax;
use rootling::image::{Configuration, Digest, Document, ImageConfig, Platform};
use rootling::store::{Name, Node, StepRecord, Store};
use rootling::transfer::making::{self, Made, MakeOptions};
use rootling_backends::{Access, Kind, Result};
use serde_json::json;

use crate::environment::{Environment, ran};
use crate::grounds::on_file_systems;
use crate::host::FileSystem;
use crate::oci::Tar;
use crate::serve::server::Server;
use crate::transfer::{change, exported, image, make_image};

/// What each step of a recipe does; the recipe says the same in words.
type Scripts<'a> = &'a [&'a str];

/// The only base there is.
struct Only(ImageConfig);

impl Bases for Only {
    fn image(&mut self, _: &str, _: &Platform) -> Result<Base> {
        Ok(Base { config: self.0.clone(), ..Base::default() })
    }

    fn context(&mut self, _: &str, _: &Platform) -> Result<Base> {
        Ok(Base::default())
    }
}

fn planned(recipe: &str, base: Option<&Node>, epoch: Option<&str>) -> Plan {
    let args = epoch.map(|epoch| ("SOURCE_DATE_EPOCH".to_owned(), epoch.to_owned()));
    let options = PlanOptions { args: args.into_iter().collect(), ..PlanOptions::default() };
    let config = base.map(|base| base.record.config.clone()).unwrap_or_default();
    plan::plan(&syntax::parse(recipe.as_bytes()).unwrap(), &options, &mut Only(config)).unwrap()
}

/// Does a step: its script is run in the root of its tree.
fn step(store: &Store, kind: Kind, base: Option<&Node>, script: &str) -> Node {
    let key = format!("{kind:?} {:?} {script}", base.map(|base| base.id.clone()));
    let fork = store.step_fork(base, Some(kind)).unwrap();
    {
        let mount = fork.mount(store, Access::ReadWrite, true).unwrap().open(Access::ReadWrite).unwrap();
        let root = format!("/proc/{}/fd/{}", std::process::id(), mount.as_raw_fd());
        let mut shell = Command::new("sh");
        let ran = ran(shell.args(["-euc", &format!("umask 022\ncd {root}/.\n{script}")]).output().unwrap());
        assert_eq!(ran.code, 0, "{script}: {}", ran.stderr);
    }
    let record = StepRecord {
        key: Digest::sha256_of(key.as_bytes()),
        recipe: None,
        stage: "0".to_owned(),
        number: 1,
        shown: script.to_owned(),
        fields: Vec::new(),
        flags: BTreeMap::new(),
        failure: None,
        adopted: false,
        took_ms: 0,
    };
    store.commit_step(fork, record, ImageConfig::default()).unwrap()
}

/// Does a stage of steps, each instruction but `ENV` with the next script; returns what the build's executor would.
fn done(
    store: &Store,
    kind: Kind,
    plan: &Plan,
    base: Option<&Node>,
    scripts: Scripts<'_>,
) -> Vec<(usize, Vec<Option<Node>>)> {
    let (mut scripts, mut at) = (scripts.iter(), base.cloned());
    let stage = plan.stages.last().unwrap();
    let nodes = stage.steps.iter().map(|planned| match planned.work {
        plan::Work::Say => None,
        _ => {
            at = Some(step(store, kind, at.as_ref(), scripts.next().unwrap()));
            at.clone()
        }
    });
    vec![(stage.number, nodes.collect())]
}

fn publish(
    store: &Store,
    plan: &Plan,
    line: &[(usize, Vec<Option<Node>>)],
    base: Option<&Node>,
    name: &str,
    layers: Layers,
) -> Node {
    let options = ImageOptions { layers, ..ImageOptions::default() };
    let image = result::image(store, plan, line, base, &options).unwrap();
    store.publish_built(image.top.as_ref(), &[Name::parse(name).unwrap()], image.config, image.built).unwrap()
}

fn make(store: &Store, node: &Node) -> Made {
    let blobs = store.blobs().unwrap();
    let line = store.line_of(node).unwrap();
    making::make(&blobs, &line, &MakeOptions::default(), &|_| ()).unwrap()
}

fn configuration(made: &Made) -> Configuration {
    let configuration = Configuration::parse(&made.config).unwrap();
    configuration.check(made.manifest.manifest().unwrap()).unwrap();
    configuration
}

/// What history says, and whether there is a layer for it.
fn history(made: &Made) -> Vec<(String, bool)> {
    let said = configuration(made).history;
    said.into_iter().map(|entry| (entry.created_by, !entry.empty_layer)).collect()
}

/// The names in the layers of an image, each as `tar` lists them.
fn names(store: &Store, made: &Made) -> Vec<Vec<String>> {
    let layers = &made.manifest.manifest().unwrap().layers;
    let listed = layers.iter().map(|layer| {
        let hex = layer.digest.to_string().replace("sha256:", "");
        let blob = store.root().join("blobs/sha256").join(hex);
        let ran = ran(Command::new("tar")
            .arg("-tvf")
            .arg(blob)
            .args(["--numeric-owner", "--full-time"])
            .output()
            .unwrap());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran.stdout.lines().map(str::to_owned).collect()
    });
    listed.collect()
}

const EPOCH: &str = "1700000000";

/// Everything that backends do in ways of their own. One thing no layer can undo: of a file with several names that is written to
/// in place, OverlayFS changes the one name that it was opened by, as it does for everybody.
const ODD: Scripts<'_> = &[
    "mkdir -p etc usr/lib usr/share/doc var/empty tmp
     chmod 1777 tmp; echo a > etc/a; ln etc/a etc/b; echo x > usr/lib/x; ln -s lib usr/lib64
     for i in 1 2 3 4 5; do echo $i > usr/share/doc/$i; done; touch -d @1000 etc/a usr/lib/x usr/lib",
    "echo more >> usr/lib/x",
    "rm -r usr/share/doc; mkdir usr/share/doc; echo new > usr/share/doc/new",
    "mv usr/lib usr/libx; ln -s libx usr/lib",
    "chmod 700 etc; chown 5:6 usr/share; setfattr -n user.x -v 1 usr/libx/x",
    "true",
    "rm etc/b; echo b > etc/b",
    "ln usr/libx/x var/x",
    "cat etc/a > tmp/y; rm tmp/y",
    "touch -d @5 var/empty; mkfifo var/pipe",
    "cp -a etc/a etc/c; mv etc/c etc/a",
    "rm -r var/empty; echo file > var/empty",
    "mkdir -p deep/er/est; echo 1 > deep/er/est/1",
    "rm -r deep; mkdir -p deep/er; chmod 750 deep",
    "chmod +x usr/share/doc/new",
    "rm usr/lib64; mkdir usr/lib64; echo x > usr/lib64/y",
    "exec 9< etc/a; : >> etc/a",
    "ln -f etc/a var/a; ln -f etc/a var/b",
    "echo w > .wh; mkdir '.name with space'; echo ü > 'ü'; rm .wh",
];

fn odd_recipe() -> String {
    let runs: String = ODD.iter().skip(1).map(|_| "RUN x\n").collect();
    format!("FROM scratch\nENV A=b\nCOPY . /\n{runs}CMD [\"x\"]\n")
}

#[test]
fn layers_are_the_same_on_every_backend() {
    let found = std::sync::Mutex::new(Vec::new());
    on_file_systems(|environment, file_system| {
        let kinds: &[Kind] = match file_system {
            FileSystem::Btrfs => &[Kind::Btrfs, Kind::Reflink, Kind::Overlay],
            FileSystem::Xfs => &[Kind::Reflink, Kind::Overlay, Kind::Copy],
            _ => &[Kind::Overlay, Kind::Copy],
        };
        let store = Store::open(&environment.store()).unwrap();
        let plan = planned(&odd_recipe(), None, Some(EPOCH));
        for kind in kinds {
            let line = done(&store, *kind, &plan, None, ODD);
            let node = publish(&store, &plan, &line, None, "odd:1", Layers::Steps);
            let made = make(&store, &node);
            found.lock().unwrap().push((
                format!("{kind:?} on {file_system:?}"),
                made.manifest.digest.clone(),
                names(&store, &made),
                history(&made),
            ));
            let squashed = publish(&store, &plan, &line, None, "one:1", Layers::One);
            let made = make(&store, &squashed);
            assert_eq!(made.manifest.manifest().unwrap().layers.len(), 1);
            found.lock().unwrap().push((
                format!("one of {kind:?} on {file_system:?}"),
                made.manifest.digest.clone(),
                names(&store, &made),
                history(&made),
            ));
        }
        environment.ok(["fsck"]);
    });
    let found = found.into_inner().unwrap();
    for (which, digest, names, history) in &found {
        let first =
            found.iter().find(|other| other.0.starts_with("one") == which.starts_with("one")).unwrap();
        assert_eq!((names, history), (&first.2, &first.3), "{which} and {}", first.0);
        assert_eq!(digest, &first.1, "{which} and {}", first.0);
    }
}

/// A stage on the image `app:1`, with three steps: two of them change files, and the first ends a layer whatever comes.
const ON_IMAGE: &str = "FROM app:1\nENV A=b\n# rootling: layer\nRUN one\nRUN two\nRUN three\nCMD [\"x\"]\n";

/// Pulls an image of two layers, and builds on it; `None` where that cannot be done here.
/// Stages by number, with the nodes of their steps.
type Line = Vec<(usize, Vec<Option<Node>>)>;

fn on_image(environment: &Environment) -> Option<(Store, Plan, Node, Line)> {
    if !make_image(environment) {
        return None;
    }
    environment.ok(["pull", &image(environment), "app:1"]);
    let store = Store::open(&environment.store()).unwrap();
    let base = store.named(&Name::parse("app:1").unwrap()).unwrap().unwrap();
    let plan = planned(ON_IMAGE, Some(&base), None);
    let kind = store.ephemeral_backend();
    let line =
        done(&store, kind, &plan, Some(&base), &["echo 1 > etc/1", "true", "rm etc/one; echo 3 > etc/3"]);
    Some((store, plan, base, line))
}

#[test]
fn layers_end_where_it_was_asked_for() {
    let environment = Environment::new();
    let Some((store, plan, base, line)) = on_image(&environment) else { return };
    let layers = |layers: Layers| {
        let node = publish(&store, &plan, &line, Some(&base), "built:1", layers);
        let made = make(&store, &node);
        let said: Vec<(String, bool)> = history(&made).split_off(2);
        let names: Vec<Vec<String>> = names(&store, &made)
            .iter()
            .map(|layer| {
                let names = layer.iter().map(|line| line.rsplit(' ').next().unwrap().to_owned());
                names
                    .filter(|name| {
                        name.starts_with("etc/")
                            && name.len() < 12
                            && !["etc/", "etc/passwd"].contains(&name.as_str())
                    })
                    .collect()
            })
            .collect();
        (names, said.iter().map(|(_, is_layer)| *is_layer).collect::<Vec<_>>())
    };
    let lists = |lists: &[&[&str]]| -> Vec<Vec<String>> {
        lists.iter().map(|list| list.iter().map(|name| (*name).to_owned()).collect()).collect()
    };
    let (names, said) = layers(Layers::Steps);
    assert_eq!(names[2..], lists(&[&["etc/1"], &["etc/.wh.one", "etc/3"]]), "{names:?}");
    assert_eq!(said, [false, true, false, true, false]);
    let (names, said) = layers(Layers::Marked);
    assert_eq!(names[2..], lists(&[&["etc/1"], &["etc/.wh.one", "etc/3"]]));
    assert_eq!(said, [false, true, false, true, false]);
    let (names, said) = layers(Layers::BaseAndOne);
    assert_eq!(names[2..], lists(&[&["etc/.wh.one", "etc/1", "etc/3"]]));
    assert_eq!(said, [false, false, false, true, false]);
    let (names, said) = layers(Layers::One);
    assert_eq!(names.len(), 1);
    assert!(
        names[0].contains(&"etc/3".to_owned()) && !names[0].iter().any(|name| name.contains(".wh.")),
        "{names:?}"
    );
    assert_eq!(said, [false, false, false, false, true]);
    environment.ok(["fsck"]);
}

#[test]
fn a_layer_is_made_once_and_the_base_keeps_its_own() {
    let environment = Environment::new();
    let Some((store, plan, base, line)) = on_image(&environment) else { return };
    let node = publish(&store, &plan, &line, Some(&base), "built:1", Layers::Steps);
    let first = make(&store, &node);
    assert_eq!(first.packed, 2);
    let node = store.named(&Name::parse("built:1").unwrap()).unwrap().unwrap();
    let second = make(&store, &node);
    assert_eq!((second.packed, &second.manifest.digest), (0, &first.manifest.digest));
    let own: Vec<Digest> = {
        let image = base.record.image.as_ref().unwrap();
        let bytes = store.read_blob(&image.manifest, 1 << 20).unwrap();
        let manifest = Document::parse(bytes, Some(&image.media_type)).unwrap();
        manifest.manifest().unwrap().layers.iter().map(|layer| layer.digest.clone()).collect()
    };
    let manifest = first.manifest.manifest().unwrap();
    assert_eq!(manifest.layers.len(), 4);
    assert!(manifest.layers.iter().zip(&own).all(|(layer, own)| layer.digest == *own));
    let said = configuration(&first);
    assert_eq!((said.config.cmd, said.config.user), (vec!["x".to_owned()], "app".to_owned()));
    // A build that finds all done makes the same image, and one with a time of its own makes others, once.
    let again = publish(&store, &plan, &line, Some(&base), "built:1", Layers::Steps);
    assert_eq!(again.id, node.id);
    let timed = planned(ON_IMAGE, Some(&base), Some(EPOCH));
    let node = publish(&store, &timed, &line, Some(&base), "built:2", Layers::Steps);
    let (made, again) = (make(&store, &node), make(&store, &node));
    assert_eq!(configuration(&made).created.unwrap(), "2023-11-14T22:13:20Z");
    assert!(
        configuration(&made).history[2..]
            .iter()
            .all(|entry| entry.created.as_deref() == Some("2023-11-14T22:13:20Z"))
    );
    assert_eq!((made.packed, &made.manifest.digest), (2, &again.manifest.digest));
}

#[test]
fn what_was_built_is_an_image_like_others() {
    let environment = Environment::new();
    let Some((store, plan, base, line)) = on_image(&environment) else { return };
    publish(&store, &plan, &line, Some(&base), "built:1", Layers::Steps);
    drop(store);
    let row = || environment.json(["images", "built"])[0].clone();
    // Which of its steps are layers is not known before they are made.
    assert_eq!(
        (&row()["name"], &row()["layers"], &row()["size_bytes"]),
        (&json!("built:1"), &json!(5), &json!(null))
    );
    let history = environment.json(["history", "built:1"]);
    let said: Vec<&str> =
        history.as_array().unwrap().iter().map(|step| step["created_by"].as_str().unwrap()).collect();
    assert_eq!(
        said[..5],
        [
            "CMD [\"x\"]",
            "RUN /bin/sh -c three # buildkit",
            "RUN /bin/sh -c two # buildkit",
            "RUN /bin/sh -c one # buildkit",
            "ENV A=b"
        ]
    );
    assert_eq!(row()["layers"], json!(4));
    assert!(row()["size_bytes"].as_u64().unwrap() > 0 && row()["platform"].is_string(), "{}", row());
    let inspected = environment.json(["inspect", "built:1"])[0].clone();
    assert_eq!(inspected["RepoTags"], json!(["built:1"]), "{inspected}");
    // From now on it is known by its digests, too.
    for digest in ["digest", "config_digest"].map(|field| row()[field].as_str().unwrap().to_owned()) {
        assert_eq!(
            environment.ok(["run", "--user", "0", "--entrypoint", "/bin/cat", &digest, "/etc/1"]),
            "1\n"
        );
    }
    let whole = format!("built:1@{}", row()["digest"].as_str().unwrap());
    assert_eq!(environment.json(["inspect", &whole])[0]["Id"], inspected["Id"]);
    let missing = environment.fails(["show", &format!("sha256:{}", "0".repeat(64))]);
    assert!(missing.contains("images --digests"), "{missing}");
    assert_eq!(
        environment.ok(["run", "--user", "0", "--entrypoint", "/bin/cat", "built:1", "/etc/1", "/etc/3"]),
        "1\n3\n"
    );
    // The image it stands on may go: its layers stay.
    environment.ok(["rmi", "app:1"]);
    environment.ok(["prune"]);
    // A box on it is an image with a layer more, and so is what is built on that.
    environment.ok(["create", "built:1", "dev"]);
    change(&environment, "dev", "echo 4 > /etc/4");
    let layout = format!("oci:{}", environment.path("out").display());
    environment.ok(["push", "dev", &layout]);
    let pushed = environment.json(["inspect", &layout])[0].clone();
    assert_eq!(pushed["RootFS"]["Layers"].as_array().unwrap().len(), 5, "{pushed}");
    let layout = format!("oci:{}", environment.path("own").display());
    environment.ok(["push", "built:1", &layout]);
    let other = Environment::new();
    other.ok(["pull", &layout, "there:1"]);
    assert_eq!(exported(&other, "there:1"), exported(&environment, "built:1"));
    environment.ok(["save", "built:1", "-o", &environment.path("saved").to_string_lossy()]);
    other.ok(["load", "-i", &environment.path("saved").to_string_lossy()]);
    environment.ok(["rm", "dev"]);
    environment.ok(["rmi", "built:1"]);
    assert!(environment.json(["images"]).as_array().unwrap().is_empty());
    environment.ok(["fsck"]);
}

#[test]
fn what_was_built_is_served_as_an_image() {
    let environment = Environment::new();
    let Some((store, plan, base, line)) = on_image(&environment) else { return };
    let node = publish(&store, &plan, &line, Some(&base), "team/built:1", Layers::Steps);
    let made = make(&store, &node);
    drop(store);
    let server = Server::start(&environment, &[]);
    assert_eq!(server.get("/v2/_catalog").json()["repositories"], json!(["app", "team/built"]));
    assert_eq!(server.get("/v2/team/built/tags/list").json()["tags"], json!(["1"]));
    let manifest = server.get("/v2/team/built/manifests/1");
    assert_eq!((manifest.status, Digest::sha256_of(&manifest.body)), (200, made.manifest.digest));
    for layer in manifest.json()["layers"].as_array().unwrap() {
        let blob = server.get(&format!("/v2/team/built/blobs/{}", layer["digest"].as_str().unwrap()));
        assert_eq!((blob.status, blob.body.len() as u64), (200, layer["size"].as_u64().unwrap()));
    }
}

/// Every instruction that works on files, with what else may leave traces: mounts, heredocs, files that the runner gives.
const RECIPE: &str = r#"FROM app:1 AS made
USER root
SHELL ["/bin/sh", "-euc"]
RUN mkdir -p /out/a/b && echo 1 > /out/a/b/1 && chmod 4755 /out/a/b/1
FROM app:1
USER root
ARG SOURCE_DATE_EPOCH
SHELL ["/bin/sh", "-euc"]
WORKDIR /srv/app
COPY . .
ADD tree.tar /unpacked/
COPY --from=made /out /copied
COPY --chown=5:6 --chmod=750 file <<EOF /x/
of the recipe
EOF
RUN echo $HOSTNAME > /dev/null; rm -r d; echo more >> /etc/one
RUN --mount=type=cache,target=/var/cache/x --mount=type=tmpfs,target=/scratch --mount=type=bind,from=made,target=/m cat /m/out/a/b/1 > /var/cache/x/y
RUN <<EOF
mkdir -p /a/b/c
touch /a/1
chmod 700 /a/b
EOF
RUN true
RUN rm -r /a/b && mkdir /a/b && echo new > /a/b/new && rm /etc/link
"#;

#[test]
fn a_recipe_comes_out_the_same_on_every_backend() {
    let found = std::sync::Mutex::new(BTreeMap::new());
    let context = tempfile::tempdir().unwrap();
    let there = context.path();
    std::fs::create_dir_all(there.join("d/e")).unwrap();
    for (name, text) in [("Dockerfile", RECIPE), ("file", "file\n"), ("d/e/f", "f\n")] {
        std::fs::write(there.join(name), text).unwrap();
    }
    std::fs::write(
        there.join("tree.tar"),
        Tar::default().dir("t/").file("t/1", "1\n").link("t/2", "t/1").end(),
    )
    .unwrap();
    on_file_systems(|environment, file_system| {
        let kinds: &[&str] = match file_system {
            FileSystem::Btrfs => &["btrfs", "overlay"],
            FileSystem::Xfs => &["reflink", "overlay"],
            _ => &["copy"],
        };
        if !make_image(environment) {
            return;
        }
        for kind in kinds {
            let root = environment.path(kind);
            let run = |arguments: &[&str]| {
                let mut command = environment.command();
                command.env("ROOTLING_ROOT", &root).env("ROOTLING_NET", "none").args(arguments);
                let ran = ran(command.output().unwrap());
                assert_eq!(ran.code, 0, "{arguments:?} with {kind} on {file_system:?}: {}", ran.stderr);
                ran.stdout
            };
            run(&["init", "--backend", kind]);
            run(&["pull", &image(environment), "app:1"]);
            run(&[
                "build",
                "-t",
                "out",
                "--build-arg",
                &format!("SOURCE_DATE_EPOCH={EPOCH}"),
                there.to_str().unwrap(),
            ]);
            let manifest = run(&["inspect", "--raw", "out"]);
            let store = Store::open(&root).unwrap();
            let made = make(&store, &store.named(&Name::parse("out:latest").unwrap()).unwrap().unwrap());
            found.lock().unwrap().insert(
                format!("{kind} on {file_system:?}"),
                (names(&store, &made), history(&made), manifest),
            );
            run(&["fsck"]);
        }
    });
    let found = found.into_inner().unwrap();
    let Some((one, first)) = found.first_key_value() else { return };
    for (other, made) in &found {
        assert_eq!(made, first, "{other} and {one}");
    }
    let said: Vec<bool> = first.1.iter().rev().map(|(_, is_layer)| *is_layer).collect();
    assert_eq!(said[..5], [true, false, true, false, true], "{first:?}");
}
