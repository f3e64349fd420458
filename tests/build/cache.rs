//! What is found and what is done again, and why.

use std::fs;

use super::{Built, Project};
use crate::environment::ran;
use crate::lab::eventually;
use crate::registry::server::Registry;

const RECIPE: &str = "FROM base\nARG V=1\nENV E=$V\nCOPY a b /\nRUN echo $V > /v\nRUN cat /a /b > /c\n";

fn project() -> Option<Project> {
    let project = Project::new()?;
    project.write("a", "one").write("b", "two").write("Dockerfile", RECIPE);
    project.build(&["-t", "x"]).succeeded();
    Some(project)
}

const ALL_HIT: [&str; 3] = ["hit COPY a b /", "hit RUN echo $V > /v", "hit RUN cat /a /b > /c"];

#[test]
fn a_second_build_finds_every_step_and_opens_no_tree() {
    let Some(project) = project() else { return };
    let again = project.build(&["-t", "x"]).succeeded();
    assert_eq!(again.steps, ALL_HIT);
    assert!(again.ran.stderr.contains("built x:latest: all of it was there"), "{}", again.ran.stderr);
    let named = project.build(&["-t", "y", "--label", "l=1"]).succeeded();
    assert_eq!(named.steps, ALL_HIT, "what an image says is no step");
    assert_eq!(project.config("y")["Labels"]["l"], "1");
    if !crate::environment::found("strace") {
        return crate::environment::skip("strace is not installed");
    }
    let trace = project.environment.path("trace");
    let mut command = std::process::Command::new("strace");
    let build = project.command(&["-t", "x", "."]);
    command
        .args(["-f", "-y", "-e", "trace=getdents64,mount,fsopen,move_mount,open_tree,openat2", "-o"])
        .arg(&trace);
    command.arg(build.get_program()).args(build.get_args()).current_dir(project.path(""));
    for (name, value) in build.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let traced = Built::of(ran(command.output().unwrap())).succeeded();
    assert_eq!(traced.steps, ALL_HIT);
    let trace = fs::read_to_string(trace).unwrap();
    let trees: Vec<&str> =
        trace.lines().filter(|line| line.contains("/store/o/") && line.contains("/fs")).collect();
    assert!(trees.is_empty(), "{trees:?}");
    assert!(!trace.contains("fsopen(\"overlay\""), "{trace}");
    project.assert_clean();
}

#[test]
fn a_changed_file_is_seen_also_with_the_size_and_the_time_that_it_had() {
    let Some(project) = project() else { return };
    let before = fs::metadata(project.path("b")).unwrap().modified().unwrap();
    project.write("b", "TWO");
    fs::File::options().write(true).open(project.path("b")).unwrap().set_modified(before).unwrap();
    let built = project.build(&["-t", "x", "--explain"]).succeeded();
    assert_eq!(built.did(), ["COPY a b /", "RUN echo $V > /v", "RUN cat /a /b > /c"]);
    assert_eq!(built.because[0], "COPY a b /: miss: file b is another");
    assert_eq!(built.because[1], "RUN echo $V > /v: miss: what it stands on is another");
    assert_eq!(project.cat("x", "c"), "oneTWO");
    // Back again: what was made of it is still there. And a time alone is no change.
    project.write("b", "two");
    assert_eq!(project.build(&["-t", "x"]).succeeded().steps, ALL_HIT);
    fs::File::options()
        .write(true)
        .open(project.path("a"))
        .unwrap()
        .set_modified(std::time::UNIX_EPOCH)
        .unwrap();
    assert_eq!(project.build(&["-t", "x"]).succeeded().steps, ALL_HIT);
    // Its mode is one, and a file beside it none.
    project.write("unread", "x");
    assert_eq!(project.build(&[]).succeeded().steps, ALL_HIT);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(project.path("a"), mode).unwrap();
    let built = project.build(&[]).succeeded();
    assert_eq!(built.because[0], "COPY a b /: miss: file a is another");
}

