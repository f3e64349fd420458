//! Flags of `build` that are for every step: what steps see of the host, and what is refused because it means nothing to them.

use std::fs;

use crate::environment::Environment;

fn with_recipe(text: &str) -> Option<(Environment, String)> {
    let environment = Environment::new();
    if !environment.import_busybox() {
        return None;
    }
    fs::create_dir(environment.path("context")).unwrap();
    fs::write(environment.path("context/Dockerfile"), text).unwrap();
    let context = environment.path("context").to_string_lossy().into_owned();
    Some((environment, context))
}

#[test]
fn steps_see_what_is_mounted_for_all_of_them_and_the_image_has_nothing_of_it() {
    let text = "FROM base\nRUN cp /host/note /kept && hostname >> /kept && ls -d /memory >> /kept\n";
    let Some((environment, context)) = with_recipe(text) else { return };
    fs::create_dir(environment.path("host")).unwrap();
    fs::write(environment.path("host/note"), "from the host\n").unwrap();
    let volume = format!("{}:/host:ro", environment.path("host").display());
    environment.ok([
        "build",
        "-v",
        &volume,
        "--tmpfs",
        "/memory",
        "--hostname",
        "maker",
        "-t",
        "app",
        &context,
    ]);
    let said =
        environment.ok(["-q", "run", "app", "--", "sh", "-c", "cat /kept; ls -d /host /memory 2>&1; true"]);
    let (kept, missing) = said.split_at("from the host\nmaker\n/memory\n".len());
    assert_eq!(kept, "from the host\nmaker\n/memory\n");
    assert_eq!(missing.matches("No such file").count(), 2, "{missing}");
}

#[test]
fn a_build_without_a_network_is_not_answered_with_what_was_done_with_one() {
    let Some((environment, context)) = with_recipe("FROM base\nRUN ls /sys/class/net > /interfaces\n") else {
        return;
    };
    environment.ok(["build", "--network", "host", &context]);
    let ran = environment.run(["build", "--network", "none", "-t", "app", &context]);
    assert!(ran.stderr.contains("1 step") && !ran.stderr.contains("cached"), "{}", ran.stderr);
    assert_eq!(environment.ok(["-q", "run", "app", "--", "cat", "/interfaces"]), "lo\n");
    let by_command = |network: &str| {
        let flags = ["build", "--network", network, "-t", "app", "base", "--"];
        environment.ok(flags.iter().chain(&["sh", "-c", "ls /sys/class/net > /interfaces"]));
        environment.ok(["-q", "run", "app", "--", "cat", "/interfaces"])
    };
    by_command("host");
    assert_eq!(by_command("none"), "lo\n");
}

#[test]
fn what_is_settled_for_boxes_is_refused_before_anything_is_read() {
    let Some((environment, context)) = with_recipe("FROM nowhere\nRUN true\n") else { return };
    let flags_of_boxes: [&[&str]; 5] = [
        &["--dry-run"],
        &["--read-only"],
        &["--pid", "host"],
        &["--clock-offset", "boottime=1"],
        &["--publish", "8080:80"],
    ];
    for flags in flags_of_boxes {
        let said = environment.fails(["build"].iter().chain(flags).chain([&context.as_str()]));
        assert!(said.contains(&format!("{} is for boxes", flags[0])), "{said}");
        let by_command = ["base", "--", "true"];
        let said = environment.fails(["build"].iter().chain(flags).chain(&by_command));
        assert!(said.contains(&format!("{} is for boxes", flags[0])), "{said}");
    }
    for flags in [["--secret", "id=a,env=HOME"], ["--allow", "network.host"], ["--build-arg", "A=1"]] {
        let said = environment.fails(["build"].iter().chain(&flags).chain(&["base", "--", "true"]));
        assert!(said.contains("is for a Dockerfile, and there is none"), "{said}");
    }
    for flags in [&["--shm-size", "1m"][..], &["--adopt", "base"], &["--explain"]] {
        let said = environment.fails(["build", "base"].iter().chain(flags));
        assert!(said.contains(&format!("{} is for steps, and a shell is none", flags[0])), "{said}");
    }
}

#[test]
fn what_flags_name_that_is_not_there_is_told_with_its_cause() {
    let Some((environment, context)) = with_recipe("FROM base AS one\nRUN true\n") else { return };
    let said = environment.fails(["build", "--no-cache-filter", "two", &context]);
    assert!(said.contains("no stage \"two\" is needed") && said.contains("these are: one"), "{said}");
    let said = environment.fails(["build", "--build-arg", "=x", &context]);
    assert!(said.contains("\"=x\" is no build argument"), "{said}");
    let said = environment.fails(["build", "--cache-from", "NOT IMAGE", &context]);
    assert!(said.contains("--cache-from"), "{said}");
    // The steps are done here then.
    let missing = format!("oci:{}", environment.path("missing").display());
    let ran = environment.run(["build", "--cache-from", &missing, &context]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("no steps are taken of oci:"), "{}", ran.stderr);
    assert!(ran.stderr.contains("because: there is no oci-layout in it"), "{}", ran.stderr);
}

#[test]
fn a_quiet_build_says_nothing_but_the_id() {
    let Some((environment, context)) = with_recipe("FROM base\nRUN echo loud\n") else { return };
    let ran = environment.run(["build", "--progress", "quiet", &context]);
    assert_eq!((ran.code, ran.stdout.trim().len(), ran.stderr.as_str()), (0, 8, ""));
}

#[test]
fn what_a_command_makes_has_the_labels_that_were_given() {
    let Some((environment, _)) = with_recipe("FROM base\n") else { return };
    environment.ok(["build", "base", "--label", "made=by hand", "-t", "app", "--", "touch", "/x"]);
    let shown = environment.json(["show", "app"]);
    assert_eq!(shown["config"]["Labels"]["made"], "by hand");
}

#[test]
fn what_failed_is_entered_in_the_directory_and_with_the_variables_of_its_command() {
    let Some((environment, context)) =
        with_recipe("FROM base\nARG WHO=me\nENV IN=image\nRUN touch /x && false\n")
    else {
        return;
    };
    environment.fails(["build", &context]);
    let said = environment.ok(["-q", "enter", "@fail", "--", "sh", "-c", "pwd; ls /x; echo $WHO $IN"]);
    assert_eq!(said, "/\n/x\nme image\n");
}
