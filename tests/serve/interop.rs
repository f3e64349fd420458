//! Other programs push and pull: skopeo, podman, containerd; and what was pushed is run here.

use std::fs;
use std::path::Path;
use std::process::Command;

use rootling::image::Digest;
use serde_json::json;

use super::server::{INDEX, Server, noise};
use crate::environment::{Environment, found, is_root, ran};
use crate::oci::{Tar, write_layout};

/// `alice` with the password `wonderland`, by `htpasswd -nbB -C 4`.
const HTPASSWD: &str = "alice:$2y$04$ciX/QTVqkRteAg.o.aN7qOsiOkrBSCh3lH9dk44Q.2WoXu.krrp0G\n";

fn run(program: &str, arguments: &[&str], directory: &Path) -> String {
    let output =
        Command::new(program).args(arguments).current_dir(directory).env("HOME", directory).output().unwrap();
    let ran = ran(output);
    assert_eq!(ran.code, 0, "{program} {arguments:?}: {}{}", ran.stdout, ran.stderr);
    ran.stdout
}

/// Writes an image whose layers say who made them.
fn layout(environment: &Environment) -> Digest {
    let base = Tar::default().dir("etc/").file("etc/motd", "welcome\n").end();
    let more = Tar::default().dir("data/").file("data/noise", noise(300_000, 3)).end();
    let config = json!({ "Cmd": ["/bin/true"], "Labels": { "made": "here" } });
    write_layout(&environment.path("layout"), &[base, more], &config)
}

#[test]
fn skopeo_copies_in_and_out() {
    if !found("skopeo") {
        return;
    }
    let environment = Environment::new();
    let digest = layout(&environment);
    let server = Server::start(&environment, &["--allow-push"]);
    let place = format!("docker://{}/team/app:1", server.address);
    let insecure = ["--src-tls-verify=false", "--dest-tls-verify=false"];
    let copy = |from: &str, to: &str| {
        run(
            "skopeo",
            &[&["copy", "--quiet", "--all"], &insecure[..], &[from, to]].concat(),
            environment.dir.path(),
        );
    };
    copy("oci:layout", &place);
    copy(&place, "oci:back");
    assert_eq!(
        server.get("/v2/team/app/manifests/1").line("Docker-Content-Digest"),
        Some(digest.to_string().as_str())
    );
    for blob in fs::read_dir(environment.path("layout/blobs/sha256")).unwrap() {
        let blob = blob.unwrap();
        let back = environment.path("back/blobs/sha256").join(blob.file_name());
        assert_eq!(fs::read(blob.path()).unwrap(), fs::read(back).unwrap());
    }
    // From one repository to another: the blobs are taken, not sent.
    copy(&place, &format!("docker://{}/other/app:2", server.address));
    let listed = run(
        "skopeo",
        &["list-tags", "--tls-verify=false", &format!("docker://{}/other/app", server.address)],
        environment.dir.path(),
    );
    assert!(listed.contains("\"2\""), "{listed}");
    run("skopeo", &["delete", "--tls-verify=false", &place], environment.dir.path());
    assert_eq!(server.get("/v2/team/app/manifests/1").status, 404);
    assert_eq!(server.get("/v2/other/app/manifests/2").status, 200);
}

