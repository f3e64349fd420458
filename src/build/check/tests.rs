//! Every rule finds what it is for, and nothing else does.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::build::syntax::parse;

/// Returns the rule and line of each finding.
fn found(text: &str) -> Vec<(Rule, usize)> {
    let text = format!("# check=experimental=all\n{text}");
    let file = parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
    let ignored = |path: &str| path == "secret" || path.starts_with("secret/");
    let options = Options::of(&file).unwrap();
    let mut findings = check(&file, &options, Known { ignored: Some(&ignored), ..Known::default() });
    // A line for the directive.
    findings.iter_mut().for_each(|finding| finding.line -= 1);
    findings.into_iter().map(|finding| (finding.rule, finding.line)).collect()
}

/// A rule, files in which it finds something in one line, and files that nothing is wrong with.
type Case = (Rule, Vec<(&'static str, usize)>, Vec<&'static str>);

fn cases() -> Vec<Case> {
    use Rule::*;
    vec![
        (
            StageNameCasing,
            vec![("FROM a AS Build", 1), ("FROM a AS b\nFROM b AS bC", 2)],
            vec!["FROM a AS build", "FROM a"],
        ),
        (
            FromAsCasing,
            vec![("FROM a as b", 1), ("from a AS b", 1), ("FROM a As b", 1)],
            vec!["FROM a AS b", "from a as b"],
        ),
        (
            NoEmptyContinuation,
            vec![("FROM a\nRUN b \\\n\n c", 3), ("FROM a\nENV X=1 \\\n  # why\n \\\n\t\n Y=2", 5)],
            vec!["FROM a\nRUN b \\\n # c\n d\n\nRUN e", "FROM a\nRUN <<E\n\nE"],
        ),
        (
            ConsistentInstructionCasing,
            vec![("FROM a\nrun b\nRUN c", 2), ("from a\nRUN b\nrun c", 2), ("FROM a\nRun b", 2)],
            vec!["from a\nrun b", "FROM a\nRUN b", "arg x=1\nFROM a\nONBUILD run b\nRUN c"],
        ),
        (
            DuplicateStageName,
            vec![("FROM a AS b\nFROM c AS b", 2), ("FROM a AS b\nFROM c\nFROM d AS b", 3)],
            vec!["FROM a AS b\nFROM a AS c", "FROM a\nFROM a"],
        ),
        (
            ReservedStageName,
            vec![("FROM a AS scratch", 1), ("FROM a AS context", 1)],
            vec!["FROM scratch AS a", "FROM a AS contexts"],
        ),
        (
            JSONArgsRecommended,
            vec![("FROM a\nCMD b", 2), ("FROM a\nENTRYPOINT b c", 2), ("FROM a\nCMD ['b']", 2)],
            vec![
                "FROM a\nCMD [\"b\"]\nENTRYPOINT [\"c\"]",
                "FROM a\nSHELL [\"b\"]\nCMD c",
                "FROM a\nHEALTHCHECK CMD b",
                "FROM a\nRUN b",
            ],
        ),
        (MaintainerDeprecated, vec![("FROM a\nMAINTAINER b", 2)], vec!["FROM a\nLABEL b=c"]),
        (
            UndefinedArgInFrom,
            vec![
                ("ARG tag=1\nFROM a:${tag}x$tga", 2),
                ("FROM --platform=${kind#x}$BUILDPLATFORM a", 1),
                ("FROM a:x$b\nARG b", 1),
            ],
            vec![
                "ARG tag=1\nFROM a:$tag",
                "FROM --platform=$BUILDPLATFORM a",
                "FROM a:1-$TARGETARCH",
                "FROM a:${tag:-1}",
            ],
        ),
        (
            WorkdirRelativePath,
            vec![
                ("FROM a\nWORKDIR b", 2),
                ("FROM a\nENV X=b\nWORKDIR $X/c", 3),
                ("FROM a\nWORKDIR /b\nFROM c\nWORKDIR d", 4),
            ],
            vec![
                "FROM a\nWORKDIR /b\nWORKDIR c",
                "FROM a AS x\nWORKDIR /b\nFROM x\nWORKDIR c",
                "FROM a\nENV X=/b\nWORKDIR $X/c",
                "FROM a\nARG X\nWORKDIR $X/c",
                "FROM a\nWORKDIR \"/b c\"",
            ],
        ),
        (
            UndefinedVar,
            vec![
                ("FROM a\nCOPY $foo .", 2),
                ("FROM a\nENV A=$b$b", 2),
                ("FROM a\nENV A=1 B=$A", 2),
                ("FROM scratch\nENV A=$A:b", 2),
                ("ARG v=1\nFROM a\nLABEL v=$v", 3),
                ("FROM a\nARG v\nFROM b\nUSER x$v", 4),
                ("FROM a\nARG v=$w", 2),
                ("FROM a\nLABEL a=\"$b\" c='$d'", 2),
                ("FROM a\nWORKDIR /${x#y}", 2),
                ("FROM a\nEXPOSE $port", 2),
                ("FROM a\nVOLUME /$v", 2),
                ("FROM a\nSTOPSIGNAL S$x", 2),
                ("FROM a\nCOPY --chown=$u b /c", 2),
                ("FROM a\nADD --checksum=$sum https://b/c /c", 2),
                ("FROM a\nCOPY <<E /c\nx $y\nE", 2),
                ("FROM a\nRUN --mount=type=cache,target=/$x b", 2),
            ],
            vec![
                "FROM a\nARG foo\nCOPY $foo .",
                "FROM a\nENV A=1\nENV B=$A",
                "FROM a\nENV PATH=$PATH:/b",
                "FROM a\nENV LIBS=$LIBS:/b",
                "FROM a AS b\nARG v=1\nENV w=2\nFROM b\nLABEL x=$v$w",
                "ARG v=1\nFROM a\nARG v\nLABEL v=$v",
                "FROM a\nLABEL a='$b' c=\\$d",
                "FROM a\nUSER ${u:-me}${g:+x}",
                "FROM a\nRUN echo $x\nCMD [\"$x\"]\nHEALTHCHECK CMD $x",
                "FROM a\nONBUILD COPY $x /y",
                "FROM a\nCOPY <<'E' /c\nx $y\nE",
            ],
        ),
        (
            MultipleInstructionsDisallowed,
            vec![
                ("FROM a\nCMD [\"b\"]\nRUN x\nCMD [\"c\"]", 2),
                ("FROM a\nENTRYPOINT [\"b\"]\nENTRYPOINT []", 2),
                ("FROM a\nHEALTHCHECK CMD b\nHEALTHCHECK NONE", 2),
            ],
            vec!["FROM a AS b\nCMD [\"b\"]\nFROM b\nCMD [\"c\"]", "FROM a\nCMD [\"b\"]\nENTRYPOINT [\"c\"]"],
        ),
        (
            LegacyKeyValueFormat,
            vec![("FROM a\nENV B c", 2), ("FROM a\nLABEL b c d", 2)],
            vec!["FROM a\nENV B=c", "FROM a\nLABEL b=c d=e"],
        ),
        (
            RedundantTargetPlatform,
            vec![("FROM --platform=$TARGETPLATFORM a", 1), ("FROM --platform=${TARGETPLATFORM} a AS b", 1)],
            vec!["FROM --platform=$BUILDPLATFORM a", "FROM --platform=$TARGETOS/${TARGETARCH} a", "FROM a"],
        ),
        (
            SecretsUsedInArgOrEnv,
            vec![
                ("FROM a\nARG GITHUB_TOKEN", 2),
                ("FROM a\nENV password=x", 2),
                ("FROM a\nENV A=1 \\\n B_AUTH=2", 2),
                ("FROM a\nARG apikey\n", 2),
            ],
            vec![
                "FROM a\nARG PUBLIC_KEY",
                "FROM a\nENV TOKEN_FILE=/run/x KEY_VERSION=2",
                "FROM a\nENV AUTHOR=x TOKENS=y MONKEY=z",
                "ARG TOKEN=x\nFROM a",
            ],
        ),
        (
            InvalidDefaultArgInFrom,
            vec![("ARG IMAGE\nFROM ${IMAGE}", 2), ("ARG TAG\nFROM a:$TAG", 2), ("ARG x=A:B:C\nFROM $x", 2)],
            vec![
                "ARG IMAGE=a:b\nFROM $IMAGE",
                "ARG V\nFROM a:1${V}",
                "ARG V\nFROM a:${V:-1}",
                "FROM scratch",
            ],
        ),
        (
            FromPlatformFlagConstDisallowed,
            vec![("FROM --platform=linux/amd64 a", 1), ("FROM --platform=linux/arm64 a AS amd64", 1)],
            vec![
                "FROM --platform=linux/amd64 a AS build-amd64",
                "FROM --platform=linux/arm64 a AS linux",
                "FROM --platform=$BUILDPLATFORM a",
            ],
        ),
        (
            CopyIgnoredFile,
            vec![
                ("FROM a\nCOPY secret /b", 2),
                ("FROM a\nCOPY c ./secret/x /b/", 2),
                ("FROM a\nADD /secret /b", 2),
                ("FROM a\nENV D=secret\nCOPY $D/x /b", 3),
            ],
            vec![
                "FROM a\nCOPY c /b",
                "FROM a\nCOPY --from=c secret /b",
                "FROM a\nADD https://c/secret /b",
                "FROM a\nCOPY . /b",
                "FROM a\nCOPY secrets /b",
            ],
        ),
        (
            InvalidDefinitionDescription,
            vec![
                ("# some words\nFROM a AS b", 2),
                ("FROM a\n# x is this\nARG y=1", 3),
                ("FROM a\n# A B\nARG x y", 3),
            ],
            vec![
                "# b is a stage\nFROM a AS b",
                "# some words\nFROM a",
                "# some words\n\nFROM a AS b",
                "# some words\n#\nFROM a AS b",
                "FROM a\n# y is this\nARG x=1 y",
                "FROM a\n# some words\nRUN b",
            ],
        ),
        (
            ExposeProtoCasing,
            vec![("FROM a\nEXPOSE 80/TCP", 2), ("FROM a\nEXPOSE 1 53/Udp", 2)],
            vec!["FROM a\nEXPOSE 80/tcp 53/udp 90", "FROM a\nARG P\nEXPOSE $P"],
        ),
        (
            ExposeInvalidFormat,
            vec![("FROM a\nEXPOSE 80:80", 2), ("FROM a\nEXPOSE 127.0.0.1:80:80", 2)],
            vec!["FROM a\nEXPOSE 80", "FROM a\nEXPOSE 80-90/udp"],
        ),
    ]
}

#[test]
fn every_rule_finds_what_it_is_for() {
    for (rule, bad, _) in cases() {
        for (text, line) in bad {
            assert_eq!(found(text), [(rule, line)], "{text}");
        }
    }
}

#[test]
fn every_rule_lets_pass_what_is_fine() {
    for (rule, _, good) in cases() {
        for text in good {
            assert_eq!(found(text), [], "{rule}: {text}");
        }
    }
}

#[test]
fn every_rule_has_cases() {
    let tested: BTreeSet<Rule> = cases().into_iter().map(|(rule, ..)| rule).collect();
    assert_eq!(tested, Rule::ALL.iter().copied().collect());
    assert!(cases().iter().all(|(_, bad, good)| !bad.is_empty() && !good.is_empty()));
    for rule in Rule::ALL {
        assert!(rule.explanation().ends_with('.') && rule.to_string() == format!("{rule:?}"));
    }
}

#[test]
fn rules_are_skipped_where_the_file_says_so() {
    let rules = |directive: &str| {
        let file = parse(format!("{directive}\nfrom a AS B\nMAINTAINER c\n").as_bytes()).unwrap();
        let options = Options::of(&file).unwrap();
        check(&file, &options, Known::default())
            .into_iter()
            .map(|finding| finding.rule.name())
            .collect::<Vec<_>>()
    };
    let all = ["StageNameCasing", "FromAsCasing", "ConsistentInstructionCasing", "MaintainerDeprecated"];
    assert_eq!(rules(""), all);
    assert_eq!(rules("# check=skip=FromAsCasing,ConsistentInstructionCasing"), [all[0], all[3]]);
    assert_eq!(rules("# check=skip=all;error=true"), [""; 0]);
}

#[test]
fn messages_say_what_may_have_been_meant() {
    let file =
        parse(b"ARG VERSION=1\nFROM a:$VERSOIN$VERSION\nENV HOME_DIR=/h\nWORKDIR $HOME_DRI/x\n").unwrap();
    let findings = check(&file, &Options::default(), Known::default());
    let messages: Vec<_> = findings.into_iter().map(|finding| finding.message).collect();
    assert_eq!(
        messages,
        [
            "VERSOIN is not declared before the first FROM (did you mean VERSION?)",
            "$HOME_DRI is not set here, and so is empty (did you mean $HOME_DIR?)",
        ]
    );
}

#[test]
fn what_an_image_sets_is_no_mistake() {
    let file = parse(b"ARG V=2\nFROM golang:$V\nENV A=$GOPATH/bin\nFROM other\nENV A=$GOPATH/bin").unwrap();
    let lines = |known: Known<'_>| {
        let findings = check(&file, &Options::default(), known);
        findings.into_iter().map(|finding| (finding.rule, finding.line)).collect::<Vec<_>>()
    };
    assert_eq!(lines(Known::default()), [(Rule::UndefinedVar, 3), (Rule::UndefinedVar, 5)]);
    let variables = |image: &str| {
        (image == "golang:2").then(|| BTreeMap::from([("GOPATH".to_owned(), "/go".to_owned())]))
    };
    let known = Known { variables: Some(&variables), ..Known::default() };
    assert_eq!(lines(known), [(Rule::UndefinedVar, 5)]);
}
