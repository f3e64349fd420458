//! What else steps do: archives, trees of stages, servers, directories of `WORKDIR`, times, sharing.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::process::Command;

use rootling::build::copy::make_dir;
use rootling_backends::{ErrorKind, sys};

use super::*;
use crate::environment::{found, skip};

/// Where the data of a file lies.
fn places(path: &Path) -> Vec<(u64, u64)> {
    let file = fs::File::open(path).unwrap();
    file.sync_all().unwrap();
    let mut buffer = vec![0; 4096];
    let extents = sys::fiemap(file.as_fd(), 0, &mut buffer).unwrap();
    extents.iter().map(|extent| (extent.physical, extent.length)).collect()
}

#[test]
fn files_share_their_data_with_the_context_and_with_stages() {
    on_file_systems(|environment, sort| {
        let bench = Bench::new(environment, sort);
        let context = context(&environment.path("context"), "f 644 0:0 d/small = s", "");
        let big = environment.path("context/d/big");
        fs::write(&big, vec![7; 3 << 20]).unwrap();
        let base = bench.import("base", "d 755 0:0 x");
        for &kind in &bench.kinds {
            let what = format!("{kind} on {sort}");
            let fork = bench.fork(&base, kind);
            let copied = bench.copy(&fork, &step("COPY d /x"), &context).unwrap();
            let total = (3 << 20) + 1;
            let expected = if sort.clones_files() { (2, 0, total) } else { (0, 2, 0) };
            let cost = &copied.cost;
            assert_eq!((cost.files_cloned, cost.files_copied, cost.bytes_cloned), expected, "{what}");
            if sort.clones_files() {
                let own = fork.slot().join("fs/x/big");
                assert_eq!(places(&own), places(&big), "{what}");
            }

            // Two deltas on each other, or two full trees, as a stage; out of that into another fork.
            let first = bench.commit(fork, &format!("first-{kind}"));
            let fork = bench.fork(&first, kind);
            bench.copy(&fork, &step("COPY d/small /y/"), &context).unwrap();
            let stage = bench.commit(fork, &format!("stage-{kind}"));
            let fork = bench.fork(&base, kind);
            let copied = bench.copy_from(&fork, &step("COPY x y /out/"), &stage).unwrap();
            assert_eq!(copied.cost.files_copied, if sort.clones_files() { 0 } else { 3 }, "{what}");
            bench.shown(&fork, |root| assert_eq!(fs::metadata(root.join("out/big")).unwrap().len(), 3 << 20));
            if sort.clones_files() {
                assert_eq!(places(&fork.slot().join("fs/out/big")), places(&big), "{what}");
            }
        }
    });
}

#[test]
fn stages_keep_owners_and_times_are_those_of_the_source() {
    on_file_systems(|environment, sort| {
        let bench = Bench::new(environment, sort);
        let stage =
            bench.import("stage", "d 750 5:6 d\n f 4755 7:8 d/a = a\n l 777 9:9 d/l -> a\n s 600 0:0 d/s");
        let base = bench.import("base", "d 755 0:0 x");
        let root = environment.path("context");
        let context = context(&root, "f 644 0:0 d/a = a\n d 755 0:0 d/e", "");
        let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
        for path in ["d/a", "d/e", "d"] {
            let file = fs::File::open(root.join(path)).unwrap();
            file.set_times(fs::FileTimes::new().set_modified(old).set_accessed(old)).unwrap();
        }
        for &kind in &bench.kinds {
            let fork = bench.fork(&base, kind);
            bench.copy_from(&fork, &step("COPY d /x/y"), &stage).unwrap();
            bench.copy_from(&fork, &step("COPY --chown=3 d/a /x/z"), &stage).unwrap();
            let made = "d 755 0:0 x\n d 755 0:0 x/y\n f 4755 7:8 x/y/a = a\n l 777 9:9 x/y/l -> a\n f 4755 3:3 x/z = a";
            assert_eq!(bench.lines(&fork), sorted(made), "{kind} on {sort}");

            bench.copy(&fork, &step("COPY d /t/"), &context).unwrap();
            bench.shown(&fork, |root| {
                for path in ["t", "t/a", "t/e"] {
                    let modified = fs::metadata(root.join(path)).unwrap().modified().unwrap();
                    assert_eq!(modified, old, "{path}, {kind} on {sort}");
                }
            });
        }
    });
}

