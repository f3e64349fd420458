//! What `--print` says.

use crate::environment::Environment;

#[test]
fn what_sets_up_a_machine_is_printed_with_its_paths() {
    let environment = Environment::new();
    let store = environment.store().display().to_string();
    let program = crate::environment::BINARY;
    let service = environment.ok(["snapshotter", "--print", "systemd", "--address", "/run/a/b.sock"]);
    let line = format!("ExecStart={program} --root {store} snapshotter --address /run/a/b.sock\n");
    assert!(service.contains(&line) && service.contains("Type=notify\n"), "{service}");
    let socket = environment.ok(["snapshotter", "--print", "systemd-socket"]);
    assert!(socket.contains("ListenStream=/run/rootling/snapshotter.sock\n"), "{socket}");
    let config = environment.ok(["snapshotter", "--print", "containerd"]);
    assert!(config.contains(
        "[proxy_plugins.rootling]\n  type = \"snapshot\"\n  address = \"/run/rootling/snapshotter.sock\"\n"
    ));
    assert!(config.contains(&format!("root = \"{store}\"")), "{config}");
    // A store that is not there yet.
    let there_is_none = environment.path("none");
    let arguments = ["--root", &there_is_none.to_string_lossy(), "snapshotter", "--print", "containerd"];
    assert!(environment.ok(arguments).contains("rebase"));
    assert!(!there_is_none.exists());
}
