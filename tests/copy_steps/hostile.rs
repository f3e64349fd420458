//! Trees and contexts that would have a step read or write elsewhere, or wait for ever.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::*;

/// A file outside of everything, and what leads to it.
fn canary(environment: &Environment) -> std::path::PathBuf {
    let outside = environment.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("canary"), "alive").unwrap();
    outside
}

fn assert_alive(outside: &Path) {
    assert_eq!(fs::read(outside.join("canary")).unwrap(), b"alive");
    assert_eq!(fs::read_dir(outside).unwrap().count(), 1);
}

#[test]
fn a_tree_leads_no_step_outside() {
    on_file_systems(|environment, sort| {
        let bench = Bench::new(environment, sort);
        let outside = canary(environment);
        let up = "../".repeat(30);
        let tree = format!(
            "l 777 0:0 absolute -> {0}\n l 777 0:0 relative -> {up}{1}\n l 777 0:0 x/canary -> {0}/canary\n l 777 0:0 passwd -> {0}/canary",
            outside.display(),
            outside.strip_prefix("/").unwrap().display(),
        );
        let base = bench.import("base", &tree);
        let context =
            context(&environment.path("context"), "f 644 0:0 d/canary = dead\n f 644 0:0 canary = dead", "");
        for &kind in &bench.kinds {
            for text in [
                "COPY d /absolute",
                "COPY canary /absolute/",
                "COPY d /relative/sub",
                "COPY canary /x/",
                "COPY canary /passwd",
                "COPY --link d /absolute",
                "COPY --chown=9 canary /absolute/../relative/",
                "COPY <<canary /absolute/",
                "ADD canary /relative/../../../../x/",
            ] {
                let fork = bench.fork(&base, kind);
                bench
                    .copy(&fork, &step(text), &context)
                    .unwrap_or_else(|error| panic!("{text}: {}", told(&error)));
                assert_alive(&outside);
            }
        }
        assert_alive(&outside);
    });
}

#[test]
fn a_context_shows_nothing_outside() {
    on_file_systems(|environment, sort| {
        let bench = Bench::new(environment, sort);
        let outside = canary(environment);
        let base = bench.import("base", "d 755 0:0 x");
        let lines =
            format!("l 777 0:0 out -> {0}\n l 777 0:0 up -> ../outside\n f 644 0:0 a = a", outside.display());
        let context = context(&environment.path("context"), &lines, "");
        for &kind in &bench.kinds {
            for text in
                ["COPY out /x/", "COPY out/canary /x/", "COPY up/canary /x/", "COPY ../outside/canary /x/"]
            {
                let fork = bench.fork(&base, kind);
                let error = bench.copy(&fork, &step(text), &context).unwrap_err();
                assert_eq!(bench.lines(&fork), "d 755 0:0 x\n", "{text}: {}", told(&error));
            }
        }
    });
}

/// Names that change from file to link and back, while they are copied: what comes out is of the context, or an error.
#[test]
fn a_context_that_changes_gives_nothing_away() {
    on_file_systems(|environment, sort| {
        let bench = Bench::new(environment, sort);
        let outside = canary(environment);
        let root = environment.path("context");
        let context = context(&root, "f 644 0:0 d/sub/canary = mine\n f 644 0:0 d/canary = mine", "");
        let base = bench.import("base", "d 755 0:0 x");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (sub, aside, link) = (root.join("d/sub"), root.join("aside"), root.join("link"));
                while !done.load(Ordering::Relaxed) {
                    drop(symlink(&outside, &link));
                    drop(fs::rename(&sub, &aside));
                    drop(fs::rename(&link, &sub));
                    drop(fs::remove_file(&sub));
                    drop(fs::rename(&aside, &sub));
                    drop(fs::remove_file(root.join("d/canary")));
                    drop(symlink(outside.join("canary"), root.join("d/canary")));
                    drop(fs::remove_file(root.join("d/canary")));
                    drop(fs::write(root.join("d/canary"), "mine"));
                }
            });
            let end = Instant::now() + Duration::from_millis(700);
            let mut number = 0;
            while Instant::now() < end {
                number += 1;
                for text in
                    ["COPY d /x/", "COPY d/sub/canary /x/", "COPY d/canary /x/", "COPY d/*/canary /x/"]
                {
                    let fork = bench.fork(&base, bench.kinds[number % bench.kinds.len()]);
                    drop(bench.copy(&fork, &step(text), &context));
                    let lines = bench.lines(&fork);
                    assert!(!lines.contains("alive"), "{text} on {sort}: {lines}");
                }
            }
            done.store(true, Ordering::Relaxed);
            assert!(number > 0);
        });
        assert_alive(&outside);
    });
}