#[test]
fn attributes_that_programs_act_on_are_copied_and_labels_are_not() {
    // struct vfs_cap_data, revision 2, cap_net_raw permitted and effective (linux/capability.h).
    const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    on_file_systems(|environment, sort| {
        let bench = Bench::new(environment, sort);
        let context = context(&environment.path("context"), "f 755 0:0 a = a", "");
        for (name, value) in [
            ("security.capability", CAPABILITY),
            ("user.mine", b"1"),
            ("user.overlay.opaque", b"y"),
            ("trusted.overlay.opaque", b"y"),
        ] {
            context.root().set_xattr("a", name.as_ref(), value).unwrap();
        }
        let base = bench.import("base", "d 755 0:0 x");
        for &kind in &bench.kinds {
            let fork = bench.fork(&base, kind);
            bench.copy(&fork, &step("COPY --chown=5 a /x/"), &context).unwrap();
            let own = Dir::open(fork.slot().join("fs/x")).unwrap();
            let names: Vec<_> = own.xattrs("a").unwrap().into_iter().map(|(name, _)| name).collect();
            assert_eq!(names, ["security.capability", "user.mine"], "{kind} on {sort}");
        }
    });
}

#[test]
fn a_file_that_changes_after_it_was_listed_is_an_error() {
    on_file_systems(|environment, sort| {
        let bench = Bench::new(environment, sort);
        let root = environment.path("context");
        let context = context(&root, "f 644 0:0 d/a = a\n f 644 0:0 d/gone = g", "");
        let base = bench.import("base", "d 755 0:0 x");
        let fork = bench.fork(&base, bench.kinds[0]);
        let step = step("COPY d /x/");
        let origin = Origin::plain(context.root().try_clone().unwrap());
        bench.with_means(|means| {
            let chosen = copy::choose(&step, &context, means).unwrap();
            let (digest, listing) = (key(&chosen), chosen.list().unwrap());
            assert_eq!(key(&chosen), digest);
            let destination = Destination::of(&bench.store, &fork).unwrap();
            copy::perform(&step, &chosen, &listing, &origin, &destination).unwrap();

            fs::remove_file(root.join("d/gone")).unwrap();
            copy::perform(&step, &chosen, &listing, &origin, &destination).unwrap();
            fs::write(root.join("d/a"), "b").unwrap();
            let error = copy::perform(&step, &chosen, &listing, &origin, &destination).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Busy, "{}", told(&error));
            assert_ne!(key(&chosen), digest);
        });
    });
}

// ---------------------------------------------------------------- WORKDIR

#[test]
fn a_workdir_is_made_with_those_it_is_in_for_the_user() {
    on_file_systems(|environment, sort| {
        let bench = Bench::new(environment, sort);
        let tree = "f 644 0:0 etc/passwd = me:x:1000:1001::/:/bin/sh\n d 711 3:3 there\n l 777 0:0 link -> /there/../../there\n f 644 0:0 file = f";
        let base = bench.import("base", tree);
        for &kind in &bench.kinds {
            let fork = bench.fork(&base, kind);
            let make = |path: &str, user: &str| {
                make_dir(path, user, &Destination::of(&bench.store, &fork).unwrap())
                    .map_err(|error| told(&error))
            };
            assert_eq!(make("/there", "me"), Ok(false));
            assert_eq!(make("/link/a/b", "me"), Ok(true));
            assert_eq!(make("/root", ""), Ok(true));
            assert_eq!(make("/by/number", "7"), Ok(true));
            let error = make("/file/x", "").unwrap_err();
            assert!(
                error.contains("make the directory /file/x: /file is there and is no directory"),
                "{error}"
            );
            let made = "d 755 7:7 by\n d 755 7:7 by/number\n d 755 0:0 root\n d 755 1000:1001 there/a\n d 755 1000:1001 there/a/b\n d 755 0:0 etc";
            assert_eq!(bench.lines(&fork), sorted(&format!("{tree}\n{made}")), "{kind} on {sort}");
        }
    });
}

// ---------------------------------------------------------------- archives