#[test]
fn a_file_that_is_written_again_and_again_within_a_moment_is_never_stale() {
    let Some(project) = project() else { return };
    for round in 0..12 {
        project.write("a", format!("{round:3}"));
        project.build(&["-t", "x"]).succeeded();
        assert_eq!(project.cat("x", "a"), format!("{round:3}"));
    }
}

#[test]
fn arguments_and_variables_count_where_they_are_used() {
    let Some(project) = project() else { return };
    let built = project.build(&["--build-arg", "V=2"]).succeeded();
    assert_eq!(built.steps, ["hit COPY a b /", "did RUN echo $V > /v", "did RUN cat /a /b > /c"]);
    assert_eq!(built.because[1], "RUN echo $V > /v: miss: variable E was \"1\" and is \"2\"");
    let built = project.build(&["--build-arg", "Unknown=1"]).succeeded();
    assert!(built.ran.stderr.contains("Unknown is not used"), "{}", built.ran.stderr);
    // Proxies are no part of what a step is.
    let built = project.build(&["--build-arg", "HTTP_PROXY=http://nowhere:1"]).succeeded();
    assert_eq!(built.steps, ALL_HIT);
    let built = project.built(&RECIPE.replace("E=$V", "E=9"), &[]);
    assert_eq!(built.did(), ["RUN echo $V > /v", "RUN cat /a /b > /c"]);
    let built =
        project.built(&RECIPE.replace("RUN echo $V > /v", "USER me\nRUN echo $V").replace("> /c", ""), &[]);
    assert_eq!(built.steps[0], "hit COPY a b /");
    assert!(built.because[1].contains("miss"), "{:?}", built.because);
}

#[test]
fn another_base_makes_all_of_it_anew() {
    let Some(project) = project() else { return };
    fs::write(project.environment.path("root/new"), "new").unwrap();
    let root = format!("dir:{}", project.environment.path("root").display());
    project.environment.ok(["rm", "--now", "--force", "base"]);
    project.environment.ok(["import", &root, "base"]);
    let built = project.build(&["-t", "x"]).succeeded();
    assert_eq!(built.did().len(), 3, "{:?}", built.steps);
    assert_eq!(built.because[0], "COPY a b /: miss: what it stands on is another");
    assert_eq!(project.cat("x", "new"), "new");
}

#[test]
fn secrets_and_what_is_in_caches_are_no_part_of_a_step() {
    let Some(project) = Project::new() else { return };
    let secret = project.environment.path("secret");
    let flag = format!("id=s,src={}", secret.display());
    let recipe = "FROM base\nRUN --mount=type=secret,id=s --mount=type=cache,target=/k cat /run/secrets/s > /k/s; ls /k > /n\n";
    fs::write(&secret, "first").unwrap();
    let first = project.built(recipe, &["--secret", &flag]);
    fs::write(&secret, "second").unwrap();
    let second = project.built(recipe, &["--secret", &flag]);
    assert_eq!((first.did().len(), second.did().len()), (1, 0), "{:?}", second.steps);
    // The cache is changed by another step.
    project.built(
        "FROM base\nRUN --mount=type=cache,target=/k cat /k/s > /seen; touch /k/more\n",
        &["-t", "seen"],
    );
    assert_eq!(project.cat("seen", "seen"), "first");
    assert_eq!(project.built(recipe, &["--secret", &flag]).did(), [""; 0]);
    let anew = project.built(recipe, &["--secret", &flag, "--no-cache", "-t", "x"]);
    assert_eq!((anew.did().len(), project.cat("x", "n").as_str()), (1, "more\ns\n"));
}

#[test]
fn a_stage_that_comes_out_the_same_changes_nothing_after_it() {
    let Some(project) = Project::new() else { return };
    let recipe = |word: &str| {
        format!(
            "FROM base AS made\nRUN : {word}; echo same > /same\nFROM base\nCOPY --from=made /same /\nRUN --mount=from=made,source=/same,target=/m cat /m > /n\n"
        )
    };
    project.built(&recipe("one"), &["-t", "x"]);
    let built = project.built(&recipe("two"), &["-t", "x"]);
    assert_eq!(built.did(), ["RUN : two; echo same > /same"], "{:?}", built.steps);
    let again = project.built(&recipe("two"), &["-t", "x"]);
    assert_eq!(again.did(), [""; 0], "and that is remembered: {:?}", again.steps);
    assert!(
        !again.steps.iter().any(|step| step.contains(": two")),
        "the stage is not asked for: {:?}",
        again.steps
    );
}

