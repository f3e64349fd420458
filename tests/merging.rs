//! Changes of one box taken over to another, as a person does it: apply, revert, rebase, and the conflicts that they leave.

use crate::environment::Environment;
use crate::states::prints_everywhere;

/// `dev` and `work`, both made of `dev@common`; `y` runs a command line in `work`, `look` lists what is in a box's `/etc/t`.
const BEGIN: &str = "
    x 'mkdir /etc/t; cd /etc/t; for f in a b c; do echo 0 > $f; done; mkdir d; echo 0 > d/f; echo 0 > d/g'
    $R -q snapshot dev common > /dev/null; $R -q fork dev@common work > /dev/null
    y() { $R -q exec work -- sh -c \"cd /etc/t; $1\"; }
    look() {
        $R -q exec $1 -- sh -c 'cd /etc/t; find . -mindepth 1 | sort | while read f; do
            test -f $f && echo -n \"$f=$(cat $f) \" || echo -n \"$f \"; done; echo'
    }
    fails() { code=0; \"$@\" > /dev/null 2> $D/said || code=$?; echo $code; grep -e because -e hint $D/said || cat $D/said; }
    ";

#[test]
fn one_state_a_range_and_paths_are_taken_over() {
    prints_everywhere(
        &format!(
            "{BEGIN}
            x 'cd /etc/t; echo 1 > a; rm b; echo 1 > new'; $R -q snapshot dev -m one > /dev/null
            x 'cd /etc/t; rm -r d; mkdir e; echo 2 > e/f; ln -s a link'; $R -q snapshot dev -m two > /dev/null
            x 'cd /etc/t; echo 3 > c'; $R -q snapshot dev > /dev/null
            y 'echo ours > own'
            # Cherry-picked: the middle one alone.
            $R apply dev@2 --to work 2>&1; look work
            $R apply dev@2 --to work 2>&1
            $R -q undo work; look work; $R -q redo work
            # The rest as a range: what is there already is no conflict.
            $R -q apply dev@common..dev@3 --to work -m 'all of dev'; look work
            $R log work | grep -o -e 'apply dev@2: two' -e 'all of dev'
            # Only some of it.
            $R -q fork dev@common part > /dev/null
            $R -q apply dev@common..dev --to part -- etc/t/e /etc/t/b; look part
            $R -q fork dev@common last > /dev/null; $R -q apply dev~1 --to last; look last"
        ),
        "work is now as work@2: 4 changes taken over; before that it was work@1\n\
         ./a=0 ./b=0 ./c=0 ./e ./e/f=2 ./link=0 ./own=ours \n\
         work stays as it is: there is nothing to take over\n\
         work@1\n\
         ./a=0 ./b=0 ./c=0 ./d ./d/f=0 ./d/g=0 ./own=ours \n\
         work@2\n\
         ./a=1 ./c=3 ./e ./e/f=2 ./link=1 ./new=1 ./own=ours \n\
         all of dev\napply dev@2: two\n\
         ./a=0 ./c=0 ./d ./d/f=0 ./d/g=0 ./e ./e/f=2 \n\
         ./a=0 ./b=0 ./c=3 ./d ./d/f=0 ./d/g=0 \n",
    );
}

#[test]
fn what_a_state_changed_is_taken_back_and_a_box_goes_on_top_of_another() {
    prints_everywhere(
        &format!(
            "{BEGIN}
            x 'cd /etc/t; echo 1 > a; rm b; chmod 600 c; rm -r d'; $R -q snapshot dev -m one > /dev/null
            x 'cd /etc/t; echo 2 > new'; $R -q snapshot dev -m two > /dev/null
            $R revert dev@1 2>&1; look dev; x 'ls -l /etc/t/c' | cut -c1-10
            $R -q diff dev@common dev
            # Taken back itself.
            $R -q revert dev@3; look dev
            # What dev has by now comes beneath what work did.
            y 'echo ours > c; echo own > own'; $R -q snapshot work > /dev/null; y 'rm d/g'
            $R -q undo dev; $R rebase work --onto dev 2>&1; look work
            $R log -q work; $R -q diff dev work
            $R -q undo work; look work"
        ),
        "dev is now as dev@3: 6 changes taken over; before that it was dev@2\n\
         ./a=0 ./b=0 ./c=0 ./d ./d/f=0 ./d/g=0 ./new=2 \n\
         -rw-r--r--\n\
         /etc/t/new\n\
         ./a=1 ./c=0 ./new=2 \n\
         dev@3\n\
         work is now as work@3: 3 changes taken over; before that it was work@2\n\
         ./a=0 ./b=0 ./c=ours ./d ./d/f=0 ./new=2 ./own=own \n\
         work\nwork@3\nwork@2\nwork@1\ndev@common\nbase\n\
         /etc/t/c\n/etc/t/d/g\n/etc/t/own\n\
         work@2\n\
         ./a=0 ./b=0 ./c=ours ./d ./d/f=0 ./own=own \n",
    );
}

/// Conflicts of every kind between `dev@1` and `work`.
const CONFLICTS: &str = "
    x 'cd /etc/t; mkdir g s; echo 0 > g/f; echo 0 > s/f; echo 0 > k; echo 0 > same'; $R -q snapshot dev base > /dev/null
    $R -q restore work --to dev@base > /dev/null
    x 'cd /etc/t; echo theirs > a; echo theirs > b; rm c k; rm -r d; echo theirs > g/f; rm -r s; echo theirs > s
        echo new > new; echo same > same; mkdir n; echo theirs > n/f; echo theirs > made'
    $R -q snapshot dev -m theirs > /dev/null
    y 'echo ours > a; rm b; echo ours > c; echo ours > d/f; rm -r g; echo ours > s/f; echo same > same; echo ours > n
        echo ours > made; echo own > own; chmod 600 k'
    ";

#[test]
fn both_sides_of_a_conflict_are_kept_until_they_are_settled() {
    prints_everywhere(
        &format!(
            "{BEGIN}{CONFLICTS}
            $R -q apply dev@1 --to work || echo $?
            look work
            # Nothing else is merged meanwhile, whatever snapshots are made; what is not settled is not ended.
            $R -q snapshot work mid > /dev/null
            fails $R apply dev@1 --to work; fails $R rebase work --onto dev; fails $R revert work@mid
            y 'rm -r s.theirs n.theirs made.theirs a.theirs b.theirs'
            fails $R apply --continue work
            y 'echo both > a; mv g/f.theirs g/f'
            $R -q apply --continue work > /dev/null; look work
            $R log work | grep -c 'apply dev@1: theirs'
            fails $R apply --continue work; fails $R apply --abort work
"
        ),
        "conflict /etc/t/a: changed in work, changed in dev@1; work's is there, dev@1's is /etc/t/a.theirs\n\
         conflict /etc/t/b: deleted in work, changed in dev@1; dev@1's is /etc/t/b.theirs\n\
         conflict /etc/t/c: changed in work, deleted in dev@1; work's is there\n\
         conflict /etc/t/d: changed in work, deleted in dev@1; work's is there\n\
         conflict /etc/t/g/f: deleted in work, changed in dev@1; dev@1's is /etc/t/g/f.theirs\n\
         conflict /etc/t/k: changed in work, deleted in dev@1; work's is there\n\
         conflict /etc/t/made: added in work, added in dev@1; work's is there, dev@1's is /etc/t/made.theirs\n\
         conflict /etc/t/n: added in work, added in dev@1; work's is there, dev@1's is /etc/t/n.theirs\n\
         conflict /etc/t/s: changed in work, changed in dev@1; work's is there, dev@1's is /etc/t/s.theirs\n\
         1\n\
         ./a=ours ./a.theirs=theirs ./b.theirs=theirs ./c=ours ./d ./d/f=ours ./d/g=0 ./g ./g/f.theirs=theirs ./k=0 \
         ./made=ours ./made.theirs=theirs ./n=ours ./n.theirs ./n.theirs/f=theirs ./new=new ./own=own ./s ./s.theirs=theirs \
         ./s/f=ours ./same=same \n\
         1\n\x20 because: work has 9 conflicts of `apply dev@1: theirs`\n\
         \x20 hint: settle them and say: rootling apply --continue work; or give it up: rootling apply --abort work\n\
         1\n\x20 because: work has 9 conflicts of `apply dev@1: theirs`\n\
         \x20 hint: settle them and say: rootling apply --continue work; or give it up: rootling apply --abort work\n\
         1\n\x20 because: work has 9 conflicts of `apply dev@1: theirs`\n\
         \x20 hint: settle them and say: rootling apply --continue work; or give it up: rootling apply --abort work\n\
         1\n\x20 because: work is not settled: etc/t/g/f.theirs is still there\n\
         \x20 hint: merge each with the file beside it in `rootling enter work`, and remove it\n\
         ./a=both ./c=ours ./d ./d/f=ours ./d/g=0 ./g ./g/f=theirs ./k=0 ./made=ours ./n=ours ./new=new ./own=own ./s ./s/f=ours \
         ./same=same \n\
         2\n\
         1\n\x20 because: work has no conflicts to settle\n\x20 hint: `rootling log work` shows its states\n\
         1\n\x20 because: work has no conflicts to settle\n\x20 hint: `rootling log work` shows its states\n",
    );
}

#[test]
fn a_merge_is_given_up_by_abort_undo_and_restore() {
    prints_everywhere(
        &format!(
            "{BEGIN}{CONFLICTS}
            look work > $D/before
            merge() {{ $R -q apply dev@1 --to work > /dev/null || echo $?; }}
            as_before() {{ look work | cmp - $D/before && echo as before; }}
            merge; y 'echo half > a; rm s.theirs'; $R -q apply --abort work > /dev/null; as_before
            # What was done until then is a state.
            $R -q undo work > /dev/null; y 'cat a'; $R -q redo work > /dev/null
            # An undo takes it back, and a redo brings it back.
            merge; $R -q undo work > /dev/null; as_before; fails $R apply --continue work
            $R -q redo work > /dev/null; fails $R apply dev@1 --to work | head -n 1
            $R -q restore work --to dev@base > /dev/null; fails $R apply --abort work
            # Taken over where nothing is in the way.
            merge; look work
            $R -q restore work --to dev@base > /dev/null; y 'echo ours > a'
            $R -q rebase work --onto dev@1 || echo $?
            $R -q rebase --abort work > /dev/null; y 'cat a; test -e new || echo none'
            $R -q rebase work --onto dev@1 || echo $?
            y 'mv a.theirs a'; $R -q rebase --continue work > /dev/null; look work"
        ),
        "1\nas before\nhalf\n\
         1\nas before\n1\n\x20 because: work has no conflicts to settle\n\x20 hint: `rootling log work` shows its states\n\
         1\n\
         1\n\x20 because: work has no conflicts to settle\n\x20 hint: `rootling log work` shows its states\n\
         ./a=theirs ./b=theirs ./g ./g/f=theirs ./made=theirs ./n ./n/f=theirs ./new=new ./s=theirs ./same=same \n\
         conflict /etc/t/a: changed in dev@1, changed in work; dev@1's is there, work's is /etc/t/a.theirs\n1\n\
         ours\nnone\n\
         conflict /etc/t/a: changed in dev@1, changed in work; dev@1's is there, work's is /etc/t/a.theirs\n1\n\
         ./a=ours ./b=theirs ./g ./g/f=theirs ./made=theirs ./n ./n/f=theirs ./new=new ./s=theirs ./same=same \n",
    );
}

#[test]
fn what_cannot_be_merged_is_refused_and_says_what_to_do() {
    let environment = Environment::new();
    if !environment.import_busybox() {
        return;
    }
    let root = format!("dir:{}", environment.path("root").display());
    environment.ok(["import", &root, "alien"]);
    environment.ok(["create", "base", "dev"]);
    environment.ok(["exec", "dev", "--", "touch", "/etc/a"]);
    environment.ok(["snapshot", "dev", "-m", "a"]);
    environment.ok(["create", "base", "work"]);
    for (arguments, said) in [
        (&["rebase", "work", "--onto", "alien"][..], "base and alien have no state in common"),
        (&["apply", "dev@1"], "to which box?"),
        (&["apply", "base", "--to", "work"], "base has no state before it that it could have changed"),
        (&["apply", "dev@1..", "--to", "work"], "leaves an end open"),
        (&["apply", "dev@1", "--to", "base"], "base is committed already"),
        (&["apply", "dev@1", "--to", "dev@1"], "dev@1 is not a box"),
        (&["apply", "dev@1", "--to", "work", "--", "none"], "neither base nor dev@1 has \"none\""),
        (&["apply", "dev@1", "--to", "work", "--", "../etc"], "cannot be restored by itself"),
        (&["apply", "dev@1", "--to", "nothing"], "there is no nothing"),
        (&["rebase", "work"], "--onto"),
        (&["apply", "--continue", "work", "--abort", "work"], "cannot be used with"),
        (&["apply", "dev@1", "--continue", "work"], "cannot be used with"),
        (&["apply", "--continue", "work"], "work has no conflicts to settle"),
    ] {
        let error = environment.fails(arguments);
        assert!(error.contains(said), "{arguments:?}: {error}");
    }
    for arguments in [&["apply", "dev@1..dev@1", "--to", "work"][..], &["rebase", "work", "--onto", "work"]] {
        let ran = environment.run(arguments);
        assert!(
            ran.code == 0 && ran.stderr.contains("there is nothing to take over"),
            "{arguments:?}: {ran:?}"
        );
    }
    environment.ok(["start", "work", "--", "sleep", "100"]);
    for arguments in [&["apply", "dev@1", "--to", "work"][..], &["rebase", "work", "--onto", "dev"]] {
        let error = environment.fails(arguments);
        assert!(error.contains("in use") && error.contains("rootling stop work"), "{error}");
    }
    environment.ok(["stop", "-t", "0", "work"]);
    environment.ok(["apply", "dev@1", "--to", "work"]);
    environment.ok(["exec", "work", "--", "test", "-e", "/etc/a"]);
}

#[test]
fn what_was_merged_is_a_document_whatever_the_names() {
    let environment = Environment::new();
    if !environment.import_busybox() {
        return;
    }
    let run = |name: &str, line: &str| environment.ok(["exec", name, "--", "sh", "-c", line]);
    environment.ok(["create", "base", "dev"]);
    run("dev", "echo 0 > /etc/$(printf 'x\\377'); echo 0 > /etc/gone");
    environment.ok(["snapshot", "dev", "common"]);
    environment.ok(["fork", "dev@common", "work"]);
    run("dev", "echo theirs > /etc/$(printf 'x\\377'); rm /etc/gone; echo 1 > /etc/new");
    environment.ok(["snapshot", "dev"]);

    environment.ok(["fork", "dev@common", "clean"]);
    let merged = environment.json(["apply", "dev@1", "--to", "clean"]);
    assert_eq!(
        (&merged["name"], &merged["taken"], &merged["conflicts"]),
        (&"clean".into(), &3.into(), &serde_json::json!([]))
    );
    // It had not changed: what it was is the state that it was made from.
    assert_eq!((&merged["state"], &merged["before"]), (&"clean@1".into(), &"dev@common".into()));
    let again = environment.json(["apply", "dev@1", "--to", "clean"]);
    assert_eq!((&again["state"], &again["taken"]), (&().into(), &0.into()));

    run("work", "echo ours > /etc/$(printf 'x\\377'); echo ours > /etc/gone");
    let ran = environment.run(["--format", "json", "apply", "dev@1", "--to", "work"]);
    let merged: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.code, &merged["taken"], &merged["state"]), (1, &1.into(), &"work@2".into()));
    let expected = serde_json::json!([
        { "path": "etc/gone", "ours": "modified", "theirs": "deleted", "theirs_at": null },
        {
            "path": "etc/x\u{fffd}", "path_bytes": b"etc/x\xff", "ours": "modified", "theirs": "modified",
            "theirs_at": "etc/x\u{fffd}.theirs", "theirs_at_bytes": b"etc/x\xff.theirs",
        },
    ]);
    assert_eq!(merged["conflicts"], expected);
    assert_eq!(environment.json(["show", "work"])["merging"]["conflicts"], expected);
    assert!(environment.fails(["apply", "--continue", "work"]).contains("is still there"));
    run("work", "rm /etc/$(printf 'x\\377').theirs");
    let ended = environment.json(["apply", "--continue", "work"]);
    assert_eq!((&ended["name"], &ended["kind"]), (&"work@3".into(), &"snapshot".into()));
    environment.ok(["fsck", "--verify"]);
}

#[test]
fn what_ends_a_merge_can_have_words_of_its_own() {
    let environment = Environment::new();
    if !environment.import_busybox() {
        return;
    }
    environment.ok(["create", "base", "dev"]);
    environment.ok(["create", "base", "work"]);
    for name in ["dev", "work"] {
        environment.ok(["exec", name, "--", "sh", "-c", &format!("echo {name} > /etc/x")]);
    }
    environment.ok(["snapshot", "dev"]);
    assert_eq!(environment.run(["apply", "dev@1", "--to", "work"]).code, 1);
    let refused = environment.fails(["apply", "--abort", "work", "-m", "given up"]);
    assert!(refused.contains("cannot be used with"), "{refused}");
    environment.ok(["exec", "work", "--", "rm", "/etc/x.theirs"]);
    let ended = environment.json(["apply", "--continue", "work", "-m", "took ours"]);
    assert_eq!(ended["message"], "took ours");
}
