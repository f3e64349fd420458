//! Images in and out through the binary: registries, layouts, archives, other programs that read what we write, and what goes wrong.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::environment::{Environment, is_root, ran, skip};
use crate::oci::{Tar, write_layout};

mod faults;
mod formats;
mod names;
mod registries;
mod users;

/// A layout at `img` in the environment's directory: an image of busybox in two layers, which is run by `app` and says who and where it is.
/// False where that cannot be run here.
pub(crate) fn make_image(environment: &Environment) -> bool {
    make_image_at(&environment.path("img"))
}

/// As [`make_image`], elsewhere.
pub(crate) fn make_image_at(at: &Path) -> bool {
    let found = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let Some(busybox) = found else {
        skip("busybox-static is not installed");
        return false;
    };
    if !is_root() {
        return false;
    }
    let mut base = Tar::default().dir("bin/").dir("etc/").dir("home/").dir("home/app/").dir("tmp/");
    base = base.program("bin/busybox", fs::read(busybox).unwrap());
    for applet in ["sh", "id", "cat", "echo", "pwd", "rm", "mkdir", "touch", "chmod", "ls", "true"] {
        base = base.symlink(&format!("bin/{applet}"), "busybox");
    }
    base = base.file("etc/passwd", "root:x:0:0::/:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n");
    base =
        base.file("etc/group", "root:x:0:\napp:x:1000:\n").file("etc/gone", "gone").file("etc/one", "one\n");
    let upper = Tar::default()
        .dir("etc/")
        .file("etc/.wh.gone", "")
        .file("etc/two", "two\n")
        .link("etc/link", "etc/two");
    let config = json!({
        "User": "app", "Env": ["A=b", "PATH=/bin"], "WorkingDir": "/home/app",
        "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["id -un; echo $A; pwd; cat /etc/two"],
        "Labels": { "x": "y" },
    });
    write_layout(at, &[base.end(), upper.end()], &config);
    true
}

/// Where that layout is, as it is typed.
pub(crate) fn image(environment: &Environment) -> String {
    format!("oci:{}", environment.path("img").display())
}

/// Runs a command that prints a line of JSON for each event, and returns these.
pub(crate) fn events(environment: &Environment, arguments: &[&str]) -> Vec<Value> {
    let mut command = environment.command();
    let ran = ran(command.args(["--format", "json"]).args(arguments).output().unwrap());
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    ran.stdout.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

/// Everything of a tree that another program can tell: types, modes, owners, sizes, times, links, attributes, content.
pub(crate) fn listing(root: &Path) -> String {
    let script = r"cd $1
        find . -type d -printf '%P %y %m %U %G %T@\n' -o -printf '%P %y %m %U %G %T@ %n %l\n' | sort
        find . -type f -print0 | sort -z | xargs -0 -r sha256sum
        getfattr -R -h -d -m '^(user|security|trusted)\.' --absolute-names . 2>/dev/null || true";
    let ran = ran(Command::new("bash").args(["-ec", script, "-"]).arg(root).output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    ran.stdout
}

/// Exports a node as a directory and lists that.
pub(crate) fn exported(environment: &Environment, reference: &str) -> String {
    let path = environment.path(&format!("exported-{}", reference.replace(['/', ':', '@'], "-")));
    if path.exists() {
        fs::remove_dir_all(&path).unwrap();
    }
    environment.ok(["export", reference, &format!("dir:{}", path.display())]);
    listing(&path)
}

/// Runs a command as root in a box.
pub(crate) fn change(environment: &Environment, name: &str, script: &str) {
    environment.ok(["exec", "--user", "root", name, "/bin/sh", "-c", script]);
}

#[test]
fn what_is_pulled_runs_as_its_configuration_says() {
    let environment = Environment::new();
    if !make_image(&environment) {
        return;
    }
    let pulled = events(&environment, &["pull", &image(&environment), "app:1"]);
    let last = pulled.last().unwrap();
    assert_eq!(
        (&last["event"], &last["name"], &last["fetched"]),
        (&json!("pulled"), &json!("app:1"), &json!(2))
    );
    assert_eq!(pulled.iter().filter(|event| event["event"] == "done").count(), 2, "{pulled:?}");
    let says = "app\nb\n/home/app\ntwo\n";
    assert_eq!(environment.ok(["run", "app:1"]), says);
    assert_eq!(environment.ok(["run", "app:1", "cat /etc/one /etc/link"]), "one\ntwo\n");
    environment.ok(["create", "app:1", "dev"]);
    assert_eq!(
        environment.ok(["exec", "dev", "/bin/sh", "-c", "id -un; echo $A; pwd"]),
        "app\nb\n/home/app\n"
    );
    // Once more: nothing is fetched or unpacked.
    let again = events(&environment, &["pull", &image(&environment), "app:1"]);
    let last = again.last().unwrap();
    assert_eq!(
        (&last["was_there"], &last["fetched"], &last["unpacked"]),
        (&json!(true), &json!(0), &json!(0))
    );
    environment.ok(["fsck"]);
}

#[test]
fn a_commit_is_an_image_with_a_step_of_its_own() {
    let environment = Environment::new();
    if !make_image(&environment) {
        return;
    }
    environment.ok(["pull", &image(&environment), "app:1"]);
    environment.ok(["create", "app:1", "dev"]);
    change(&environment, "dev", "echo mine > /etc/mine; rm /etc/one");
    environment.ok([
        "commit",
        "dev",
        "app:2",
        "-m",
        "my words",
        "-a",
        "Me <me@x>",
        "--change",
        "CMD [\"cat /etc/mine\"]",
    ]);
    assert_eq!(environment.ok(["run", "app:2"]), "mine\n");
    let inspected = &environment.json(["inspect", "app:2"])[0];
    assert_eq!((&inspected["Author"], &inspected["Comment"]), (&json!("Me <me@x>"), &json!("my words")));
    assert_eq!(inspected["Config"]["Labels"]["x"], "y");
    assert_eq!(inspected["Config"]["Cmd"], json!(["cat /etc/mine"]));
    let (old, new) = (environment.json(["inspect", "app:1"]), inspected);
    let layers = |inspected: &Value| inspected["RootFS"]["Layers"].as_array().unwrap().clone();
    assert_eq!(layers(new)[..2], layers(&old[0])[..], "what is beneath stays");
    assert_eq!(layers(new).len(), 3);
    let history = environment.json(["history", "app:2"]);
    assert_eq!(history[0]["comment"], "my words");
    assert_eq!(history.as_array().unwrap().len(), 3);
    // Only what changed is in its layer.
    environment.ok(["copy", "app:2", &format!("oci:{}", environment.path("out").display())]);
    let layer = history[0]["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
    let list = ran(Command::new("tar")
        .arg("-tzf")
        .arg(environment.path("out/blobs/sha256").join(layer))
        .output()
        .unwrap());
    // What a start makes in every box is none of this.
    let made: Vec<&str> =
        list.stdout.lines().filter(|line| !["dev/", "proc/", "sys/"].contains(line)).collect();
    assert_eq!(made, ["./", "etc/", "etc/.wh.one", "etc/mine"]);
}
