//! The rules that can be checked are tests: who imports whom, where unsafe stands, who prints.

use std::fs;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

/// Every source file of the two crates, with the path relative to the project.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<(String, String)> = ["src", "backends/src"]
        .iter()
        .flat_map(|directory| WalkDir::new(root.join(directory)))
        .map(|entry| entry.expect("the source is readable").into_path())
        .filter(|path: &PathBuf| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let name = path.strip_prefix(root).expect("it is below").to_string_lossy().into_owned();
            (name, code_only(&fs::read_to_string(&path).expect("the source is UTF-8")))
        })
        .collect();
    files.sort();
    assert!(files.len() > 30, "the source was not found");
    files
}

/// Drops comment lines: they may talk about anything.
fn code_only(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn files_with(needle: &str) -> Vec<String> {
    sources().into_iter().filter(|(_, code)| code.contains(needle)).map(|(name, _)| name).collect()
}

/// The module of `src` that a file belongs to.
fn module(name: &str) -> Option<&str> {
    let below = name.strip_prefix("src/")?;
    Some(below.split(['/', '.']).next().unwrap_or(below))
}

#[test]
fn imports_point_one_way() {
    let allowed: &[(&str, &[&str])] = &[
        ("layer", &["image"]),
        ("image", &[]),
        ("packages", &[]),
        ("near", &[]),
        ("registry", &["image", "near"]),
        ("store", &["layer", "image"]),
        ("transfer", &["layer", "image", "store", "registry"]),
        ("reference", &["store", "image", "sources"]),
        ("sources", &["layer", "image", "registry", "near"]),
        ("loop_store", &[]),
        ("runner", &[]),
        ("process", &["image", "runner"]),
        (
            "build",
            &[
                "transfer",
                "process",
                "runner",
                "store",
                "layer",
                "image",
                "reference",
                "registry",
                "sources",
                "near",
            ],
        ),
        ("serve", &["store", "image", "registry", "transfer"]),
        ("containerd", &["store", "layer", "image", "transfer", "serve"]),
        (
            "cli",
            &[
                "layer",
                "image",
                "near",
                "registry",
                "store",
                "transfer",
                "reference",
                "sources",
                "loop_store",
                "packages",
                "runner",
                "process",
                "serve",
                "build",
                "containerd",
            ],
        ),
        ("main", &[]),
        ("lib", &[]),
    ];
    for (name, code) in sources() {
        let Some(module) = module(&name) else { continue };
        let (_, may) = allowed.iter().find(|(known, _)| *known == module).unwrap_or_else(|| {
            panic!("{name} is in a module that the table in src/lib.rs does not have");
        });
        for (other, _) in allowed {
            let imports =
                code.contains(&format!("crate::{other}::")) || code.contains(&format!("crate::{other};"));
            assert!(!imports || *other == module || may.contains(other), "{name} imports {other}");
        }
    }
}

#[test]
fn unsafe_stands_in_two_files() {
    let files: Vec<String> = sources()
        .into_iter()
        .filter(|(_, code)| {
            // The attribute is not code: it names the program's entry.
            let code = code.replace("#[unsafe(no_mangle)]", "");
            code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe")
        })
        .map(|(name, _)| name)
        .collect();
    assert_eq!(files, ["backends/src/sys.rs", "src/runner/sys.rs"]);
}

#[test]
fn only_output_prints() {
    for needle in ["println!", "eprintln!", "print!(", "io::stdout()", "io::stderr()"] {
        for name in files_with(needle) {
            // The terminal of a box is passed through: that is not printing.
            let passes_through = ["src/runner/tty.rs", "src/runner/attach.rs"].contains(&name.as_str())
                && needle == "io::stdout()";
            // How a build script speaks to cargo.
            let tells_cargo = name == "src/containerd/build.rs" && needle == "println!";
            assert!(name == "src/cli/output.rs" || passes_through || tells_cargo, "{name} has {needle}");
        }
    }
}

#[test]
fn heavy_crates_are_known_to_one_file() {
    let only = |needle: &str, file: &str| {
        for name in files_with(needle) {
            assert!(name == file || name.starts_with(&file.replace(".rs", "/")), "{name} knows {needle}");
        }
    };
    only("bincode::", "src/store/index.rs");
    only("btrfsutil::", "backends/src/btrfs.rs");
    only("indicatif::", "src/cli/output.rs");
    only("ureq::", "src/registry/transport.rs");
    for name in files_with("rustls::") {
        let knows = ["src/registry/transport.rs", "src/serve/http/tls.rs"].contains(&name.as_str());
        assert!(knows, "{name} knows rustls");
    }
    only("httparse::", "src/serve/http/head.rs");
    only("bcrypt::", "src/serve/auth.rs");
    only("toml::", "src/registry/hosts.rs");
    only("tar_core::", "src/layer.rs");
}

#[test]
fn every_file_says_what_it_is_for() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, _) in sources() {
        let text = fs::read_to_string(root.join(&name)).expect("it was read before");
        assert!(text.starts_with("//!"), "{name} has no heading");
    }
}

#[test]
fn nothing_is_left_unfinished() {
    for needle in ["todo!(", "unimplemented!(", "dbg!(", "#[allow("] {
        let files = files_with(needle);
        assert!(files.is_empty(), "{needle} in {files:?}");
    }
}

#[test]
fn one_module_has_an_async_runtime() {
    for name in files_with("tokio::").into_iter().chain(files_with("async fn")) {
        assert!(name.starts_with("src/containerd"), "{name} runs in threads");
    }
}
