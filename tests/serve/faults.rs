//! What goes wrong: clients that are cut off, lie or dawdle, a server that is killed, a disk that is full, hostile requests.

use std::fs;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use rootling::image::Digest;

use super::server::{Server, config, image, noise};
use crate::environment::{Environment, is_root};
use crate::registry::faulty::{Reply, Scripted};

fn started() -> (Environment, Server) {
    let environment = Environment::new();
    let server = Server::start(&environment, &["--allow-push"]);
    (environment, server)
}

fn uploads(environment: &Environment) -> usize {
    fs::read_dir(environment.store().join("blobs/uploads")).map_or(0, Iterator::count)
}

/// Sends a part of a body and breaks off.
fn cut(server: &Server, place: &str, told: usize, sent: &[u8]) {
    let mut stream = server.connect();
    let head = format!("PATCH {place} HTTP/1.1\r\nHost: h\r\nContent-Length: {told}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(sent).unwrap();
    stream.shutdown(std::net::Shutdown::Both).unwrap();
}

/// Waits until an upload stands at `size`.
fn stands_at(server: &Server, place: &str, size: usize) {
    let end = Instant::now() + Duration::from_secs(20);
    let wanted = format!("0-{}", size - 1);
    loop {
        let reply = server.get(place);
        if reply.line("Range") == Some(wanted.as_str()) {
            return;
        }
        assert!(Instant::now() < end, "{reply:?}, not {wanted}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_upload_that_was_cut_goes_on_where_it_stands() {
    let (environment, server) = started();
    let blob = noise(400_000, 1);
    let digest = Digest::sha256_of(&blob);
    let place = server.begin("a");
    cut(&server, &place, blob.len(), &blob[..123_456]);
    stands_at(&server, &place, 123_456);
    cut(&server, &place, blob.len() - 123_456, &blob[123_456..300_000]);
    stands_at(&server, &place, 300_000);
    let reply = server.ask(
        "PUT",
        &format!("{place}?digest={digest}"),
        &[("Content-Range", "300000-399999")],
        &blob[300_000..],
    );
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(server.get(&format!("/v2/a/blobs/{digest}")).body, blob);
    assert_eq!(uploads(&environment), 0);
}

#[test]
fn an_upload_survives_a_server_that_is_killed() {
    let (environment, mut server) = started();
    let blob = noise(400_000, 2);
    let digest = Digest::sha256_of(&blob);
    let place = server.begin("a");
    assert_eq!(server.ask("PATCH", &place, &[], &blob[..200_000]).status, 202);
    drop(server);
    server = Server::start(&environment, &["--allow-push"]);
    stands_at(&server, &place, 200_000);
    assert_eq!(
        server.ask("PATCH", &place, &[("Content-Range", "200000-299999")], &blob[200_000..300_000]).status,
        202
    );
    let reply = server.ask("PUT", &format!("{place}?digest={digest}"), &[], &blob[300_000..]);
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(server.get(&format!("/v2/a/blobs/{digest}")).body, blob);
}

#[test]
fn a_kill_at_any_point_of_a_push_leaves_all_or_nothing() {
    let layer = noise(50_000, 3);
    let manifest = image(&layer);
    let digest = Digest::sha256_of(&layer);
    for point in [
        "upload.written",
        "upload.verified",
        "upload.named",
        "push.blob",
        "push.document",
        "push.manifest",
        "push.tag",
    ] {
        let environment = Environment::new();
        let mut server =
            Server::start_with(&environment, &["--allow-push"], &[("ROOTLING_FAULT", &format!("{point}:1"))]);
        let push = |server: &Server| -> std::io::Result<u16> {
            for blob in [layer.as_slice(), &config(&layer)] {
                let reply = server.try_ask("POST", "/v2/a/blobs/uploads/", &[], b"")?;
                let place = reply.line("Location").unwrap().to_owned();
                let wanted = Digest::sha256_of(blob);
                server.try_ask("PUT", &format!("{place}?digest={wanted}"), &[], blob)?;
            }
            let manifest = manifest.to_string();
            let typed = [("Content-Type", super::server::MANIFEST)];
            server.try_ask("PUT", "/v2/a/manifests/1", &typed, manifest.as_bytes()).map(|reply| reply.status)
        };
        assert!(push(&server).is_err(), "{point}: it was not killed");
        server.killed();

        let server = Server::start(&environment, &["--allow-push"]);
        let reply = server.get("/v2/a/manifests/1");
        if reply.status == 200 {
            assert_eq!(reply.body, manifest.to_string().as_bytes(), "{point}");
            assert_eq!(server.get(&format!("/v2/a/blobs/{digest}")).body, layer, "{point}");
        }
        environment.ok(["prune"]);
        assert_eq!(environment.run(["fsck", "--verify"]).code, 0, "{point}");
        assert_eq!(push(&server).unwrap(), 201, "{point}");
        environment.ok(["prune"]);
        assert_eq!(server.get(&format!("/v2/a/blobs/{digest}")).body, layer, "{point}");
        assert_eq!(server.get("/v2/a/manifests/1").body, manifest.to_string().as_bytes(), "{point}");
    }
}

#[test]
fn several_push_one_blob_and_one_tag_at_once() {
    let (environment, server) = started();
    let layer = noise(300_000, 4);
    let manifest = image(&layer);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| server.push_image("a", "1", &layer));
        }
    });
    assert_eq!(server.get("/v2/a/manifests/1").body, manifest.to_string().as_bytes());
    assert_eq!(server.get(&format!("/v2/a/blobs/{}", Digest::sha256_of(&layer))).body, layer);
    assert_eq!(uploads(&environment), 0);
    assert_eq!(environment.run(["fsck", "--verify"]).code, 0);
}

