//! Each instruction and each flag, built.

use serde_json::{Map, Value};

use super::Project;
use super::cases::{CASES, CONTEXT, Case};
use crate::environment::tar_of;

/// What the environment of every image says.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Writes the context that all cases share.
pub(super) fn write_context(project: &Project) {
    for (path, content) in CONTEXT {
        project.write(path, content);
    }
    let archived = project.environment.path("archived");
    std::fs::create_dir_all(&archived).unwrap();
    std::fs::set_permissions(&archived, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for (name, content, options) in [("t.tar", "tar", None), ("t.tgz", "gzip", Some("-z"))] {
        for old in std::fs::read_dir(&archived).unwrap() {
            std::fs::remove_file(old.unwrap().path()).unwrap();
        }
        let is_tar = name == "t.tar";
        super::write(&archived.join(if is_tar { "in" } else { "zip" }), content);
        let mut with = vec!["--mtime=@1000"];
        with.extend(options);
        if is_tar {
            std::os::unix::fs::symlink("in", archived.join("ln")).unwrap();
            std::os::unix::fs::chown(archived.join("in"), Some(3), Some(4)).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o640);
            std::fs::set_permissions(archived.join("in"), mode).unwrap();
        }
        tar_of(&archived, &project.path(name), &with);
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(project.path(name), mode).unwrap();
    }
}

/// What a configuration says besides that of the base, with what does not count left out.
pub(super) fn said(config: &Value) -> Map<String, Value> {
    let is_something = |value: &Value| {
        !(value.is_null()
            || value == ""
            || value.as_object().is_some_and(Map::is_empty)
            || value.as_array().is_some_and(Vec::is_empty))
    };
    let config = config.as_object().unwrap();
    config
        .iter()
        .filter(|(_, value)| is_something(value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Compares what is in the image's configuration with what a case says; returns what is not as it says.
fn differs(case: &Case, config: &Value) -> Vec<String> {
    let expected: Map<String, Value> = serde_json::from_str(&case.config.replace("$PATH", PATH)).unwrap();
    let config = said(config);
    let mut wanted = Map::new();
    wanted.insert("Env".to_owned(), serde_json::json!([PATH]));
    wanted.extend(expected);
    let keys: std::collections::BTreeSet<&String> = wanted.keys().chain(config.keys()).collect();
    let differ = keys.into_iter().filter(|key| wanted.get(*key) != config.get(*key));
    differ.map(|key| format!("{key}: {:?}, not {:?}", config.get(key), wanted.get(key))).collect()
}

#[test]
fn each_instruction_makes_what_it_says() {
    let Some(project) = Project::new() else { return };
    write_context(&project);
    let mut wrong = Vec::new();
    for case in CASES {
        project.write("Dockerfile", case.dockerfile);
        let built = project.build(&["-t", "made"]);
        if case.tree == "!" {
            if built.ran.code == 0 {
                wrong.push(format!("{}: succeeded", case.name));
            }
            continue;
        }
        if built.ran.code != 0 {
            wrong.push(format!("{}: {}", case.name, built.ran.stderr));
            continue;
        }
        let tree = project.added("made");
        if case.tree != "?" && tree != case.tree {
            wrong.push(format!("{}:\n{tree}--- and not\n{}", case.name, case.tree));
        }
        let differs = differs(case, &project.config("made"));
        if !differs.is_empty() {
            wrong.push(format!("{}: {differs:?}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    project.assert_clean();
}