#[test]
fn no_cache_is_for_all_or_for_a_stage() {
    let Some(project) = Project::new() else { return };
    let recipe = "FROM base AS one\nRUN echo 1 > /1\nFROM base\nRUN echo 2 > /2\nCOPY --from=one /1 /\n";
    project.built(recipe, &[]);
    assert_eq!(project.built(recipe, &["--no-cache"]).did().len(), 3);
    let built = project.built(recipe, &["--no-cache-filter", "one"]);
    assert_eq!(built.did(), ["RUN echo 1 > /1"], "{:?}", built.steps);
    assert_eq!(project.built(recipe, &[]).did(), [""; 0]);
    // A stage that comes out otherwise is taken as it is, and so is what stands on it, now and later.
    let recipe = "FROM base AS one\nRUN cat /proc/sys/kernel/random/uuid > /1\nFROM one AS two\nRUN cat /1 > /2\nFROM base AS three\n\
        COPY --from=one /1 /\nRUN cat /1 > /3\nFROM three\nCOPY --from=two /2 /\nRUN cat /1 /2 /3 > /all\n";
    let all = |flags: &[&str]| {
        let built = project.built(recipe, &[&["-t", "x"], flags].concat());
        let all = project.cat("x", "all");
        let first = all.lines().next().unwrap().to_owned();
        assert!(all.lines().count() == 3 && all.lines().all(|line| line == first), "{all}");
        (first, built.did().len())
    };
    let (first, _) = all(&[]);
    let (second, done) = all(&["--no-cache-filter", "one"]);
    assert_ne!(first, second);
    assert_eq!(done, 6);
    assert_eq!(all(&[]), (second.clone(), 0));
    assert_eq!(all(&["--no-cache-filter", "two"]).0, second);
    let (third, done) = all(&["--no-cache"]);
    assert!(third != second && done == 6);
    assert_eq!(all(&[]), (third, 0));
    assert!(project.refused(recipe, &["--no-cache-filter", "nosuch"]).contains("no stage \"nosuch\""));
}

#[test]
fn two_builds_at_once_end_with_the_same_steps() {
    let Some(project) = project() else { return };
    let recipe = "FROM base\nRUN sleep 0.3; cat /proc/sys/kernel/random/uuid > /one\nRUN cat /one > /two\n";
    project.write("Dockerfile", recipe);
    let builds: Vec<_> = ["p", "q", "r"]
        .map(|name| {
            let mut command = project.command(&["-t", name, "."]);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            command.spawn().unwrap()
        })
        .into_iter()
        .map(|child| Built::of(ran(child.wait_with_output().unwrap())).succeeded())
        .collect();
    assert!(builds.iter().all(|built| built.steps.len() == 2), "{builds:?}");
    let one = ["p", "q", "r"].map(|name| project.cat(name, "one"));
    assert!(one.iter().all(|text| *text == one[0]), "{one:?}");
    assert_eq!(project.build(&[]).succeeded().did(), [""; 0]);
    eventually("the store is tidy", || {
        fs::read_dir(project.environment.store().join("tmp")).unwrap().count() == 0
    });
    project.assert_clean();
}

