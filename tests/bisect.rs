//! The state in which something broke, found as a person finds it.

use crate::environment::Environment;
use crate::states::prints_everywhere;

/// Twenty snapshots of `dev`, each with its number in a file; from the thirteenth on it is broken.
const STATES: &str = "
    for i in $(seq 20); do
        x \"echo $i > /etc/number\"; test $i -ne 13 || x 'echo upgraded > /etc/broken; rm /etc/group'
        $R -q snapshot dev -m \"step $i\" > /dev/null
    done
    ages() { sed 's/([0-9]*[sm] ago/(now ago/'; }
    ";

#[test]
fn the_first_bad_state_is_found_and_what_it_changed() {
    prints_everywhere(
        &format!(
            "{STATES}
            x 'echo later > /etc/later'
            $R bisect dev -- sh -c 'cat /etc/number; rm /etc/number; ! test -e /etc/broken' 2>&1 | ages
            # From a good state on, to a bad one; nothing of the box was touched, no fork is left.
            $R bisect dev dev@10 dev@13 -e CODE=7 -- sh -c 'test -e /etc/broken && exit $CODE; exit 0' 2>&1 | ages
            $R bisect -q dev dev@12 dev@13 -- false
            x 'cat /etc/number'; ls $ROOTLING_ROOT/n | wc -l; ls $ROOTLING_ROOT/tmp | wc -l"
        ),
        "10\ndev@10 (now ago, \"step 10\"): good, 4 more\n\
         15\ndev@15 (now ago, \"step 15\"): bad, 3 more\n\
         12\ndev@12 (now ago, \"step 12\"): good, 2 more\n\
         13\ndev@13 (now ago, \"step 13\"): bad\n\
         dev@13 (now ago, \"step 13\") is the first bad state\n\
         A /etc/broken\nD /etc/group\nC /etc/number\n\
         dev@11 (now ago, \"step 11\"): good, 1 more\n\
         dev@12 (now ago, \"step 12\"): good\n\
         dev@13 (now ago, \"step 13\") is the first bad state\n\
         A /etc/broken\nD /etc/group\nC /etc/number\n\
         dev@13\n\
         20\n22\n0\n",
    );
}

#[test]
fn what_cannot_be_told_is_skipped_and_may_leave_several() {
    prints_everywhere(
        &format!(
            "{STATES}
            $R -q bisect dev -- sh -c 'test $(cat /etc/number) -eq 10 && exit 125; ! test -e /etc/broken'
            code=0; $R bisect dev -- sh -c '
                n=$(cat /etc/number); test $n -lt 12 -o $n -gt 14 || exit 125; ! test -e /etc/broken' \
                2> /dev/null > $D/found || code=$?
            echo $code; ages < $D/found
            # All good, as far as is known: then it is the last.
            $R -q bisect dev -- true"
        ),
        "dev@13\n\
         1\nonly skipped states are left; the first bad state is one of\n  \
         dev@12 (now ago, \"step 12\")\n  dev@13 (now ago, \"step 13\")\n  dev@14 (now ago, \"step 14\")\n  \
         dev@15 (now ago, \"step 15\")\n\
         dev@20\n",
    );
}

#[test]
fn a_hundred_states_take_seven_runs() {
    let environment = Environment::new();
    if !environment.import_busybox() {
        return;
    }
    environment.ok(["create", "base", "dev"]);
    for number in 1..=100 {
        environment.ok(["exec", "dev", "--", "sh", "-c", &format!("echo {number} > /etc/number")]);
        environment.ok(["snapshot", "dev"]);
    }
    for first in [1, 37, 64, 100] {
        let test = format!("test ! -e /etc/number || test $(cat /etc/number) -lt {first}");
        let found = environment.json(["bisect", "dev", "--", "sh", "-c", &test]);
        assert_eq!(found["first_bad"], format!("dev@{first}"));
        assert!(found["steps"].as_array().unwrap().len() <= 7, "{found}");
    }
}

/// A box `dev` with three states: in the second something broke.
fn three_states() -> Option<Environment> {
    let environment = Environment::new();
    if !environment.import_busybox() {
        return None;
    }
    environment.ok(["create", "base", "dev"]);
    for line in ["echo 1 > /etc/a", "echo 2 > /etc/a", "echo 3 > /etc/a"] {
        environment.ok(["exec", "dev", "--", "sh", "-c", line]);
        environment.ok(["snapshot", "dev", "-m", line]);
    }
    Some(environment)
}