#[test]
fn two_writers_of_one_upload_do_not_mix() {
    let (_environment, server) = started();
    let blob = noise(200_000, 5);
    let place = server.begin("a");
    // The first does not end: it waits for more.
    let mut slow = server.connect();
    let head = format!("PATCH {place} HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n");
    slow.write_all(head.as_bytes()).unwrap();
    slow.write_all(&blob[..100_000]).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let reply = server.ask("PATCH", &place, &[("Content-Range", "0-9")], b"0123456789");
    assert_eq!((reply.status, reply.code().as_str()), (409, "BLOB_UPLOAD_INVALID"));
    slow.write_all(&blob[100_000..]).unwrap();
    let mut said = [0; 12];
    slow.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"HTTP/1.1 202");
    let digest = Digest::sha256_of(&blob);
    assert_eq!(server.ask("PUT", &format!("{place}?digest={digest}"), &[], b"").status, 201);
}

#[test]
fn a_full_disk_is_said_and_costs_nothing_that_was_there() {
    if !is_root() {
        return;
    }
    let environment = Environment::new();
    let script = "mkdir $D/t; mount -t tmpfs -o size=6m none $D/t; export ROOTLING_ROOT=$D/t/s; $R init --backend copy 2>&1 || exit 1
        $R serve --listen 127.0.0.1:0 --allow-push 2> $D/log & server=$!
        for i in $(seq 100); do address=$(sed -n 's/.*:\\/\\/\\([0-9.:]*\\),.*/\\1/p' $D/log); [ -n \"$address\" ] && break; sleep 0.1; done
        curl() { command curl -s -o $D/said -w '%{http_code}\\n' \"$@\"; }
        head -c 2000000 /dev/zero > $D/small; head -c 20000000 /dev/zero > $D/large
        curl --data-binary @$D/small \"http://$address/v2/a/blobs/uploads/?digest=sha256:$(sha256sum < $D/small | cut -c-64)\"
        curl --data-binary @$D/large \"http://$address/v2/a/blobs/uploads/?digest=sha256:$(sha256sum < $D/large | cut -c-64)\"
        curl \"http://$address/v2/a/blobs/sha256:$(sha256sum < $D/small | cut -c-64)\"; cmp $D/said $D/small
        curl --data-binary @$D/small \"http://$address/v2/b/blobs/uploads/?digest=sha256:$(sha256sum < $D/small | cut -c-64)\"
        kill $server; wait $server; echo ended $?; umount $D/t";
    let ran = environment.script(script);
    assert!(ran.stdout.ends_with("201\n507\n200\n201\nended 0\n"), "{}{}", ran.stdout, ran.stderr);
}

#[test]
fn names_that_would_lead_elsewhere_are_refused() {
    let (environment, mut server) = started();
    let outside = environment.path("outside");
    fs::write(&outside, "secret").unwrap();
    for name in [
        "..",
        "../..",
        "a/../b",
        "a/..",
        ".",
        "a//b",
        "%2e%2e",
        "%2e%2e%2f%2e%2e",
        "..%2f..",
        "a%00",
        "A",
        "a/./b",
        "-a",
        "~",
        "a\u{e9}",
        "refs%2Fx",
        &"a/".repeat(200),
    ] {
        for path in [
            format!("/v2/{name}/tags/list"),
            format!("/v2/{name}/manifests/latest"),
            format!("/v2/{name}/blobs/sha256:{}", "0".repeat(64)),
        ] {
            let status = server.get(&path).status;
            assert!(matches!(status, 400 | 404), "{path}: {status}");
        }
        let status = server.ask("POST", &format!("/v2/{name}/blobs/uploads/"), &[], b"").status;
        assert!(matches!(status, 400 | 404), "{name}: {status}");
    }
    for path in [
        "/v2/a/manifests/..",
        "/v2/a/manifests/../../../outside",
        "/v2/a/blobs/../../outside",
        "/v2/a/blobs/uploads/../x",
        "/v2/a/blobs/uploads/..%2f..%2f..%2foutside",
        "/v2/../../outside",
        "/../outside",
        "/v2/a/referrers/..",
        "/v2/a/manifests/sha256:../../../../outside",
    ] {
        for method in ["GET", "DELETE", "PUT", "PATCH"] {
            let reply = server.ask(method, path, &[], b"x");
            assert!(matches!(reply.status, 400 | 404 | 405), "{method} {path}: {reply:?}");
            assert!(!String::from_utf8_lossy(&reply.body).contains("secret"));
        }
    }
    assert_eq!(fs::read_to_string(&outside).unwrap(), "secret");
    assert!(!environment.store().join("refs").exists());
    assert!(server.is_alive());
}

#[test]
fn requests_that_could_be_read_in_two_ways_end_the_connection() {
    let (_environment, mut server) = started();
    let hidden = "GET /v2/_catalog HTTP/1.1\r\nHost: h\r\n\r\n";
    for head in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: 0x5",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: chunked\nContent-Length: 5",
        " Transfer-Encoding: chunked",
        "Expect: 200-ok",
    ] {
        let said = server.raw(
            format!("POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: h\r\n{head}\r\n\r\n0\r\n\r\n{hidden}")
                .as_bytes(),
        );
        assert!(said.starts_with("HTTP/1.1 4") || said.starts_with("HTTP/1.1 501"), "{head:?}: {said}");
        assert_eq!(said.matches("HTTP/1.1").count(), 1, "{head:?}: {said}");
        assert!(said.contains("Connection: close"), "{head:?}: {said}");
    }
    for chunks in [
        "zz\r\n",
        "-1\r\n",
        "5\r\nabcdefgh\r\n0\r\n\r\n",
        "5\nabcde\r\n0\r\n\r\n",
        "11111111111111111\r\n",
        "\r\n",
    ] {
        let said = server.raw(
            format!("PUT /v2/a/manifests/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{hidden}").as_bytes(),
        );
        assert!(said.starts_with("HTTP/1.1 400"), "{chunks:?}: {said}");
        assert_eq!(said.matches("HTTP/1.1").count(), 1, "{chunks:?}: {said}");
    }
    // Two honest ones, sent at once, are answered one after the other.
    let said = server.raw(format!("{hidden}{hidden}").as_bytes());
    assert_eq!(said.matches("HTTP/1.1 200 OK").count(), 2, "{said}");
    assert!(server.is_alive());
}

#[test]
fn what_is_too_long_is_refused_early() {
    let (_environment, server) = started();
    let long = "x".repeat(40_000);
    assert!(
        server
            .raw(format!("GET /v2/{long} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes())
            .starts_with("HTTP/1.1 431")
    );
    assert!(
        server.raw(format!("GET / HTTP/1.1\r\nHost: h\r\nX: {long}").as_bytes()).starts_with("HTTP/1.1 431")
    );
    let many = "X: y\r\n".repeat(100);
    assert!(
        server.raw(format!("GET / HTTP/1.1\r\nHost: h\r\n{many}\r\n").as_bytes()).starts_with("HTTP/1.1 431")
    );
    // TLS spoken to a server that has none gets an answer at once.
    let begun = Instant::now();
    assert!(server.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").starts_with("HTTP/1.1 400"));
    assert!(begun.elapsed() < Duration::from_secs(5));

    // A body that is not wanted is refused before it is sent.
    let mut stream = server.connect();
    let head = "PUT /v2/a/manifests/x HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 413"), "{said}");
    // One that is wanted is asked for.
    let mut stream = server.connect();
    let digest = Digest::sha256_of(b"hello");
    let head = format!(
        "POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut word = [0; 25];
    stream.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 201"), "{said}");
}

#[test]
fn a_dawdler_is_sent_away_and_keeps_nobody_waiting() {
    let (_environment, server) = started();
    let mut slow = server.connect();
    slow.write_all(b"GET /v2/ HT").unwrap();
    let many: Vec<_> = (0..100).map(|_| server.connect()).collect();
    assert_eq!(server.get("/v2/").status, 200);
    let begun = Instant::now();
    let mut said = String::new();
    slow.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 408"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(25));
    drop(many);
}

#[test]
fn the_end_lets_a_push_finish() {
    let (environment, server) = started();
    let blob = noise(200_000, 6);
    let place = server.begin("a");
    let digest = Digest::sha256_of(&blob);
    let idle = server.connect();
    let mut busy = server.connect();
    let head = format!("PUT {place}?digest={digest} HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n");
    busy.write_all(head.as_bytes()).unwrap();
    busy.write_all(&blob[..100_000]).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let finished = std::thread::scope(|scope| {
        let rest = scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(500));
            busy.write_all(&blob[100_000..]).unwrap();
            let mut said = String::new();
            busy.read_to_string(&mut said).unwrap();
            said
        });
        let begun = Instant::now();
        assert!(server.end().success());
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
        rest.join().unwrap()
    });
    assert!(finished.starts_with("HTTP/1.1 201"), "{finished}");
    drop(idle);
    assert!(environment.store().join("blobs/sha256").join(digest.hex()).exists());
}