#[test]
fn passwords_and_tls_are_asked_for() {
    if !found("skopeo") || !found("openssl") {
        return;
    }
    let environment = Environment::new();
    layout(&environment);
    let directory = environment.dir.path();
    fs::create_dir(directory.join("certs")).unwrap();
    let options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out certs/ca.crt";
    run("openssl", &options.split(' ').collect::<Vec<_>>(), directory);
    fs::write(directory.join("htpasswd"), HTPASSWD).unwrap();
    let path = |name: &str| environment.path(name).to_string_lossy().into_owned();
    let (certificate, key, passwords) = (path("certs/ca.crt"), path("key.pem"), path("htpasswd"));
    let server = Server::start(
        &environment,
        &["--tls-cert", &certificate, "--tls-key", &key, "--htpasswd", &passwords],
    );
    let place = format!("docker://{}/a:1", server.address);
    let certs = path("certs");
    let push = [
        "copy",
        "--quiet",
        "--dest-cert-dir",
        &certs,
        "--dest-creds",
        "alice:wonderland",
        "oci:layout",
        &place,
    ];
    run("skopeo", &push, directory);
    let pull =
        ["copy", "--quiet", "--src-cert-dir", &certs, "--src-creds", "alice:wonderland", &place, "oci:back"];
    run("skopeo", &pull, directory);
    assert!(directory.join("back/index.json").exists());
    for wrong in [&["--creds", "alice:other"][..], &["--creds", "bob:wonderland"], &["--no-creds"]] {
        let arguments = [&["inspect", "--cert-dir", &certs], wrong, &[&place]].concat();
        let output = Command::new("skopeo").args(&arguments).env("HOME", directory).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("unauthorized"), "{wrong:?}: {said}");
    }
    // A name without the certificate's authority is not believed, and plain HTTP is not spoken.
    assert!(!Command::new("skopeo").args(["inspect", &place]).output().unwrap().status.success());
    assert!(!server.raw(b"GET /v2/ HTTP/1.1\r\nHost: h\r\n\r\n").starts_with("HTTP/1.1 200"));
}

#[test]
fn podman_pushes_and_pulls() {
    if !found("podman") || !is_root() {
        return;
    }
    let environment = Environment::new();
    layout(&environment);
    let server = Server::start(&environment, &["--allow-push"]);
    let directory = environment.dir.path();
    let path = |name: &str| environment.path(name).to_string_lossy().into_owned();
    let (root, runroot) = (path("podman"), path("podman-run"));
    let podman = |arguments: &[&str]| {
        let words = ["--root", &root, "--runroot", &runroot, "--storage-driver", "vfs"];
        run("podman", &[&words[..], arguments].concat(), directory)
    };
    let id = podman(&["pull", "--quiet", "oci:layout"]);
    let place = format!("{}/team/pod:1", server.address);
    podman(&["push", "--quiet", "--tls-verify=false", id.trim(), &place]);
    podman(&["rmi", "--all", "--force"]);
    let again = podman(&["pull", "--quiet", "--tls-verify=false", &place]);
    assert_eq!(again, id);
}

