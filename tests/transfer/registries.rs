//! To a registry and back.

use std::fs;

use serde_json::json;

use super::{change, events, exported, image, make_image};
use crate::environment::{Environment, ran};
use crate::grounds::on_file_systems;
use crate::registry::server::Registry;

#[test]
fn a_box_comes_back_from_a_registry_with_its_history_on_every_file_system() {
    let environment = Environment::new();
    if !make_image(&environment) {
        return;
    }
    let Some(registry) = Registry::plain() else { return };
    environment.ok(["pull", &image(&environment), "app:1"]);
    environment.ok(["create", "app:1", "dev"]);
    change(
        &environment,
        "dev",
        "echo a > /etc/a; rm /etc/two; mkdir -p /srv/x; touch -t 199901020304 /srv/x/old",
    );
    environment.ok(["snapshot", "dev", "first", "-m", "the first"]);
    environment.ok(["note", "dev@first", "a note"]);
    change(
        &environment,
        "dev",
        "echo b > /etc/a; chmod 700 /srv/x; ln -s /nowhere /etc/dangling; rm -r /home",
    );
    environment.ok(["snapshot", "dev", "second"]);
    change(&environment, "dev", "echo c > /etc/c");
    let remote = format!("{}/team/dev:1", registry.host);
    let pushed = environment.ok(["push", "dev", &remote]);
    assert_eq!(environment.ok(["push", "dev", &remote]), pushed, "twice is the same image");
    let [state, first] = ["dev", "dev@first"].map(|reference| exported(&environment, reference));
    assert!(state.contains("etc/c f") && !first.contains("etc/c f"), "{first}");

    on_file_systems(|other, sort| {
        let pulled = events(other, &["pull", &remote, "back"]);
        let last = pulled.last().unwrap();
        assert_eq!(last["snapshots"], json!(["back@first", "back@second"]), "{sort:?}");
        assert_eq!(last["digest"].as_str().unwrap(), pushed.trim());
        assert_eq!(exported(other, "back"), state, "{sort:?}");
        assert_eq!(exported(other, "back@first"), first, "{sort:?}");
        let shown = other.json(["show", "back@first"]);
        assert_eq!((&shown["message"], &shown["note"]), (&json!("the first"), &json!("a note")));
        assert_eq!(shown["config"]["User"], "app");
        // A box of it goes on from there, and what it began as keeps its digests.
        other.ok(["create", "back", "dev"]);
        change(other, "dev", "echo d > /etc/d");
        let remote = format!("{}/team/dev-{sort:?}:1", registry.host).to_lowercase();
        other.ok(["push", "dev", &remote]);
        let there = other.json(["inspect", &format!("docker://{remote}")]);
        let before = environment.json(["inspect", "dev"]);
        let layers = |inspected: &serde_json::Value| inspected[0]["Layers"].as_array().unwrap().clone();
        assert_eq!(layers(&there)[..5], layers(&before)[..], "{sort:?}");
        assert_eq!(layers(&there).len(), 6);
        // The image itself is pushed as it came.
        let copy = format!("{}/copy:{sort:?}", registry.host);
        assert_eq!(other.ok(["push", "back", &copy]), pushed);
        other.ok(["fsck"]);
    });
}

#[test]
fn an_image_goes_out_with_its_own_digest() {
    let environment = Environment::new();
    if !make_image(&environment) {
        return;
    }
    let Some(registry) = Registry::plain() else { return };
    environment.ok(["pull", &image(&environment), "app:1"]);
    let digest = environment.json(["images"])[0]["digest"].as_str().unwrap().to_owned();
    let remote = format!("{}/app:1", registry.host);
    assert_eq!(environment.ok(["push", "app:1", &remote]).trim(), digest);
    let raw = environment.ok(["inspect", "--raw", &format!("docker://{remote}")]);
    assert_eq!(rootling::image::Digest::sha256_of(raw.as_bytes()).to_string(), digest);
    // By its name here, without a destination, it goes where it came from.
    environment.ok(["rmi", "--now", "app:1"]);
    environment.ok(["pull", &remote]);
    assert_eq!(environment.ok(["push", &remote]).trim(), digest);
    // Another repository of the same registry takes the layers from the first one.
    let pushed = events(&environment, &["push", &remote, &format!("{}/other/app:1", registry.host)]);
    assert!(pushed.iter().all(|event| event["event"] != "moved"), "nothing was uploaded: {pushed:?}");
}