/// Nobody writes to the pipe, and a device would answer for ever.
#[test]
fn what_is_no_file_is_never_read() {
    on_file_systems(|environment, sort| {
        let bench = Bench::new(environment, sort);
        let base = bench.import("base", "d 755 0:0 x");
        let context = context(
            &environment.path("context"),
            "p 600 0:0 d/p\n s 600 0:0 d/s\n p 600 0:0 p\n s 600 0:0 s",
            "",
        );
        for name in ["zero", "d/zero"] {
            let (dir, name) = (Path::new(name).parent().unwrap(), Path::new(name).file_name().unwrap());
            let dir = context.root().open_deep(dir).unwrap();
            dir.make_node(name, libc::S_IFCHR | 0o600, nix::sys::stat::makedev(1, 5)).unwrap();
        }
        for &kind in &bench.kinds {
            let start = Instant::now();
            let fork = bench.fork(&base, kind);
            bench.copy(&fork, &step("COPY d /x/"), &context).unwrap();
            bench.copy(&fork, &step("ADD p s zero /y/"), &context).unwrap();
            bench.shown(&fork, |root| {
                let kinds = ["x/p", "x/zero", "y/p", "y/zero"].map(|path| {
                    let kind = fs::symlink_metadata(root.join(path)).unwrap().file_type();
                    (kind.is_fifo(), kind.is_char_device())
                });
                assert_eq!(kinds, [(true, false), (false, true), (true, false), (false, true)]);
                assert!(!root.join("x/s").exists() && !root.join("y/s").exists());
            });
            assert!(start.elapsed() < Duration::from_secs(20), "{kind} on {sort}");
        }
        // A device 0:0 would hide something.
        let dir = context.root().open_deep(Path::new("d")).unwrap();
        dir.make_node("whiteout", libc::S_IFCHR, 0).unwrap();
        let fork = bench.fork(&base, bench.kinds[0]);
        let error = bench.copy(&fork, &step("COPY d /x/"), &context).unwrap_err();
        assert!(told(&error).contains("is a whiteout of OverlayFS [leave it out]"), "{}", told(&error));
    });
}

#[test]
fn archives_stay_inside_the_destination() {
    on_file_systems(|environment, sort| {
        let bench = Bench::new(environment, sort);
        let outside = canary(environment);
        let root = environment.path("context");
        fs::create_dir(&root).unwrap();
        let staging = environment.path("staging");
        fs::create_dir(&staging).unwrap();
        symlink(&outside, staging.join("link")).unwrap();
        let tar = |arguments: &[&str]| {
            let status = std::process::Command::new("tar").current_dir(&staging).args(arguments).status();
            assert!(status.unwrap().success());
        };
        let archive = |name: &str| root.join(name).to_str().unwrap().to_owned();
        fs::write(staging.join("canary"), "dead").unwrap();
        tar(&["-cf", &archive("through-link"), "link"]);
        tar(&["-rf", &archive("through-link"), "--transform=s,^canary,link/canary,", "canary"]);
        tar(&["-cPf", &archive("above"), "--transform=s,^canary,../../../../../../canary,", "canary"]);
        tar(&[
            "-cPf",
            &archive("absolute"),
            &format!("--transform=s,^canary,{}/canary,", outside.display()),
            "canary",
        ]);
        let context = Context::of_files(Dir::open(&root).unwrap(), "the context");
        let base = bench.import("base", "d 755 0:0 x");
        for &kind in &bench.kinds {
            for name in ["through-link", "above", "absolute"] {
                let fork = bench.fork(&base, kind);
                let done = bench.copy(&fork, &step(&format!("ADD {name} /x/y/")), &context);
                assert_alive(&outside);
                match name {
                    "absolute" => {
                        done.unwrap();
                        let inside = Path::new("x/y").join(outside.strip_prefix("/").unwrap()).join("canary");
                        bench.shown(&fork, |root| assert_eq!(fs::read(root.join(&inside)).unwrap(), b"dead"));
                    }
                    _ => assert!(done.is_err(), "{name} on {sort}"),
                }
            }
        }
    });
}