/// Packs what the lines say.
fn archive(at: &Path, lines: &str, options: &[&str]) {
    let root = at.with_extension("root");
    fs::create_dir(&root).unwrap();
    make(&root, lines);
    let status = Command::new("tar")
        .args(["--numeric-owner"])
        .args(options)
        .arg("-cf")
        .arg(at)
        .arg("-C")
        .arg(&root)
        .arg(".")
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn archives_are_unpacked_by_what_is_in_them() {
    on_file_systems(|environment, sort| {
        let bench = Bench::new(environment, sort);
        let root = environment.path("context");
        fs::create_dir(&root).unwrap();
        let content = "d 750 5:6 d\n f 4711 7:8 d/a = new\n l 777 9:9 l -> d/a\n p 600 0:0 p\n f 600 0:0 .wh.x = plain\n f 644 7:8 e == d/a";
        for (name, tool, options) in [
            ("plain", "tar", &[][..]),
            ("gz.txt", "gzip", &["--gzip"]),
            ("bz2", "bzip2", &["--bzip2"]),
            ("xz", "xz", &["--xz"]),
            ("zst", "zstd", &["--zstd"]),
        ] {
            if found(tool) {
                archive(&root.join(name), content, options);
            } else {
                skip(&format!("{tool} is not installed"));
            }
        }
        fs::write(root.join("broken.tar"), "no archive").unwrap();
        let context = Context::of_files(Dir::open(&root).unwrap(), "the context");
        let base = bench.import(
            "base",
            "d 711 3:3 x\n f 644 0:0 x/d/a = old\n f 644 3:3 x/d/stays = s\n d 755 0:0 x/l\n d 755 3:3 x/d",
        );
        let unpacked = "d 711 3:3 x\n f 600 0:0 x/.wh.x = plain\n d 750 5:6 x/d\n f 4711 7:8 x/d/a = new\n f 644 3:3 x/d/stays = s\n f 4711 7:8 x/e == x/d/a\n l 777 9:9 x/l -> d/a";
        for &kind in &bench.kinds {
            let what = format!("{kind} on {sort}");
            for name in ["plain", "gz.txt", "bz2", "xz", "zst"].iter().filter(|name| root.join(name).exists())
            {
                let fork = bench.fork(&base, kind);
                let copied = bench.copy(&fork, &step(&format!("ADD {name} /x")), &context).unwrap();
                assert_eq!(bench.lines(&fork), sorted(unpacked), "{name}, {what}");
                assert_eq!(copied.unpacked, 1);
                assert!(copied.notes.iter().any(|note| note.starts_with("p: ")), "{:?}", copied.notes);
            }
            let fork = bench.fork(&base, kind);
            bench.copy(&fork, &step("ADD --link --chown=4 plain broken.tar /new/"), &context).unwrap();
            bench.copy(&fork, &step("ADD --unpack=false gz.txt /new/kept"), &context).unwrap();
            bench.copy(&fork, &step("COPY plain /new/copied"), &context).unwrap();
            bench.shown(&fork, |root| {
                let metadata = fs::metadata(root.join("new/d/a")).unwrap();
                assert_eq!(
                    (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777),
                    (4, 4, 0o4711),
                    "{what}"
                );
                assert_eq!(fs::read(root.join("new/broken.tar")).unwrap(), b"no archive");
                for (name, of) in [("kept", "gz.txt"), ("copied", "plain")] {
                    let original = fs::read(environment.path("context").join(of)).unwrap();
                    assert_eq!(fs::read(root.join("new").join(name)).unwrap(), original, "{what}");
                }
            });
        }
    });
}

// ---------------------------------------------------------------- servers

/// Answers each request with what belongs to its path; counts them.
fn serve(answers: &'static [(&'static str, &'static str, &'static [u8])]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = vec![0; 8192];
            let read = stream.read(&mut request).unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            let path = request.split(' ').nth(1).unwrap_or("").to_owned();
            let answer = answers.iter().find(|(known, ..)| *known == path);
            let (status, headers, body) = match answer {
                Some((_, headers, body)) => ("200 OK", *headers, *body),
                None => ("404 Not Found", "", &b""[..]),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            drop(stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)));
        }
    });
    address
}

