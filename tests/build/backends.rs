//! The same Dockerfiles on every backend of every file system: the same image, bit for bit.

use std::sync::Mutex;

use crate::environment::ran;
use crate::grounds::on_file_systems;
use crate::host::FileSystem;
use crate::transfer::{image, make_image};

#[test]
fn every_backend_makes_the_same_image() {
    let found = Mutex::new(Vec::<(String, Vec<(&str, String)>)>::new());
    on_file_systems(|environment, file_system| {
        // Its times are fixed, unlike those of a directory that is imported.
        if !make_image(environment) {
            return;
        }
        environment.ok(["pull", &image(environment), "app"]);
        std::fs::create_dir(environment.path("context")).unwrap();
        let backends: &[&str] = match file_system {
            FileSystem::Btrfs => &["btrfs", "reflink", "overlay"],
            FileSystem::Xfs => &["reflink", "overlay", "copy"],
            _ => &["overlay", "copy"],
        };
        let context = |path: &str| environment.path("context").join(path);
        for (path, content) in super::cases::CONTEXT {
            super::write(&context(path), content);
        }
        for backend in backends {
            let mut ids = Vec::new();
            for (name, recipe) in RECIPES {
                std::fs::write(context("Dockerfile"), recipe).unwrap();
                let mut command = environment.command();
                command.args(["build", "-q", "--no-cache", "--backend", backend, "--iidfile", "id", "."]);
                command.current_dir(context("")).env("SOURCE_DATE_EPOCH", "1700000000");
                let built = ran(command.output().unwrap());
                assert_eq!(built.code, 0, "{name} by {backend} on {file_system}: {}", built.stderr);
                ids.push((*name, std::fs::read_to_string(context("id")).unwrap()));
                std::fs::remove_file(context("id")).unwrap();
            }
            found.lock().unwrap().push((format!("{backend} on {file_system}"), ids));
        }
        environment.ok(["fsck"]);
    });
    let found = found.into_inner().unwrap();
    for (which, ids) in &found {
        assert_eq!(ids, &found[0].1, "{which} and {}", found[0].0);
    }
}

/// What touches trees in different ways, on an image that is the user `app`'s.
const RECIPES: &[(&str, &str)] = &[
    (
        "commands",
        "FROM app\nUSER root\nRUN mkdir -p /x/y; echo 1 > /x/y/z; chmod 700 /x; busybox ln /x/y/z /x/h; busybox ln -s y /x/l\nRUN rm -r /x/y; mkdir /x/y; echo more >> /etc/one\nRUN busybox mv /x /w; rm /etc/two\n",
    ),
    (
        "a user",
        "FROM app\nUSER root\nRUN busybox chown app /home/app\nUSER app\nRUN echo 1 > mine; mkdir d; busybox chmod 4755 mine\nWORKDIR /home/app/deep/er\nCOPY --chown=app a b.txt ./\nRUN rm -r ../../d\n",
    ),
    (
        "copies",
        "FROM app AS s\nUSER root\nRUN mkdir /o; echo o > /o/o; busybox chown 5:6 /o/o\nFROM app\nCOPY d /etc/d\nCOPY --link a /etc/new/a\nCOPY --from=s /o /o/\nCOPY --parents d/f/g /p/\nCOPY --chmod=u=rw,go= c.txt /c\nCOPY <<x /h\nhere\nx\nCOPY a /etc/one\n",
    ),
    (
        "a stage on nothing",
        "FROM app AS s\nUSER root\nRUN mkdir /r; echo r > /r/r\nFROM scratch\nCOPY --from=s /r /\nWORKDIR /w\nENV A=b\nLABEL c=d\nCMD [\"/r\"]\n",
    ),
    (
        "mounts leave nothing",
        "FROM app\nUSER root\nRUN --mount=type=cache,target=/k --mount=type=tmpfs,target=/t --mount=target=/c cat /c/a > /seen; echo k > /k/k; echo t > /t/t\n",
    ),
];