#[test]
fn containerd_fetches_what_was_pushed() {
    // ctr needs a containerd to talk to, and that a machine of its own: fetching and unpacking is what its client library does.
    if !found("containerd") || !found("ctr") || !is_root() {
        return;
    }
    let environment = Environment::new();
    let server = Server::start(&environment, &["--allow-push"]);
    let layer = Tar::default().file("x", "y").end();
    server.push_image("a", "1", &layer);
    let path = |name: &str| environment.path(name).to_string_lossy().into_owned();
    let (root, state, socket) = (path("c-root"), path("c-state"), path("c.sock"));
    let ttrpc = path("c-ttrpc.sock");
    let config = format!(
        "version = 2\nroot = {root:?}\nstate = {state:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.snapshotter.v1.devmapper\"]\n[grpc]\n  address = {socket:?}\n[ttrpc]\n  address = {ttrpc:?}\n"
    );
    fs::write(environment.path("c.toml"), config).unwrap();
    let mut containerd = Command::new("containerd")
        .args(["--config", &path("c.toml")])
        .stdout(std::process::Stdio::null())
        .stderr(fs::File::create(environment.path("c.log")).unwrap())
        .spawn()
        .unwrap();
    let mut fetched = None;
    for _ in 0..100 {
        let mut ctr = Command::new("ctr");
        ctr.args([
            "--address",
            &socket,
            "content",
            "fetch",
            "--plain-http",
            &format!("{}/a:1", server.address),
        ]);
        let output = ctr.output().unwrap();
        if output.status.success() {
            fetched = Some(output);
            break;
        }
        fetched = Some(output);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    containerd.kill().unwrap();
    containerd.wait().unwrap();
    let fetched = fetched.unwrap();
    assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
    let blob = environment.path("c-root/io.containerd.content.v1.content/blobs/sha256");
    assert_eq!(fs::read(blob.join(Digest::sha256_of(&layer).hex())).unwrap(), layer);
}

#[test]
fn an_image_of_the_store_is_served_by_its_name() {
    if !found("skopeo") || !is_root() {
        return;
    }
    let environment = Environment::new();
    let digest = layout(&environment);
    let layout = format!("oci:{}", environment.path("layout").display());
    environment.ok(["pull", &layout, "kept:1"]);
    let server = Server::start(&environment, &["--allow-push"]);
    for repository in ["kept", "library/kept", "docker.io/library/kept"] {
        let reply = server.get(&format!("/v2/{repository}/manifests/1"));
        assert_eq!(reply.line("Docker-Content-Digest"), Some(digest.to_string().as_str()), "{repository}");
    }
    assert_eq!(server.get("/v2/_catalog").json(), json!({ "repositories": ["kept"] }));
    assert_eq!(server.get("/v2/kept/tags/list").json()["tags"], json!(["1"]));
    let place = format!("docker://{}/kept:1", server.address);
    run("skopeo", &["copy", "--quiet", "--src-tls-verify=false", &place, "oci:back"], environment.dir.path());
    assert!(environment.path("back/blobs/sha256").join(digest.hex()).exists());
    // What is served is not what another repository has.
    assert_eq!(server.get(&format!("/v2/other/manifests/{digest}")).status, 404);
    // A pushed tag takes the name over, and a deleted one is no more.
    let manifest = server.push_image("kept", "1", &noise(512, 1));
    assert_eq!(server.get("/v2/kept/manifests/1").body, manifest.to_string().as_bytes());
    assert_eq!(server.delete("/v2/kept/manifests/1").status, 202);
    assert_eq!(server.get("/v2/kept/manifests/1").status, 404);
    environment.ok(["undelete", "kept:1"]);
    assert_eq!(server.get("/v2/kept/manifests/1").status, 200);
}

#[test]
fn what_was_pushed_is_unpacked_when_it_is_used() {
    if !found("skopeo") || !is_root() {
        return;
    }
    let environment = Environment::new();
    let digest = layout(&environment);
    let server = Server::start(&environment, &["--allow-push"]);
    let place = format!("docker://{}/team/app:1", server.address);
    let copy = ["copy", "--quiet", "--dest-tls-verify=false", "oci:layout", &place];
    run("skopeo", &copy, environment.dir.path());
    let child = server.get("/v2/team/app/manifests/1");
    let child = json!({ "mediaType": child.line("Content-Type"), "digest": digest, "size": child.body.len(),
        "platform": { "os": "linux", "architecture": "amd64" } });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [child] });
    assert_eq!(server.push_manifest("team/app", "many", &index).status, 201);

    let listed = environment.json(["images"]);
    assert_eq!(
        (listed[1]["name"].as_str(), listed[1]["id"].is_null()),
        (Some("team/app:many"), true),
        "{listed}"
    );
    environment.ok(["create", "team/app:1", "dev"]);
    environment.ok(["create", "docker.io/team/app:many", "many"]);
    let listed = environment.json(["images"]);
    let names: Vec<_> = listed.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["team/app:1", "team/app:many"]);
    assert!(listed.as_array().unwrap().iter().all(|row| row["id"].is_string()), "{listed}");
    // It is the same to clients.
    let reply = server.get("/v2/team/app/manifests/many");
    assert_eq!(reply.body, index.to_string().as_bytes());

    // A push since then is what the name means, and unpacked again.
    server.push_image("team/app", "1", &Tar::default().file("new", "new").end());
    environment.ok(["create", "team/app:1", "newer"]);
    let ls = |name: &str| {
        environment.ok(["cp", &format!("{name}:/new"), environment.path(name).to_str().unwrap()])
    };
    ls("newer");
    assert_eq!(fs::read_to_string(environment.path("newer")).unwrap(), "new");
    assert!(environment.fails(["cp", "dev:/new", environment.path("dev").to_str().unwrap()]).contains("new"));

    environment.ok(["rmi", "team/app:many"]);
    assert_eq!(server.get("/v2/team/app/manifests/many").status, 404);
}

