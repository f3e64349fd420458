//! What ends a pull: kills, wrong bytes, a full disk; and two at once.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{events, exported, image, make_image};
use crate::environment::{Environment, is_root, ran};
use crate::oci::{Tar, write_layout};
use crate::registry::server::Registry;

/// Bytes that no compression makes fewer.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).take(length / 8).flatten().collect()
}

/// A layout of one layer of so many bytes of noise.
fn make_large(environment: &Environment, bytes: usize) {
    let layer = Tar::default().dir("etc/").file("etc/noise", noise(bytes)).end();
    write_layout(&environment.path("img"), &[layer], &json!({}));
}

/// Stands before a server and lets answers through slowly; returns its address. It ends with the program.
fn slow(server: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let server = server.to_owned();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(&server) else { return };
            let (up, down) = ((client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client));
            std::thread::spawn(move || trickle(up.0, up.1, Duration::ZERO));
            std::thread::spawn(move || trickle(down.0, down.1, Duration::from_millis(4)));
        }
    });
    host
}

fn trickle(mut from: TcpStream, mut to: TcpStream, pause: Duration) {
    let mut buffer = [0; 16 << 10];
    while let Ok(read) = from.read(&mut buffer) {
        if read == 0 || to.write_all(&buffer[..read]).is_err() {
            break;
        }
        std::thread::sleep(pause);
    }
    drop(to.shutdown(Shutdown::Both));
}

/// The beginning of a download, in a store.
fn partial(environment: &Environment) -> Option<(PathBuf, u64)> {
    let entries = fs::read_dir(environment.store().join("blobs/partial")).ok()?;
    let mut found = entries.flatten().filter_map(|entry| Some((entry.path(), entry.metadata().ok()?.len())));
    found.find(|(_, length)| *length > 1 << 20)
}