#[test]
fn what_two_stages_have_in_common_is_done_once() {
    let Some(project) = Project::new() else { return };
    let recipe = |common: &str| {
        format!(
            "FROM base AS a\nRUN {common}\nRUN cat /x > /a\nFROM base AS b\nRUN {common}\nRUN cat /x > /b\n\
             FROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n"
        )
    };
    let common = "sleep 0.3; cat /proc/sys/kernel/random/uuid > /x";
    for flags in [&["-j", "2"][..], &["-j", "1", "--no-cache"], &["-j", "2", "--no-cache"]] {
        let built = project.built(&recipe(common), &[flags, &["-t", "x"]].concat());
        assert_eq!(built.did().len(), 5, "{:?}", built.steps);
        assert_eq!(project.cat("x", "a"), project.cat("x", "b"), "{flags:?}");
    }
    // What fails is not tried again for the other.
    project.write("Dockerfile", recipe("sleep 0.3; exit 3"));
    let failed = project.build(&["-j", "2"]);
    assert_eq!((failed.ran.code, &failed.steps[..]), (1, &["failed RUN sleep 0.3; exit 3".to_owned()][..]));
    let begun = failed.ran.stderr.lines().filter(|line| line.contains("\"begun\""));
    assert_eq!(begun.count(), 1, "{}", failed.ran.stderr);
    project.assert_clean();
}

#[test]
fn explain_says_what_differed_by_its_name() {
    let Some(project) = project() else { return };
    let explained = |recipe: &str, flags: &[&str]| {
        let built = project.built(recipe, &[&["--explain"], flags].concat());
        built.because.iter().find(|line| !line.ends_with(": hit")).cloned().unwrap_or_default()
    };
    assert_eq!(explained(RECIPE, &[]), "");
    let words = explained(&RECIPE.replace("cat /a /b", "cat /b /a"), &[]);
    assert!(words.contains("command was") && words.contains("cat /b /a"), "{words}");
    let words = explained(&RECIPE.replace("COPY a b /", "COPY --chmod=700 a b /"), &[]);
    assert!(words.ends_with("mode is new: \"700\""), "{words}");
    let words = explained(&RECIPE.replace("RUN cat", "WORKDIR /v2\nRUN cat"), &[]);
    assert!(words.contains("WORKDIR /v2: miss"), "{words}");
    let words = explained(RECIPE, &["--no-cache"]);
    assert!(words.contains("not to be looked for"), "{words}");
    // What nobody asked for in between is compared with what it was when somebody did.
    let recipe = "FROM base AS one\nCOPY a /\nFROM base\nCOPY --from=one /a /\n";
    project.built(recipe, &[]);
    assert_eq!(explained(recipe, &[]), "");
    project.write("a", "other\n");
    let words = explained(recipe, &[]);
    assert!(words.ends_with("file a is another"), "{words}");
    project.built(RECIPE, &[]);
    // For people it is a word behind the step.
    let mut command = project.environment.command();
    command.args(["build", "--explain", "--progress", "plain", "."]).current_dir(project.path(""));
    let plain = ran(command.output().unwrap());
    assert!(plain.stderr.contains("[1/3] COPY a b /: hit\n"), "{}", plain.stderr);
}

#[test]
fn the_steps_of_an_image_are_found_in_another_store() {
    let (Some(here), Some(there)) = (Project::new(), Project::new()) else { return };
    let Some(registry) = Registry::plain() else { return };
    let at = |name: &str| format!("{}/{name}", registry.host);
    here.environment.ok(["push", "base", &at("base:1")]);
    for project in [&here, &there] {
        let recipe = RECIPE.replace("FROM base", &format!("FROM {}", at("base:1")));
        project.write("a", "one").write("b", "two").write("Dockerfile", &recipe);
    }
    here.build(&["-t", "x", "--cache-to", "inline"]).succeeded();
    here.environment.ok(["push", "x", &at("x:1")]);
    let taken = there.build(&["-t", "x", "--cache-from", &at("x:1")]).succeeded();
    assert_eq!(taken.steps, ALL_HIT);
    assert_eq!(there.cat("x", "c"), here.cat("x", "c"));
    there.write("b", "2");
    let built = there.build(&["-t", "x", "--cache-from", &at("x:1")]).succeeded();
    assert_eq!(built.did().len(), 3, "{:?}", built.steps);
    // What says nothing of steps is no cache, and no error.
    let built =
        there.build(&["-t", "y", "--cache-from", &at("base:1"), "--cache-from", &at("none:1")]).succeeded();
    assert!(built.ran.stderr.contains("says of no layer which step it is"), "{}", built.ran.stderr);
    there.assert_clean();
}