#[test]
fn files_of_servers_are_fetched_once_and_are_their_owners_alone() {
    let server = serve(&[
        ("/a/file.txt", "last-modified: Sun, 09 Sep 2001 01:46:40 GMT\r\n", b"text"),
        ("/a/%66ile%20two?x", "", b"two"),
        ("/", "content-disposition: attachment; filename=\"../named\"\r\n", b"named"),
    ]);
    on_file_systems(|environment, sort| {
        let bench = Bench::new(environment, sort);
        let context = context(&environment.path("context"), "", "");
        let base = bench.import("base", "d 755 0:0 x");
        let add = |fork: &Ephemeral, text: &str| {
            bench.copy(fork, &step(text), &context).map_err(|error| told(&error))
        };
        for &kind in &bench.kinds {
            let fork = bench.fork(&base, kind);
            let what = format!("{kind} on {sort}");
            add(&fork, &format!("ADD {server}/a/file.txt {server}/a/%66ile%20two?x /x/")).unwrap();
            add(&fork, &format!("ADD --chmod=755 --chown=5 {server}/a/file.txt /y")).unwrap();
            let sum = "sha256:982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1";
            add(&fork, &format!("ADD --checksum={sum} {server}/a/file.txt /z/")).unwrap();
            add(&fork, &format!("ADD {server}/ /x/")).unwrap();
            let made = "d 755 0:0 x\n f 600 0:0 x/file two = two\n f 600 0:0 x/file.txt = text\n f 600 0:0 x/named = named\n f 755 5:5 y = text\n d 755 0:0 z\n f 600 0:0 z/file.txt = text";
            assert_eq!(bench.lines(&fork), sorted(made), "{what}");
            bench.shown(&fork, |root| {
                assert_eq!(fs::metadata(root.join("y")).unwrap().mtime(), 1_000_000_000);
                assert_eq!(fs::metadata(root.join("x/file two")).unwrap().mtime(), 0);
            });
            let wrong = format!("sha256:{}", "0".repeat(64));
            let error = add(&fork, &format!("ADD --checksum={wrong} {server}/a/file.txt /z/")).unwrap_err();
            assert!(error.contains("its checksum is"), "{error}");
            let error = add(&fork, &format!("ADD {server}/none /z/")).unwrap_err();
            assert!(error.contains(&format!("get {server}/none")) && error.contains("404"), "{error}");
            let error = add(&fork, &format!("COPY {server}/a/file.txt /z/")).unwrap_err();
            assert!(error.contains("write ADD for it"), "{error}");
            let error = add(&fork, "ADD --checksum=sha256:0 x /z/").unwrap_err();
            assert!(error.contains("x"), "{error}");
        }
    });
}

/// Serves the files of a directory, as git's simplest protocol has it.
fn serve_directory(root: std::path::PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = vec![0; 8192];
            let read = stream.read(&mut request).unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            let path = request.split([' ', '?']).nth(1).unwrap_or("/").trim_start_matches('/').to_owned();
            let (status, body) = match fs::read(root.join(path)) {
                Ok(body) => ("200 OK", body),
                Err(_) => ("404 Not Found", Vec::new()),
            };
            let head =
                format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            drop(stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body)));
        }
    });
    address
}

