//! Where a build goes: the store, directories, archives, other stores, and the standard output.

use std::fs;
use std::process::Command;

use super::{Built, Project, lines};
use crate::environment::{Environment, found, ran, skip};

const RECIPE: &str = "FROM base AS b\nRUN mkdir /d; echo x > /d/x; chmod 600 /d/x; chown 3:4 /d/x; ln -s x /d/l\nFROM scratch\nCOPY --from=b /d /d\n";
const TREE: &str = "d 755 0:0 d\nl 777 0:0 d/l -> x\nf 600 3:4 d/x = x\n";

fn project() -> Option<Project> {
    let project = Project::new()?;
    project.write("Dockerfile", RECIPE);
    Some(project)
}

#[test]
fn files_go_to_a_directory_and_replace_what_is_there() {
    let Some(project) = project() else { return };
    let out = project.environment.path("out");
    for output in [format!("type=local,dest={}", out.display()), out.display().to_string()] {
        fs::create_dir_all(out.join("d")).unwrap();
        super::write(&out.join("d/x"), "old");
        super::write(&out.join("kept"), "kept");
        project.build(&["-o", &output]).succeeded();
        assert_eq!(lines(&out), format!("{TREE}f 644 0:0 kept = kept\n"));
        fs::remove_dir_all(&out).unwrap();
    }
    // A link in the directory leads nowhere else.
    let outside = project.environment.path("outside");
    fs::create_dir_all(&outside).unwrap();
    fs::create_dir_all(&out).unwrap();
    std::os::unix::fs::symlink(&outside, out.join("d")).unwrap();
    project.build(&["-o", &out.display().to_string()]);
    assert_eq!(lines(&outside), "");
    project.assert_clean();
}

#[test]
fn archives_hold_the_tree_or_the_image() {
    let Some(project) = project() else { return };
    let unpacked = project.environment.path("unpacked");
    let unpack = |bytes: &[u8]| {
        if unpacked.exists() {
            fs::remove_dir_all(&unpacked).unwrap();
        }
        fs::create_dir(&unpacked).unwrap();
        fs::write(project.environment.path("got"), bytes).unwrap();
        let mut tar = Command::new("tar");
        let done = ran(tar
            .arg("-xpf")
            .arg(project.environment.path("got"))
            .arg("-C")
            .arg(&unpacked)
            .output()
            .unwrap());
        assert_eq!(done.code, 0, "{}", done.stderr);
    };
    let stream = |output: &str| {
        let output = project.command(&["-o", output, "."]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let file = project.environment.path("made.tar");
    project.build(&["-o", &format!("type=tar,dest={}", file.display())]).succeeded();
    for bytes in [stream("-"), stream("type=tar"), fs::read(&file).unwrap()] {
        unpack(&bytes);
        assert_eq!(lines(&unpacked), TREE);
    }
    unpack(&stream("type=oci"));
    assert!(unpacked.join("index.json").exists() && !unpacked.join("manifest.json").exists());
    unpack(&stream("type=docker"));
    assert!(unpacked.join("manifest.json").exists());
    // Another store has the same image of them.
    project.build(&["-t", "made:1"]).succeeded();
    let id = |environment: &Environment| environment.json(["inspect", "made:1"])[0]["Id"].clone();
    for kind in ["oci", "docker"] {
        project.build(&["-t", "made:1", "-o", &format!("type={kind},dest={}", file.display())]).succeeded();
        let other = Environment::new();
        other.ok(["load", "-i", file.to_str().unwrap()]);
        assert_eq!(id(&other), id(&project.environment), "{kind}");
    }
    let layout = project.environment.path("layout");
    project.build(&["-o", &format!("type=oci,tar=false,dest={}", layout.display())]).succeeded();
    assert!(layout.join("oci-layout").exists());
    if !found("skopeo") {
        return skip("skopeo is not installed");
    }
    let seen = ran(Command::new("skopeo")
        .arg("inspect")
        .arg(format!("docker-archive:{}", file.display()))
        .output()
        .unwrap());
    assert_eq!(seen.code, 0, "{}", seen.stderr);
    project.assert_clean();
}

#[test]
fn several_outputs_are_all_written_and_only_one_may_be_the_standard_output() {
    let Some(project) = project() else { return };
    let (a, b) = (project.environment.path("a"), project.environment.path("b.tar"));
    let (to_a, to_b) = (format!("type=local,dest={}", a.display()), format!("type=tar,dest={}", b.display()));
    project.build(&["-o", &to_a, "-o", &to_b, "-o", "type=image,name=here:1"]).succeeded();
    assert_eq!(lines(&a), TREE);
    assert!(b.exists());
    project.environment.ok(["show", "here:1"]);
    let both = project.build(&["-o", "-", "-o", "type=oci"]);
    assert!(both.ran.stderr.contains("standard output"), "{}", both.ran.stderr);
    for (output, told) in [
        ("type=locale,dest=x", "did you mean local?"),
        ("type=local", "dest=DIRECTORY"),
        ("type=oci,dset=x", "dset"),
    ] {
        let refused: Built = project.build(&["-o", output]);
        assert!(
            refused.ran.code != 0 && refused.ran.stderr.contains(told),
            "{output}: {}",
            refused.ran.stderr
        );
    }
}