#[test]
fn what_was_found_is_a_document() {
    let Some(environment) = three_states() else { return };
    let test = "echo loud; test ! -e /etc/a || grep -q 1 /etc/a";
    let found = environment.json(["bisect", "dev", "--", "sh", "-c", test]);
    let id = |name: &str| environment.json(["show", name])["id"].clone();
    assert_eq!((&found["first_bad"], &found["first_bad_id"]), (&"dev@2".into(), &id("dev@2")));
    assert_eq!((&found["good"], &found["good_id"]), (&"dev@1".into(), &id("dev@1")));
    assert_eq!(
        (&found["message"], &found["candidates"]),
        (&"echo 2 > /etc/a".into(), &serde_json::json!(["dev@2"]))
    );
    assert_eq!(found["changed"][0]["path"], "etc/a");
    let steps = serde_json::json!([
        { "state": "dev@1", "state_id": id("dev@1"), "exit_code": 0, "verdict": "good" },
        { "state": "dev@2", "state_id": id("dev@2"), "exit_code": 1, "verdict": "bad" },
    ]);
    assert_eq!(found["steps"], steps);
    // What was found is the last that was spoken of.
    assert_eq!(environment.json(["show", "-"])["name"], "dev@2");

    let ran = environment.run(["--format", "json", "bisect", "dev", "--", "sh", "-c", "exit 125"]);
    let undecided: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.code, &undecided["first_bad"], &undecided["good"]), (1, &().into(), &"base".into()));
    assert_eq!(undecided["candidates"], serde_json::json!(["dev@1", "dev@2", "dev@3"]));
    assert_eq!(undecided["steps"][0]["verdict"], "skip");
}

#[test]
fn what_cannot_be_searched_is_refused_and_says_why() {
    let Some(environment) = three_states() else { return };
    environment.ok(["create", "base", "other"]);
    for (arguments, said) in [
        (&["dev", "dev@2", "dev@1", "--", "true"][..], "dev@2 is not a state that dev@1 came from"),
        (&["dev", "other", "--", "true"], "other is not a state that dev@3 came from"),
        (&["dev", "dev@2", "dev@2", "--", "true"], "dev@2 is the good state and the bad one"),
        (&["other", "--", "true"], "base is the good state and the bad one"),
        (&["none", "--", "true"], "there is no none"),
        (&["dev", "--", "sh", "-c", "exit 130"], "the command exited with 130 in dev@1"),
        (&["dev", "--", "sh", "-c", "kill -9 $$"], "the command exited with 137 in dev@1"),
        (&["dev", "--", "/none"], "/none exits with 127 in base, the good state, too"),
        (&["dev", "--", "/etc/passwd"], "/etc/passwd exits with 126 in base"),
        // Not that nothing can be told of any state.
        (
            &["dev", "-v", "/nowhere/at/all:/mnt", "--", "true"],
            "could not be run in dev@1, or exited with 255",
        ),
        (&["dev", "--dry-run", "--", "true"], "--dry-run is of a single command"),
        (&["dev"], "required arguments were not provided"),
    ] {
        let ran = environment.run([&["bisect"], arguments].concat());
        assert!(ran.code == 125 && ran.stderr.contains(said), "{arguments:?}: {} {}", ran.code, ran.stderr);
    }
    // Where only the bad states lack it, that is what broke.
    environment.ok(["exec", "dev", "--", "rm", "/bin/true"]);
    environment.ok(["snapshot", "dev", "-m", "cleaned up"]);
    environment.ok(["exec", "dev", "--", "touch", "/etc/later"]);
    environment.ok(["snapshot", "dev"]);
    let found = environment.ok(["bisect", "-q", "dev", "--", "/bin/true"]);
    assert_eq!(found, "dev@4\n");
}

#[test]
fn a_running_box_is_searched_too() {
    let Some(environment) = three_states() else { return };
    environment.ok(["start", "dev", "--", "sh", "-c", "echo 4 > /etc/a; sleep 100"]);
    let found =
        environment.json(["bisect", "dev", "--", "sh", "-c", "test ! -e /etc/a || ! grep -q 4 /etc/a"]);
    environment.ok(["stop", "-t", "0", "dev"]);
    assert_eq!((&found["first_bad"], &found["good"]), (&"dev".into(), &"dev@3".into()));
}
