//! What is read of a Dockerfile, and what is said of it, through the program.

use std::fs;

use serde_json::{Value, json};

use crate::environment::{Environment, Ran};

/// Runs `build` on a context that has nothing but this Dockerfile.
fn build(environment: &Environment, text: &str, flags: &[&str]) -> Ran {
    fs::create_dir_all(environment.path("context")).unwrap();
    fs::write(environment.path("context/Dockerfile"), text).unwrap();
    let context = environment.path("context").display().to_string();
    let arguments = [&["build"], flags, &[context.as_str()]].concat();
    environment.run(arguments)
}

const FILE: &str = "# escape=`\nFROM --platform=$TARGETPLATFORM scratch AS a\nRUN --network=none <<X `\n\n cat\nx\nX\nCMD [\"b\"]\n";

#[test]
fn what_was_read_is_printed() {
    let environment = Environment::new();
    let ran = build(&environment, FILE, &["--print", "ast"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let expected = concat!(
        "; escape '`'\n",
        "(from [\"--platform=$TARGETPLATFORM\"] \"scratch\" \"AS\" \"a\") ; line 2\n",
        "(run [\"--network=none\"] \"<<X  cat\" (heredoc \"X\" \"x\\n\")) ; lines 3-7\n",
        "(cmd \"b\") ; line 8, json\n",
    );
    assert_eq!(ran.stdout, expected);

    let ran = build(&environment, FILE, &["--print", "json"]);
    let value: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(value["directives"]["escape"], "`");
    let run = json!({
        "keyword": "RUN",
        "flags": ["--network=none"],
        "arguments": ["<<X  cat"],
        "json": false,
        "heredocs": [{"name": "X", "content": "x\n", "expand": true, "descriptor": 0, "strips_tabs": false}],
        "comments": [],
        "start_line": 3,
        "end_line": 7,
    });
    assert_eq!(value["instructions"][1], run);
}

#[test]
fn a_file_that_cannot_be_read_is_refused_with_places_and_a_hint() {
    let environment = Environment::new();
    for flags in [&["--print", "json"][..], &["--check"], &[]] {
        let ran = build(&environment, "FROM scratch\nRUN \\\n  --netwrok=none x\nENV\n", flags);
        assert_eq!(ran.code, 2, "{ran:?}");
        assert_eq!(ran.stdout, "");
        for part in [
            "line 3, column 3: RUN: --netwrok is no flag of RUN",
            "line 4, column 4: ENV: ENV says nothing",
            "did you mean --network?",
            "Dockerfile",
        ] {
            assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
        }
    }
}

#[test]
fn what_is_unwise_is_told_with_its_rule() {
    let environment = Environment::new();
    let ran = build(&environment, FILE, &["--check", "--format", "json"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let rows: Value = serde_json::from_str(&ran.stdout).unwrap();
    let found: Vec<_> = rows.as_array().unwrap().iter().map(|row| (&row["rule"], &row["line"])).collect();
    assert_eq!(
        found,
        [(&json!("RedundantTargetPlatform"), &json!(2)), (&json!("NoEmptyContinuation"), &json!(4))]
    );

    let ran = build(&environment, "FROM scratch\nCMD [\"b\"]\n", &["--check"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{ran:?}");
}

#[test]
fn a_file_may_ask_not_to_be_built_when_it_is_unwise() {
    let environment = Environment::new();
    let text = "# check=error=true\nFROM scratch\nMAINTAINER me\n";
    let ran = build(&environment, text, &[]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.stderr.contains("line 3: MAINTAINER is deprecated"), "{}", ran.stderr);
    assert!(ran.stderr.contains("MaintainerDeprecated"), "{}", ran.stderr);
    let ran = build(&environment, &text.replace("true", "true;skip=MaintainerDeprecated"), &[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = build(&environment, &text.replace("error", "eror"), &[]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.stderr.contains("did you mean error?"), "{}", ran.stderr);
}

#[test]
fn files_that_are_left_out_are_told_where_the_file_asks_for_it() {
    let environment = Environment::new();
    let text = "# check=experimental=all\nFROM scratch\nCOPY secret /a\nCOPY open /b\n";
    build(&environment, text, &["--check"]);
    fs::write(environment.path("context/.dockerignore"), "secret\n").unwrap();
    let ran = build(&environment, text, &["--check"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.stdout.contains(":3: COPY secret") && ran.stdout.contains("CopyIgnoredFile"),
        "{}",
        ran.stdout
    );
    assert_eq!(ran.stdout.lines().count(), 1);
}