#[test]
fn run_pulls_what_it_is_told_to_and_nothing_else() {
    let environment = Environment::new();
    if !make_image(&environment) {
        return;
    }
    let Some(registry) = Registry::plain() else { return };
    let remote = format!("{}/app:1", registry.host);
    environment.ok(["copy", &image(&environment), &format!("docker://{remote}")]);
    let stderr = environment.fails(["run", "app:1", "true"]);
    assert!(stderr.contains("hint: pull it: rootling pull app:1"), "{stderr}");
    let stderr = environment.fails(["run", "--pull", "never", &remote, "true"]);
    assert!(stderr.contains(&format!("hint: pull it: rootling pull {remote}")), "{stderr}");
    assert_eq!(environment.ok(["images", "-q"]), "");
    assert_eq!(environment.ok(["run", &remote, "echo hello"]), "hello\n");
    let id = environment.ok(["images", "-q"]);
    assert_eq!(
        environment.ok(["run", "--pull", "always", &format!("docker://{remote}"), "echo hello"]),
        "hello\n"
    );
    assert_eq!(environment.ok(["images", "-q"]), id);
    environment.ok(["create", &format!("docker://{remote}"), "dev"]);
    drop(registry);
    assert_eq!(environment.ok(["run", &remote, "echo hello"]), "hello\n", "it is there");
    assert_ne!(environment.run(["run", "--pull", "always", &remote, "true"]).code, 0);
}

#[test]
fn a_login_is_checked_before_it_is_kept() {
    let environment = Environment::new();
    if !make_image(&environment) {
        return;
    }
    let Some(registry) = Registry::with_password() else { return };
    let auth = environment.path("auth.json");
    let certificates = environment.path("config/containers/certs.d").join(&registry.host);
    fs::create_dir_all(&certificates).unwrap();
    fs::copy(registry.authority(), certificates.join("ca.crt")).unwrap();
    let run = |arguments: &[&str], password: &str| {
        fs::write(environment.path("password"), password).unwrap();
        let mut command = environment.command();
        command
            .args(arguments)
            .env("REGISTRY_AUTH_FILE", &auth)
            .env("XDG_CONFIG_HOME", environment.path("config"));
        ran(command.stdin(fs::File::open(environment.path("password")).unwrap()).output().unwrap())
    };
    let host = registry.host.as_str();
    let log_in = ["login", host, "-u", "alice", "--password-stdin"];
    let remote = format!("docker://{host}/app:1");
    let copy = ["copy", &image(&environment), &remote];
    let refused = run(&copy, "");
    assert_ne!(refused.code, 0);
    let wrong = run(&log_in, "looking-glass\n");
    assert!(wrong.code != 0 && wrong.stderr.contains("hint: look at the name and the password"), "{wrong:?}");
    assert!(!auth.exists(), "what is wrong is not kept");
    let right = run(&log_in, "wonderland\n");
    assert_eq!(right.code, 0, "{right:?}");
    assert!(!right.stderr.contains("wonderland") && right.stdout.is_empty());
    let copied = run(&copy, "");
    assert_eq!(copied.code, 0, "{copied:?}");
    assert_eq!(run(&["pull", &remote, "app:1"], "").code, 0);
    assert_eq!(run(&["logout", host], "").code, 0);
    assert_ne!(run(&["pull", &remote, "app:2"], "").code, 0);
    assert!(run(&["logout", host], "").stderr.contains("nobody is known"));
    // Without a terminal nothing is asked.
    let stderr = run(&["login", host, "-u", "alice"], "").stderr;
    assert!(stderr.contains("no terminal to ask at"), "{stderr}");
}