#[test]
fn boxes_go_out_and_come_back_with_their_snapshots() {
    if !is_root() {
        return;
    }
    let (here, there) = (Environment::new(), Environment::new());
    layout(&here);
    here.ok(["pull", &format!("oci:{}", here.path("layout").display()), "base:1"]);
    here.ok(["create", "base:1", "dev"]);
    fs::write(here.path("first"), "first").unwrap();
    here.ok(["cp", here.path("first").to_str().unwrap(), "dev:/etc/first"]);
    here.ok(["snapshot", "dev", "one"]);
    here.ok(["cp", here.path("first").to_str().unwrap(), "dev:/etc/second"]);
    assert_eq!(Server::start(&here, &[]).get("/v2/dev/manifests/one").status, 404);
    let server = Server::start(&here, &["--boxes", "--allow-push"]);
    assert_eq!(server.get("/v2/dev/tags/list").json()["tags"], json!(["latest", "one"]));
    // The same state is the same image.
    let made = server.get("/v2/dev/manifests/one");
    assert_eq!(made.status, 200);
    assert_eq!(made.json()["layers"].as_array().unwrap().len(), 3);
    assert_eq!(server.get("/v2/dev/manifests/one").body, made.body);
    for layer in made.json()["layers"].as_array().unwrap() {
        let path = format!("/v2/dev/blobs/{}", layer["digest"].as_str().unwrap());
        assert_eq!(server.get(&path).body.len() as u64, layer["size"]);
    }

    // Our own client: pulled there, and pushed back under another name.
    let place = format!("{}/dev", server.address);
    there.ok(["pull", &format!("{place}:latest"), "dev:1"]);
    there.ok(["create", "dev:1", "copy"]);
    let read =
        |name: &str| there.ok(["cp", &format!("copy:/etc/{name}"), there.path(name).to_str().unwrap()]);
    read("second");
    assert_eq!(fs::read_to_string(there.path("second")).unwrap(), "first");
    assert!(there.ok(["ls"]).contains("dev:1"));
    there.ok(["push", "dev:1", &format!("{}/team/back:1", server.address)]);
    assert_eq!(server.get("/v2/team/back/manifests/1").body, server.get("/v2/dev/manifests/latest").body);
    assert_eq!(here.run(["fsck", "--verify"]).code, 0);
}

#[test]
fn a_mirror_fetches_what_is_not_here_and_keeps_it() {
    let (there, here) = (Environment::new(), Environment::new());
    let mut upstream = Server::start(&there, &["--allow-push"]);
    let layer = noise(300_000, 7);
    let first = upstream.push_image("team/app", "1", &layer);
    let mirror = Server::start(&here, &["--allow-push", "--mirror", &format!("http://{}", upstream.address)]);
    let own = mirror.push_image("own", "1", &noise(100, 8));
    let get = |path: &str| mirror.get(&format!("/v2/team/app/{path}"));

    assert_eq!(get("manifests/1").body, first.to_string().as_bytes());
    let blob = format!("blobs/{}", Digest::sha256_of(&layer));
    let reply = mirror.head(&format!("/v2/team/app/{blob}"));
    assert_eq!((reply.status, reply.line("Content-Length")), (200, Some("300000")));
    let range = mirror.ask("GET", &format!("/v2/team/app/{blob}"), &[("Range", "bytes=10-19")], b"");
    assert_eq!((range.status, range.body.as_slice()), (206, &layer[10..20]));
    assert_eq!(get("manifests/none").status, 404);
    assert_eq!(get(&format!("blobs/{}", Digest::sha256_of(b"none"))).status, 404);

    // The tag moves there, and so it does here; by its digest the old one stays.
    let second = upstream.push_image("team/app", "1", &noise(100, 9));
    assert_eq!(get("manifests/1").body, second.to_string().as_bytes());
    assert_eq!(
        get(&format!("manifests/{}", super::server::digest_of(&first))).body,
        first.to_string().as_bytes()
    );
    upstream.push_image("own", "1", &noise(100, 10));
    assert_eq!(mirror.get("/v2/own/manifests/1").body, own.to_string().as_bytes());

    // Without the other one it serves what it has, and says what it could not fetch.
    assert!(upstream.is_alive());
    drop(upstream);
    assert_eq!(get("manifests/1").body, second.to_string().as_bytes());
    assert_eq!(get(&blob).body, layer);
    let missing = get(&format!("blobs/{}", Digest::sha256_of(&super::server::config(&noise(100, 9)))));
    assert_eq!(missing.status, 502);
    assert_eq!(here.run(["fsck", "--verify"]).code, 0);
    assert!(here.fails(["serve", "--mirror", "not a host"]).contains("is no registry to mirror"));
}
