//! What `--print` says.

use crate::environment::Environment;

#[test]
fn what_sets_up_a_machine_is_printed_with_its_paths() {
    let environment = Environment::new();
    let store = environment.store().display().to_string();
    let program = crate::environment::BINARY;
    let service = environment.ok([
        "snapshotter",
        "--print",
        "systemd",
        "--address",
        "/run/a/b.sock",
        "--backend",
        "copy",
    ]);
    let line = format!(
        "ExecStart={program} --root {store} snapshotter --address /run/a/b.sock \
         --containerd /run/containerd/containerd.sock --backend copy\n"
    );
    assert!(service.contains(&line) && service.contains("Type=notify\n"), "{service}");
    // The unit is started elsewhere.
    let here = std::env::current_dir().unwrap();
    let below = format!("unix:{}", here.join("m.sock").display());
    for (place, said) in [("127.0.0.1:9", "127.0.0.1:9"), ("unix:m.sock", &below)] {
        let metrics = environment.ok(["snapshotter", "--print", "systemd", "--metrics", place]);
        assert!(metrics.contains(&format!(" --metrics {said}\n")), "{metrics}");
    }
    let socket = environment.ok(["snapshotter", "--print", "systemd-socket"]);
    assert!(socket.contains("ListenStream=/run/rootling/snapshotter.sock\n"), "{socket}");
    let config = environment.ok(["snapshotter", "--print", "containerd"]);
    assert!(config.contains(
        "[proxy_plugins.rootling]\n  type = \"snapshot\"\n  address = \"/run/rootling/snapshotter.sock\"\n"
    ));
    assert!(config.contains(&format!("root = \"{store}\"")), "{config}");
    // What is commented out is whole as well.
    let (first, second) = config.split_once("#version = 3").unwrap();
    for (part, images) in [(first, "io.containerd.grpc.v1.cri"), (second, "io.containerd.cri.v1.images")] {
        let lines = part.lines().map(|line| line.trim_start_matches('#'));
        let lines = lines.filter(|line| !line.starts_with(' ') || line.contains(" = "));
        let table: toml::Table = lines.map(|line| format!("{line}\n")).collect::<String>().parse().unwrap();
        assert_eq!(table["proxy_plugins"]["rootling"]["type"].as_str(), Some("snapshot"));
        assert_eq!(table["proxy_plugins"]["rootling-diff"]["type"].as_str(), Some("diff"));
        assert!(table["plugins"].get(images).is_some(), "{images}");
    }
    // Trees of btrfs are not laid on each other.
    let of_btrfs = environment.ok(["snapshotter", "--backend", "btrfs", "--print", "containerd"]);
    assert!(config.contains("rebase") && !of_btrfs.contains("rebase"), "{of_btrfs}");
    // Of a store that is not there yet nothing is promised.
    let there_is_none = environment.path("none");
    let arguments = ["--root", &there_is_none.to_string_lossy(), "snapshotter", "--print", "containerd"];
    assert!(!environment.ok(arguments).contains("rebase"));
    assert!(!there_is_none.exists());
}