#[test]
fn repositories_are_added_at_a_commit_without_what_git_keeps() {
    if !found("git") {
        return skip("git is not installed");
    }
    on_file_systems(|environment, sort| {
        let bench = Bench::new(environment, sort);
        let work = environment.path("work");
        make(
            &work,
            "f 644 0:0 sub/a = a\n f 755 0:0 run = r\n f 644 0:0 .dockerignore = run\n l 777 0:0 link -> run",
        );
        let git = |directory: &Path, script: &str| {
            let names = "export HOME=/nonexistent GIT_AUTHOR_NAME=t GIT_AUTHOR_EMAIL=t@t GIT_COMMITTER_NAME=t GIT_COMMITTER_EMAIL=t@t";
            let output = Command::new("sh")
                .arg("-euc")
                .arg(format!("{names}; {script}"))
                .current_dir(directory)
                .output()
                .unwrap();
            assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        let first = git(&work, "git init -q -b main .; git add -A; git commit -qm first; git rev-parse HEAD");
        git(
            &work,
            "echo two > two; git add -A; git commit -qm second; cd ..; git clone -q --bare work served.git; git -C served.git update-server-info",
        );
        let server = serve_directory(environment.dir.path().to_owned());
        let url = format!("{server}/served.git");
        let context = context(&environment.path("context"), "", "");
        let base = bench.import("base", "d 755 0:0 x");
        for &kind in &bench.kinds {
            let fork = bench.fork(&base, kind);
            let add = |text: &str| bench.copy(&fork, &step(text), &context).map_err(|error| told(&error));
            add(&format!("ADD {url} /all")).unwrap();
            add(&format!("ADD --chown=5 --checksum={first} {url}#{first}:sub /x")).unwrap();
            add(&format!("ADD --exclude=sub --exclude=two {url}?keep-git-dir=true#main /kept/")).unwrap();
            let made = bench.lines(&fork);
            let plain: String = made
                .lines()
                .filter(|line| !line.contains(" kept/.git"))
                .map(|line| format!("{line}\n"))
                .collect();
            let files = "f 644 0:0 P/.dockerignore = run\n l 777 0:0 P/link -> run\n f 755 0:0 P/run = r";
            let all = files.replace("P", "all");
            let kept = files.replace("P", "kept");
            let expected = format!(
                "d 755 0:0 all\n {all}\n d 755 0:0 all/sub\n f 644 0:0 all/sub/a = a\n f 644 0:0 all/two = two\\n\n d 755 0:0 kept\n {kept}\n d 755 0:0 x\n f 644 5:5 x/a = a"
            );
            assert_eq!(plain, sorted(&expected), "{kind} on {sort}");
            assert!(made.contains(" kept/.git/HEAD") && !made.contains(" all/.git "), "{made}");

            let error = add(&format!("ADD --checksum={first} {url}#main /y")).unwrap_err();
            assert!(error.contains("should be"), "{error}");
            let error = add(&format!("ADD {url}#nowhere /y")).unwrap_err();
            assert!(error.contains("nowhere"), "{error}");
            for (text, expected) in [
                (format!("COPY {url} /y"), "write ADD for it"),
                (
                    format!("ADD file://{}/served.git /y", environment.dir.path().display()),
                    "may name no repository of this machine",
                ),
                (format!("ADD --checksum=abc {url} /y"), "is a commit"),
            ] {
                let error = add(&text).unwrap_err();
                assert!(error.contains(expected), "{text}: {error}");
            }
            // The key of a commit needs no server.
            bench.with_means(|loading| {
                let step = step(&format!("ADD http://127.0.0.1:1/none.git#{first} /y"));
                assert_ne!(key(&copy::choose(&step, &context, loading).unwrap()), "");
            });
        }
    });
}

#[test]
fn a_checksum_makes_asking_a_server_needless_for_the_key() {
    let environment = Environment::new();
    let context = context(&environment.path("context"), "", "");
    let bench = Bench { store: Store::open(&environment.store()).unwrap(), kinds: Vec::new() };
    bench.with_means(|means| {
        let sum = format!("sha256:{}", "1".repeat(64));
        // Nobody listens there.
        let step = step(&format!("ADD --checksum={sum} http://127.0.0.1:1/file /x"));
        let chosen = copy::choose(&step, &context, means).unwrap();
        let digest = key(&chosen);
        let other =
            super::step(&format!("ADD --checksum=sha256:{} http://127.0.0.1:1/file /x", "2".repeat(64)));
        assert_ne!(key(&copy::choose(&other, &context, means).unwrap()), digest);
    });
}

#[test]
fn what_is_fetched_for_the_key_is_what_is_copied() {
    let environment = Environment::new();
    let context = context(&environment.path("context"), "", "");
    let bench = Bench { store: Store::open(&environment.store()).unwrap(), kinds: Vec::new() };
    let base = bench.import("base", "d 755 0:0 x");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file", listener.local_addr().unwrap());
    // It answers once.
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _read = stream.read(&mut [0; 8192]).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nonce").unwrap();
    });
    let step = step(&format!("ADD {url} /x/"));
    let origin = Origin::plain(context.root().try_clone().unwrap());
    bench.with_means(|loading| {
        let first = key(&copy::choose(&step, &context, loading).unwrap());
        server.join().unwrap();
        let fork = bench.store.ephemeral(Base::Node(&base), CreateOptions::default()).unwrap();
        let chosen = copy::choose(&step, &context, loading).unwrap();
        assert_eq!(key(&chosen), first);
        let destination = Destination::of(&bench.store, &fork).unwrap();
        copy::perform(&step, &chosen, &chosen.list().unwrap(), &origin, &destination).unwrap();
        drop(destination);
        assert_eq!(bench.lines(&fork), "d 755 0:0 x\nf 600 0:0 x/file = once\n");
    });
}
