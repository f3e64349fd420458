//! What images are called, and how they are found.

use serde_json::json;

use super::{image, make_image};
use crate::environment::Environment;

#[test]
fn every_form_of_a_name_finds_the_image() {
    let environment = Environment::new();
    if !make_image(&environment) {
        return;
    }
    environment.ok(["pull", &image(&environment), "alpine:latest"]);
    let digest = environment.json(["images"])[0]["digest"].as_str().unwrap().to_owned();
    assert_eq!(environment.json(["show", "alpine"])["image"]["manifest"], json!(digest));
    let by_digest = format!("alpine@{digest}");
    for name in ["alpine", "alpine:latest", "docker.io/library/alpine", "docker.io/alpine:latest", &by_digest]
    {
        assert_eq!(environment.json(["show", name])["name"], "alpine:latest", "{name}");
        assert_eq!(
            environment.json(["show", &format!("docker://{name}")])["name"],
            "alpine:latest",
            "{name}"
        );
    }
    for (name, hint) in [
        ("alpine:3.20", "pull it: rootling pull alpine:3.20"),
        ("docker://debian", "pull it: rootling pull debian"),
        ("ghcr.io/a/b", "pull it: rootling pull ghcr.io/a/b"),
    ] {
        let stderr = environment.fails(["show", name]);
        assert!(stderr.contains(hint), "{name}: {stderr}");
    }
}

#[test]
fn tags_move_and_what_is_removed_comes_back() {
    let environment = Environment::new();
    if !make_image(&environment) {
        return;
    }
    environment.ok(["pull", &image(&environment), "app:1"]);
    environment.ok(["tag", "app:1", "docker.io/user/app"]);
    let names = |environment: &Environment| -> Vec<String> {
        let images = environment.json(["images"]);
        images.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&environment), ["app:1", "user/app:latest"]);
    let table = environment.ok(["images", "--digests", "user"]);
    assert!(
        table.starts_with("REPOSITORY") && table.contains("user/app") && !table.contains("\napp "),
        "{table}"
    );
    environment.ok(["rmi", "app:1"]);
    assert_eq!(names(&environment), ["user/app:latest"]);
    assert_eq!(environment.json(["rmi", "--list"])[0]["name"], "app:1");
    environment.ok(["undelete", "app:1"]);
    assert_eq!(names(&environment), ["app:1", "user/app:latest"]);
    environment.ok(["create", "app:1", "dev"]);
    let stderr = environment.fails(["rmi", "dev"]);
    assert!(stderr.contains("dev is a box") && stderr.contains("rootling rm dev"), "{stderr}");
    assert!(environment.fails(["tag", "app:1", "dev:"]).contains("hint"));
    let inspected = environment.json(["inspect", "app:1"]);
    assert_eq!(inspected[0]["RepoTags"], json!(["app:1", "user/app:latest"]));
}

#[test]
fn a_name_that_says_no_registry_is_not_pushed_by_accident() {
    let environment = Environment::new();
    if !make_image(&environment) {
        return;
    }
    environment.ok(["pull", &image(&environment), "app:1"]);
    environment.ok(["create", "app:1", "dev"]);
    let stderr = environment.fails(["push", "dev"]);
    assert!(stderr.contains("does not say where to push it") && stderr.contains("hint: say it"), "{stderr}");
    let stderr = environment.fails(["push", "dev", &format!("127.0.0.1:1/dev@sha256:{}", "0".repeat(64))]);
    assert!(stderr.contains("says a digest") && stderr.contains("HOST/NAME:TAG"), "{stderr}");
    let stderr = environment.fails(["pull", &image(&environment), "dev"]);
    assert!(stderr.contains("dev is no image") && stderr.contains("hint: choose another name"), "{stderr}");
    assert_eq!(environment.json(["show", "dev"])["kind"], "box");
    let stderr = environment.fails(["copy", "app:1", "app:2"]);
    assert!(stderr.contains("rootling tag app:1 app:2"), "{stderr}");
    let stderr = environment.fails(["pull", &format!("tar:{}", environment.path("x").display())]);
    assert!(stderr.contains("holds a tree") && stderr.contains("rootling import"), "{stderr}");
    assert!(environment.fails(["pull", "a//b"]).contains("write [HOST/]NAME[:TAG][@DIGEST]"));
    assert!(
        environment.fails(["pull", &image(&environment)]).contains("does not say what its image is called")
    );
    assert!(environment.fails(["pull", "oci:/nowhere", "x"]).contains("/nowhere"));
    for flags in [&["--backend", "copy"][..], &["--reflink", "always"], &["--fresh"], &["--no-owners"]] {
        let image = image(&environment);
        let stderr = environment.fails(["import", &image, "x"].iter().chain(flags).copied());
        assert!(stderr.contains(&format!("{} is for trees", flags[0])), "{stderr}");
    }
}