#[test]
fn a_pull_that_is_killed_goes_on_where_it_was() {
    if !is_root() {
        return;
    }
    let environment = Environment::new();
    let Some(registry) = Registry::plain() else { return };
    make_large(&environment, 8 << 20);
    environment.ok(["copy", &image(&environment), &format!("docker://{}/large:1", registry.host)]);
    let host = slow(&registry.host);
    let mut pulling = environment
        .command()
        .args(["pull", &format!("{host}/large:1"), "large"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while partial(&environment).is_none() {
        assert!(
            Instant::now() < end && pulling.try_wait().unwrap().is_none(),
            "it was not killed in the middle"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    pulling.kill().unwrap();
    pulling.wait().unwrap();
    let (path, had) = partial(&environment).expect("what came is kept");
    assert_eq!(environment.ok(["images", "-q"]), "", "it has no name");
    environment.ok(["fsck"]);
    let pulled = events(&environment, &["pull", &format!("{}/large:1", registry.host), "large"]);
    let first = pulled.iter().find(|event| event["event"] == "moved");
    let done = pulled.iter().find(|event| event["event"] == "done").unwrap();
    if let Some(first) = first {
        assert!(first["bytes"].as_u64().unwrap() >= had, "{had}: {pulled:?}");
    }
    assert_eq!(done["bytes"], done["size"]);
    assert!(!path.exists(), "it became the blob");
    let tree = exported(&environment, "large");
    assert!(tree.contains("etc/noise f"));
    environment.ok(["fsck"]);
}

#[test]
fn a_beginning_that_is_wrong_is_fetched_again() {
    if !is_root() {
        return;
    }
    let environment = Environment::new();
    let Some(registry) = Registry::plain() else { return };
    make_large(&environment, 2 << 20);
    let remote = format!("{}/large:1", registry.host);
    environment.ok(["copy", &image(&environment), &format!("docker://{remote}")]);
    let inspected = environment.json(["inspect", &format!("docker://{remote}")]);
    let layer = inspected[0]["Layers"][0].as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
    let size = fs::metadata(environment.path("img/blobs/sha256").join(&layer)).unwrap().len();
    let partial = environment.store().join("blobs/partial");
    fs::create_dir_all(&partial).unwrap();
    fs::write(partial.join(format!("{layer}-{size}")), vec![7_u8; 100_000]).unwrap();
    environment.ok(["pull", &remote, "large"]);
    environment.ok(["fsck"]);
}

#[test]
fn two_pulls_of_one_image_share_the_work() {
    if !is_root() {
        return;
    }
    let environment = Environment::new();
    let Some(registry) = Registry::plain() else { return };
    make_large(&environment, 4 << 20);
    environment.ok(["copy", &image(&environment), &format!("docker://{}/large:1", registry.host)]);
    let host = slow(&registry.host);
    let pull = |name: &str| {
        let mut command = environment.command();
        command.args(["--format", "json", "pull", &format!("{host}/large:1"), name]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let (one, two) = (pull("one"), pull("two"));
    let mut fetched = 0;
    for child in [one, two] {
        let ran = ran(child.wait_with_output().unwrap());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let last: serde_json::Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
        fetched += last["fetched"].as_u64().unwrap();
    }
    assert_eq!(fetched, 1, "the layer came once");
    let images = environment.json(["images"]);
    assert_eq!(images[0]["id"], images[1]["id"], "both names are of one image");
    environment.ok(["fsck"]);
}

#[test]
fn wrong_bytes_become_no_image() {
    let environment = Environment::new();
    if !make_image(&environment) {
        return;
    }
    let blobs = environment.path("img/blobs/sha256");
    let largest = fs::read_dir(&blobs).unwrap().flatten().max_by_key(|entry| entry.metadata().unwrap().len());
    let path = largest.unwrap().path();
    let right = fs::read(&path).unwrap();
    let mut other = right.clone();
    other[right.len() / 2] ^= 1;
    let mut longer = right.clone();
    longer.push(0);
    for wrong in [other, right[..right.len() - 1].to_vec(), longer] {
        fs::write(&path, wrong).unwrap();
        let stderr = environment.fails(["pull", &image(&environment), "app:1"]);
        assert!(stderr.contains(path.file_name().unwrap().to_str().unwrap()), "{stderr}");
        assert_eq!(environment.ok(["images", "-q"]), "");
    }
    fs::write(&path, right).unwrap();
    environment.ok(["pull", &image(&environment), "app:1"]);
    environment.ok(["fsck"]);
}

#[test]
fn a_full_disk_says_so_and_leaves_no_image() {
    if !is_root() {
        return;
    }
    let environment = Environment::new();
    make_large(&environment, 12 << 20);
    // Too small for the blob; for the blob but not for the tree; large enough.
    let script = "for size in 6 18 64; do
            mkdir -p $D/t; mount -t tmpfs -o size=${size}m none $D/t; mkdir $D/t/s; export ROOTLING_ROOT=$D/t/s
            $R -q init $D/t/s --backend copy > /dev/null
            if $R -q pull oci:$D/img large >/dev/null 2>$D/said; then echo pulled; else
                grep -o 'No space left on device' $D/said | head -1; $R -q images; ls -A $D/t/s/n; ls -A $D/t/s/tmp
            fi
            $R -q fsck >/dev/null; umount $D/t
        done";
    let said = environment.script_ok(script);
    assert_eq!(said, "No space left on device\nNo space left on device\npulled\n");
}

#[test]
fn what_is_damaged_is_fetched_again_from_where_it_came() {
    if !is_root() {
        return;
    }
    let environment = Environment::new();
    let Some(registry) = Registry::plain() else { return };
    make_large(&environment, 1 << 20);
    environment.ok(["copy", &image(&environment), &format!("docker://{}/large:1", registry.host)]);
    environment.ok(["pull", &format!("docker://{}/large:1", registry.host), "large"]);
    environment.ok(["create", "large", "dev"]);
    let blobs = environment.store().join("blobs/sha256");
    // The manifest, the configuration and the layer.
    for blob in fs::read_dir(&blobs).unwrap() {
        let path = blob.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        bytes[10] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    assert_eq!(environment.run(["verify", "dev"]).code, 1);
    let said = environment.ok(["verify", "--repair", "large", "dev"]);
    assert_eq!(said.matches("repaired: blob").count(), 3, "{said}");
    assert!(environment.ok(["verify", "large", "dev"]).lines().all(|line| line.ends_with(": whole")));

    // Where it came from nobody answers any more: then that is said, and nothing else happens.
    drop(registry);
    for blob in fs::read_dir(&blobs).unwrap() {
        fs::write(blob.unwrap().path(), "gone").unwrap();
    }
    let failed = environment.run(["verify", "--repair", "large"]);
    assert_eq!((failed.code, failed.stdout.matches("NOT REPAIRED").count()), (1, 3), "{}", failed.stdout);
}