#[test]
fn the_end_does_not_wait_for_another_registry() {
    let upstream = Scripted::start(|seen, _| match seen.path.as_str() {
        "/v2/" => Reply::new(200, ""),
        _ => Reply::new(503, "").header("retry-after", "100"),
    });
    let environment = Environment::new();
    let server = Server::start(&environment, &["--mirror", &upstream.host]);
    let mut asking = server.connect();
    asking.write_all(b"GET /v2/a/manifests/1 HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    while upstream.seen().is_empty() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let begun = Instant::now();
    assert!(server.end().success());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn what_is_left_of_uploads_goes_after_a_day() {
    let (environment, server) = started();
    let (old, young) = (server.begin("a"), server.begin("a"));
    server.ask("PATCH", &old, &[], b"old");
    server.ask("PATCH", &young, &[], b"young");
    let id = old.rsplit('/').next().unwrap();
    let file =
        fs::File::options().write(true).open(environment.store().join("blobs/uploads").join(id)).unwrap();
    file.set_modified(std::time::SystemTime::now() - Duration::from_secs(25 * 3600)).unwrap();
    environment.ok(["prune"]);
    assert_eq!(server.get(&old).status, 404);
    assert_eq!(server.get(&young).status, 204);
}

#[test]
fn nobody_listens_to_others_by_accident() {
    let environment = Environment::new();
    let said = environment.fails(["serve", "--listen", "0.0.0.0:0"]);
    assert!(said.contains("neither TLS nor a password") && said.contains("--unprotected"), "{said}");
    let said = environment.fails(["serve", "--listen", "127.0.0.1:0", "--htpasswd", "none"]);
    assert!(said.contains("read passwords"), "{said}");
    fs::write(environment.path("weak"), "a:{SHA}x\n").unwrap();
    let said = environment.fails(["serve", "--htpasswd", environment.path("weak").to_str().unwrap()]);
    assert!(said.contains("not of bcrypt") && said.contains("htpasswd -B"), "{said}");
    assert!(environment.run(["serve", "--read-only", "--allow-push"]).code == 2);
}

#[test]
fn a_reader_that_breaks_off_harms_nobody() {
    let (_environment, mut server) = started();
    let blob = noise(8_000_000, 20);
    let digest = server.push_blob("a", &blob);
    for _ in 0..5 {
        let mut stream = server.connect();
        write!(stream, "GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        let mut some = [0; 1000];
        stream.read_exact(&mut some).unwrap();
    }
    std::thread::sleep(Duration::from_millis(200));
    assert!(server.is_alive());
    assert_eq!(server.get(&format!("/v2/a/blobs/{digest}")).body, blob);
}
