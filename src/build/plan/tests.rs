//! The rules of planning, one table for each.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use proptest::prelude::*;
use rootling_backends::{Error, ErrorKind, Result};
use serde_json::json;

use super::*;
use crate::build::syntax::parse;

/// Images by name, and contexts; remembers who was asked for.
#[derive(Default)]
struct Known {
    images: BTreeMap<&'static str, Base>,
    asked: Vec<String>,
}

impl Known {
    fn with(name: &'static str, config: &serde_json::Value) -> Self {
        let config = serde_json::from_value(config.clone()).unwrap();
        let base = Base { config, author: "Base <b@x>".to_owned(), ..Base::default() };
        Self { images: BTreeMap::from([(name, base)]), asked: Vec::new() }
    }
}

impl Bases for Known {
    fn image(&mut self, image: &str, platform: &Platform) -> Result<Base> {
        self.asked.push(format!("{image} for {platform}"));
        match self.images.get(image) {
            Some(base) => Ok(base.clone()),
            None if image.starts_with("no") => {
                Err(Error::new(ErrorKind::NotFound, format!("there is no image {image}")))
            }
            None => Ok(Base::default()),
        }
    }

    fn context(&mut self, name: &str, _platform: &Platform) -> Result<Base> {
        self.asked.push(format!("context {name}"));
        Ok(self.images.get(name).cloned().unwrap_or_default())
    }
}

fn options() -> PlanOptions {
    let platform = Platform::parse("linux/amd64").unwrap();
    PlanOptions { build_platform: Some(platform), ..PlanOptions::default() }
}

fn with_args(args: &[(&str, &str)]) -> PlanOptions {
    let args = args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    PlanOptions { args, ..options() }
}

fn try_plan(text: &str, options: &PlanOptions, known: &mut Known) -> Result<Plan> {
    plan(&parse(text.as_bytes())?, options, known)
}

fn planned_with(text: &str, options: &PlanOptions) -> Plan {
    try_plan(text, options, &mut Known::default()).unwrap()
}

fn planned(text: &str) -> Plan {
    planned_with(text, &options())
}

/// The last stage of a file that is planned without options.
fn last(text: &str) -> Stage {
    planned(text).stages.pop().unwrap()
}

/// The settings of the last stage, without what everyone has.
fn config(text: &str) -> serde_json::Value {
    let mut config = last(text).config;
    config.env.retain(|variable| !variable.starts_with("PATH="));
    serde_json::to_value(config).unwrap()
}

/// What history says of the steps of the last stage.
fn history(text: &str) -> Vec<String> {
    last(text).steps.into_iter().map(|step| step.created_by).collect()
}

fn run_of(step: &Step) -> &RunStep {
    match &step.work {
        Work::Run(run) => run,
        other => panic!("{other:?}"),
    }
}

fn copy_of(step: &Step) -> &CopyStep {
    match &step.work {
        Work::Copy(copy) => copy,
        other => panic!("{other:?}"),
    }
}

/// The last `RUN` of a file.
fn run(text: &str) -> RunStep {
    run_of(last(text).steps.last().unwrap()).clone()
}

fn env(run: &RunStep, name: &str) -> Option<String> {
    run.env.get(name).cloned()
}

/// Asserts that a file is refused, with the line, and says all that the error says.
fn refused(text: &str, options: &PlanOptions) -> String {
    let error = try_plan(text, options, &mut Known::default()).unwrap_err();
    let mut said = String::new();
    let mut at: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(error) = at {
        write!(said, "{error}; ").unwrap();
        at = error.source();
    }
    write!(said, "hint: {}", error.first_hint().unwrap_or("none")).unwrap();
    said
}

// ---------------------------------------------------------------- arguments

#[test]
fn arguments_are_seen_where_they_were_declared() {
    for (text, args, expected) in [
        // Those before the first stage are seen in FROM, and in a stage only where it asks.
        ("ARG A=1\nFROM scratch\nRUN x", &[][..], None),
        ("ARG A=1\nFROM scratch\nARG A\nRUN x", &[], Some("1")),
        ("ARG A=1\nFROM scratch\nARG A\nRUN x", &[("A", "2")], Some("2")),
        ("ARG A=1\nFROM scratch\nARG A=3\nRUN x", &[], Some("3")),
        ("ARG A=1\nFROM scratch\nARG A=3\nRUN x", &[("A", "2")], Some("2")),
        ("FROM scratch\nARG A\nRUN x", &[], None),
        ("FROM scratch\nARG A=\nRUN x", &[], Some("")),
        ("FROM scratch\nARG B=b\nARG A=$B-$C\nRUN x", &[], Some("b-")),
        ("FROM scratch\nARG B=b A=$B\nRUN x", &[], Some("b")),
        ("ARG B=b\nARG A=$B$B\nFROM scratch\nARG A\nRUN x", &[], Some("bb")),
        // Each is seen from its line on, and no further than its stage.
        ("FROM scratch\nENV B=$A\nARG A=1\nENV A=$B\nRUN x", &[], Some("")),
        ("FROM scratch AS a\nARG A=1\nFROM scratch\nRUN x", &[], None),
        ("FROM scratch AS a\nARG A=1\nFROM a\nRUN x", &[], Some("1")),
        // The later of an argument and a variable holds.
        ("FROM scratch\nARG A=1\nENV A=2\nRUN x", &[("A", "3")], Some("2")),
        ("FROM scratch\nENV A=2\nARG A=1\nRUN x", &[("A", "3")], Some("3")),
        ("FROM scratch\nENV A=2\nARG A\nRUN x", &[], Some("2")),
        // What is always there.
        ("FROM scratch\nARG TARGETARCH\nENV A=$TARGETARCH\nRUN x", &[], Some("amd64")),
        ("FROM scratch\nENV A=$TARGETARCH\nRUN x", &[], Some("")),
        ("FROM scratch\nARG TARGETARCH=vax\nENV A=$TARGETARCH\nRUN x", &[], Some("vax")),
        ("FROM scratch\nARG BUILDPLATFORM\nENV A=$BUILDPLATFORM\nRUN x", &[], Some("linux/amd64")),
        ("FROM scratch\nARG TARGETSTAGE\nENV A=$TARGETSTAGE\nRUN x", &[], Some("default")),
        ("FROM scratch AS End\nARG TARGETSTAGE\nENV A=$TARGETSTAGE\nRUN x", &[], Some("end")),
        ("FROM scratch\nARG TARGETOS\nENV A=$TARGETOS\nRUN x", &[("TARGETOS", "plan9")], Some("plan9")),
        (
            "FROM scratch\nARG BUILDKIT_SBOM_SCAN_STAGE=1\nENV A=${BUILDKIT_SBOM_SCAN_STAGE-no}\nRUN x",
            &[],
            Some("no"),
        ),
    ] {
        let plan = planned_with(text, &with_args(args));
        let run = run_of(plan.stages.last().unwrap().steps.last().unwrap());
        assert_eq!(env(run, "A").as_deref(), expected, "{text} {args:?}");
    }
}

#[test]
fn platforms_are_arguments_of_their_own() {
    let target = Platform::parse("linux/arm/v6").unwrap();
    let options = PlanOptions { platform: Some(target), ..options() };
    let text = "FROM --platform=$BUILDPLATFORM base AS a\nARG TARGETPLATFORM TARGETVARIANT BUILDARCH\nRUN x\nFROM base\nCOPY --from=a x y";
    let mut known = Known::default();
    let plan = try_plan(text, &options, &mut known).unwrap();
    let run = run_of(&plan.stages[0].steps[1]);
    assert_eq!(env(run, "TARGETPLATFORM").unwrap(), "linux/arm/v6");
    assert_eq!(
        (env(run, "TARGETVARIANT").unwrap(), env(run, "BUILDARCH").unwrap()),
        ("v6".into(), "amd64".into())
    );
    let platforms: Vec<String> = plan.stages.iter().map(|stage| stage.platform.to_string()).collect();
    assert_eq!(platforms, ["linux/amd64", "linux/arm/v6"]);
    assert_eq!(known.asked, ["base for linux/arm/v6", "base for linux/amd64"]);
    assert_eq!(plan.platform.to_string(), "linux/arm/v6");
}

#[test]
fn without_a_platform_it_is_that_of_the_base() {
    let arm = Platform::parse("linux/arm64").unwrap();
    let base = Base { platform: Some(arm.clone()), ..Base::default() };
    let mut known = Known { images: BTreeMap::from([("base", base)]), asked: Vec::new() };
    let plan = try_plan("FROM base\nFROM scratch AS s\nFROM base", &options(), &mut known).unwrap();
    assert_eq!(plan.stages[0].platform, arm);
    let options = PlanOptions { platform: Some(Platform::parse("linux/386").unwrap()), ..options() };
    assert_eq!(
        try_plan("FROM base", &options, &mut known).unwrap().stages[0].platform.to_string(),
        "linux/386"
    );
}

#[test]
fn proxies_are_given_and_not_told() {
    let options = with_args(&[("http_proxy", "http://p"), ("NO_PROXY", "x"), ("FTP_PROXY", "")]);
    let plan = planned_with("FROM scratch\nENV no_proxy=mine\nRUN x", &options);
    let step = &plan.stages[0].steps[1];
    let quiet = &run_of(step).quiet_env;
    let expected = [("HTTP_PROXY", "http://p"), ("NO_PROXY", "x"), ("http_proxy", "http://p")];
    assert!(quiet.iter().map(|(name, value)| (name.as_str(), value.as_str())).eq(expected), "{quiet:?}");
    assert_eq!(step.created_by, "RUN /bin/sh -c x # buildkit");
    assert_eq!(plan.warnings, []);
    // One that the recipe asks for is an argument like others.
    let plan = planned_with("FROM scratch\nARG http_proxy\nRUN x", &options);
    assert_eq!(plan.stages[0].steps[1].created_by, "RUN |1 http_proxy=http://p /bin/sh -c x # buildkit");
}

#[test]
fn arguments_that_nobody_asks_for_are_told() {
    let options =
        with_args(&[("VERSON", "1"), ("BUILDKIT_INLINE_CACHE", "1"), ("TARGETARCH", "x"), ("no_proxy", "x")]);
    let plan = planned_with("FROM scratch\nARG VERSION\n", &options);
    let warning = Warning {
        message: "build argument VERSON is not used: no ARG asks for it".to_owned(),
        hint: Some("did you mean VERSION?".to_owned()),
    };
    assert_eq!(plan.warnings, [warning]);
    let plan = planned_with("FROM scratch AS unneeded\nARG VERSON\nFROM scratch\nONBUILD ARG X", &options);
    assert_eq!(plan.warnings, []);
}

#[test]
fn all_times_can_be_set() {
    assert_eq!(planned("FROM scratch").epoch, None);
    assert_eq!(
        planned_with("FROM scratch", &with_args(&[("SOURCE_DATE_EPOCH", "1700000000")])).epoch,
        Some(1_700_000_000)
    );
    assert_eq!(planned("ARG SOURCE_DATE_EPOCH=7\nFROM scratch").epoch, Some(7));
    assert_eq!(
        planned_with("ARG SOURCE_DATE_EPOCH=7\nFROM scratch", &with_args(&[("SOURCE_DATE_EPOCH", "")])).epoch,
        None
    );
    let said = refused("FROM scratch", &with_args(&[("SOURCE_DATE_EPOCH", "today")]));
    assert!(said.contains("\"today\"") && said.contains("date +%s"), "{said}");
}

// ---------------------------------------------------------------- settings

#[test]
fn an_instruction_sees_the_variables_before_it() {
    let said = config("FROM scratch\nENV A=1 B=$A\nENV A=2 C=$A D=\"$A $B\"\nENV A x ${A}");
    assert_eq!(said["Env"], json!(["A=x 2", "B=", "C=1", "D=1 "]));
    let said = config("FROM scratch\nENV N=k\nENV $N=v\nLABEL $N=$N '$N'=\"a $N\" c='$N'");
    assert_eq!(said["Labels"], json!({"k": "k", "$N": "a k", "c": "$N"}));
    assert_eq!(said["Env"], json!(["N=k", "k=v"]));
}

#[test]
fn settings_are_those_of_docker() {
    for (text, field, expected) in [
        ("WORKDIR /a\nWORKDIR b\nWORKDIR ../c", "WorkingDir", json!("/a/c")),
        ("WORKDIR a/./b", "WorkingDir", json!("/a/b")),
        ("WORKDIR /a/", "WorkingDir", json!("/a/")),
        ("ENV D=/x\nWORKDIR $D/y", "WorkingDir", json!("/x/y")),
        ("USER app:$G", "User", json!("app:")),
        ("CMD a b", "Cmd", json!(["/bin/sh", "-c", "a b"])),
        ("CMD [\"a\", \"$b\"]", "Cmd", json!(["a", "$b"])),
        ("SHELL [\"/bin/bash\", \"-ec\"]\nCMD a", "Cmd", json!(["/bin/bash", "-ec", "a"])),
        ("SHELL [\"/bin/bash\", \"-ec\"]", "Shell", json!(["/bin/bash", "-ec"])),
        ("ENTRYPOINT a", "Entrypoint", json!(["/bin/sh", "-c", "a"])),
        ("CMD [\"a\"]\nENTRYPOINT [\"b\"]", "Cmd", json!(["a"])),
        (
            "EXPOSE 80 53/udp 1-2\nENV P=90-91\nEXPOSE $P/tcp",
            "ExposedPorts",
            json!({"80/tcp": {}, "53/udp": {}, "1/tcp": {}, "2/tcp": {}, "90/tcp": {}, "91/tcp": {}}),
        ),
        ("ENV P=\"7 8\"\nEXPOSE $P", "ExposedPorts", json!({"7/tcp": {}, "8/tcp": {}})),
        ("VOLUME /a /b$x\nVOLUME [\"/c d\"]", "Volumes", json!({"/a": {}, "/b": {}, "/c d": {}})),
        ("STOPSIGNAL SIGRTMIN+3", "StopSignal", json!("SIGRTMIN+3")),
        ("STOPSIGNAL 9", "StopSignal", json!("9")),
        ("HEALTHCHECK NONE", "Healthcheck", json!({"Test": ["NONE"]})),
        (
            "HEALTHCHECK --interval=1m30s --timeout=3s --start-period=0 --start-interval=500ms --retries=3 CMD curl -f x",
            "Healthcheck",
            json!({"Test": ["CMD-SHELL", "curl -f x"], "Interval": 90_000_000_000_u64, "Timeout": 3_000_000_000_u64, "StartInterval": 500_000_000, "Retries": 3}),
        ),
        ("HEALTHCHECK CMD [\"a\", \"b\"]", "Healthcheck", json!({"Test": ["CMD", "a", "b"]})),
        ("ONBUILD RUN a\nONBUILD COPY x y", "OnBuild", json!(["RUN a", "COPY x y"])),
    ] {
        assert_eq!(config(&format!("FROM scratch\n{text}"))[field], expected, "{text}");
    }
    assert_eq!(last("FROM scratch\nMAINTAINER Me $x").author, "Me $x");
    assert_eq!(
        last("FROM scratch").config.env,
        ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    );
}

#[test]
fn a_base_is_continued() {
    let base = json!({
        "Env": ["PATH=/bin", "A=1", "A=2", "E"], "WorkingDir": "/srv", "User": "app", "Cmd": ["old"], "Shell": ["/bin/zsh"],
        "Entrypoint": ["e"], "Labels": {"a": "1"},
    });
    let plan = |text: &str| {
        try_plan(&format!("FROM base AS z\n{text}"), &options(), &mut Known::with("base", &base)).unwrap()
    };
    let stage = &plan("WORKDIR app\nRUN a").stages[0];
    let run = run_of(&stage.steps[1]);
    assert_eq!((run.user.as_str(), run.workdir.as_str()), ("app", "/srv/app"));
    assert_eq!(
        (env(run, "A").unwrap(), env(run, "E").unwrap(), env(run, "PATH").unwrap()),
        ("2".into(), String::new(), "/bin".into())
    );
    assert_eq!(run.args, ["/bin/zsh", "a"]);
    assert_eq!(stage.author, "Base <b@x>");
    let Work::MakeDir { path, user } = &stage.steps[0].work else { panic!() };
    assert_eq!((path.as_str(), user.as_str()), ("/srv/app", "app"));
    // Arguments were meant for the entrypoint that they came with.
    assert_eq!(plan("ENTRYPOINT [\"n\"]").stages[0].config.cmd, [""; 0]);
    assert_eq!(plan("CMD [\"c\"]\nENTRYPOINT [\"n\"]").stages[0].config.cmd, ["c"]);
    assert_eq!(plan("CMD [\"c\"]\nFROM z\nENTRYPOINT [\"n\"]").stages.last().unwrap().config.cmd, [""; 0]);
    assert_eq!(plan("CMD [\"c\"]").stages[0].config.entrypoint, ["e"]);
    assert_eq!(plan("ENV A=3").stages[0].config.env, ["PATH=/bin", "A=3", "A=2", "E"]);
}

#[test]
fn history_is_written_as_buildkit_writes_it() {
    for (text, expected) in [
        ("ENV A=b C=\"d e\"", "ENV A=b C=d e"),
        ("ENV A b c", "ENV A=b c"),
        ("LABEL a=b", "LABEL a=b"),
        ("ARG A=1 B", "ARG A=1 B"),
        ("CMD [\"x\", \"y z\"]", r#"CMD ["x" "y z"]"#),
        ("CMD x \"y\"", r#"CMD ["/bin/sh" "-c" "x \"y\""]"#),
        ("ENTRYPOINT [\"x\"]", r#"ENTRYPOINT ["x"]"#),
        ("EXPOSE 80 1-2/udp", "EXPOSE [80/tcp 1/udp 2/udp]"),
        ("VOLUME /a /b", "VOLUME [/a /b]"),
        ("USER app", "USER app"),
        ("WORKDIR a", "WORKDIR /a"),
        ("SHELL [\"/bin/bash\", \"-c\"]", "SHELL [/bin/bash -c]"),
        ("STOPSIGNAL TERM", "STOPSIGNAL TERM"),
        ("MAINTAINER me", "MAINTAINER me"),
        (
            "HEALTHCHECK --interval=30s --retries=2 CMD a b",
            "HEALTHCHECK {Test:[CMD-SHELL a b] Interval:30s Timeout:0s StartPeriod:0s StartInterval:0s Retries:2}",
        ),
        ("ONBUILD RUN x", ""),
        ("RUN make all", "RUN /bin/sh -c make all # buildkit"),
        ("RUN [\"make\", \"all\"]", "RUN make all # buildkit"),
        ("RUN --mount=type=cache,target=/c --network=none x", "RUN /bin/sh -c x # buildkit"),
        ("COPY --chown=a:b --chmod=755 x y /d/", "COPY --chown=a:b --chmod=755 x y /d/ # buildkit"),
        ("COPY --link --parents x d", "COPY --parents x d # buildkit"),
        ("ADD https://x/y /z", "ADD https://x/y /z # buildkit"),
        ("COPY <<a <<b /d/\na\nb\n", "COPY <<a <<b /d/ # buildkit"),
    ] {
        assert_eq!(history(&format!("FROM scratch\n{text}")).last().unwrap(), expected, "{text}");
    }
    let text = "FROM scratch\nARG A=1 B\nARG C=2\nENV A=3\nRUN x";
    assert_eq!(history(text).last().unwrap(), "RUN |3 A=3 B= C=2 /bin/sh -c x # buildkit");
    let text = "FROM scratch AS a\nARG A=1\nFROM a\nARG A=2\nRUN x";
    assert_eq!(history(text).last().unwrap(), "RUN |1 A=2 /bin/sh -c x # buildkit");
}

#[test]
fn labels_of_the_build_come_last_and_only_at_the_end() {
    let labels = BTreeMap::from([("a".to_owned(), "build".to_owned())]);
    let plan = planned_with("FROM scratch AS x\nLABEL a=1 b=2\nFROM x", &PlanOptions { labels, ..options() });
    assert_eq!(plan.stages[0].config.labels["a"], "1");
    assert_eq!(
        plan.stages[1].config.labels,
        BTreeMap::from([("a", "build"), ("b", "2")].map(|(a, b)| (a.to_owned(), b.to_owned())))
    );
}

// ---------------------------------------------------------------- stages

/// Numbers of the stages that are planned, each with what it needs.
fn graph(text: &str, options: &PlanOptions) -> Vec<(usize, Vec<usize>)> {
    planned_with(text, options).stages.into_iter().map(|stage| (stage.number, stage.needs)).collect()
}

#[test]
fn only_stages_that_are_needed_are_planned() {
    let text = "FROM one AS a\nFROM two AS b\nFROM a AS c\nFROM three\nCOPY --from=b x y\nRUN --mount=from=C,target=/m x\nFROM four AS last";
    let graph_to = |target: &str| graph(text, &PlanOptions { target: Some(target.to_owned()), ..options() });
    assert_eq!(graph(text, &options()), [(4, vec![])]);
    assert_eq!(graph_to("3"), [(0, vec![]), (1, vec![]), (2, vec![0]), (3, vec![1, 2])]);
    assert_eq!(graph_to("C"), [(0, vec![]), (2, vec![0])]);
    let mut known = Known::default();
    try_plan(text, &PlanOptions { target: Some("c".to_owned()), ..options() }, &mut known).unwrap();
    assert_eq!(known.asked, ["one for linux/amd64"]);
}

#[test]
fn stages_are_found_by_name_and_number() {
    for (text, expected) in [
        ("FROM x AS a\nFROM scratch\nCOPY --from=a . .", Ground::Stage(0)),
        ("FROM x AS a\nFROM scratch\nCOPY --from=A . .", Ground::Stage(0)),
        ("FROM x\nFROM scratch\nCOPY --from=0 . .", Ground::Stage(0)),
        ("FROM x AS a\nFROM y AS a\nFROM scratch\nCOPY --from=a . .", Ground::Stage(1)),
        ("FROM x AS a\nFROM scratch AS b\nCOPY --from=a . .\nFROM z AS a\nFROM b", Ground::Stage(0)),
        ("FROM x\nFROM scratch\nCOPY --from=alpine . .", Ground::Image("alpine".to_owned())),
        ("FROM x\nFROM scratch\nCOPY --from=ctx . .", Ground::Context("ctx".to_owned())),
        (
            "FROM x\nFROM scratch\nCOPY --from=docker.io/library/img:latest . .",
            Ground::Context("img".to_owned()),
        ),
        ("FROM x\nFROM scratch\nCOPY --from=img:2 . .", Ground::Image("img:2".to_owned())),
        ("FROM scratch\nCOPY --from=scratch . .", Ground::Scratch),
    ] {
        let contexts = ["ctx", "img"].map(str::to_owned).into();
        let plan = planned_with(text, &PlanOptions { contexts, ..options() });
        let steps: Vec<&Step> = plan.stages.iter().flat_map(|stage| &stage.steps).collect();
        assert_eq!(copy_of(steps.last().unwrap()).from, From::Ground(expected), "{text}");
    }
    let grounds = |text: &str| -> Vec<Ground> {
        let contexts = BTreeSet::from(["ctx".to_owned(), "b".to_owned()]);
        planned_with(text, &PlanOptions { contexts, ..options() })
            .stages
            .into_iter()
            .map(|stage| stage.ground)
            .collect()
    };
    // A stage may be called as the image it stands on.
    assert_eq!(grounds("FROM debian AS debian"), [Ground::Image("debian".to_owned())]);
    assert_eq!(grounds("FROM ctx:latest"), [Ground::Context("ctx".to_owned())]);
    assert_eq!(grounds("ARG I=x\nFROM $I:1"), [Ground::Image("x:1".to_owned())]);
    assert_eq!(grounds("FROM scratch AS a\nFROM a"), [Ground::Scratch, Ground::Stage(0)]);
    // A context takes the place of a stage, which is not done then.
    let contexts = BTreeSet::from(["b".to_owned()]);
    let text = "FROM x AS a\nFROM a AS b\nRUN never\nFROM b\nCOPY --from=b x y";
    let plan = planned_with(text, &PlanOptions { contexts, ..options() });
    let stages: Vec<(usize, &Ground, usize)> =
        plan.stages.iter().map(|stage| (stage.number, &stage.ground, stage.steps.len())).collect();
    assert_eq!(stages, [(1, &Ground::Context("b".to_owned()), 0), (2, &Ground::Stage(1), 1)]);
}

#[test]
fn what_a_base_leaves_to_be_done_is_done_first() {
    let base = json!({ "OnBuild": ["ARG V=1", "COPY --from=first $V /in", "RUN <<EOF\nmake\nEOF"] });
    let mut known = Known::with("base", &base);
    let text = "FROM x AS first\nFROM base AS second\nRUN own\nONBUILD ENV A=b\nFROM second\nRUN end";
    let options = PlanOptions { target: Some("1".to_owned()), ..options() };
    let plan = try_plan(text, &options, &mut known).unwrap();
    assert_eq!(plan.stages.iter().map(|stage| stage.number).collect::<Vec<_>>(), [0, 1]);
    let stage = &plan.stages[1];
    assert_eq!(stage.needs, [0]);
    let shown: Vec<&str> = stage.steps.iter().map(|step| step.shown.as_str()).collect();
    assert_eq!(
        shown,
        [
            "ONBUILD ARG V=1",
            "ONBUILD COPY --from=first $V /in",
            "ONBUILD RUN <<EOF (make)",
            "RUN own",
            "ONBUILD ENV A=b"
        ]
    );
    assert_eq!(copy_of(&stage.steps[1]).sources, ["1"]);
    assert_eq!(run_of(&stage.steps[2]).args, ["/bin/sh", "-c", "make\n"]);
    assert_eq!(stage.steps[1].lines, (2, 2));
    assert_eq!(stage.config.other["OnBuild"], json!(["ENV A=b"]));
    // A stage leaves it for those that stand on it, and they do not leave it on.
    let plan = try_plan(
        "FROM scratch AS a\nONBUILD ENV A=b\nFROM a AS c\nRUN x\nFROM c",
        &PlanOptions::default(),
        &mut known,
    )
    .unwrap();
    assert_eq!(plan.stages[1].steps[0].created_by, "ENV A=b");
    assert_eq!(env(run_of(&plan.stages[1].steps[1]), "A").unwrap(), "b");
    assert!(plan.stages[2].steps.is_empty() && !plan.stages[2].config.other.contains_key("OnBuild"));
}

#[test]
fn what_cannot_be_planned_is_said_with_the_line_and_what_to_do() {
    for (text, target, parts) in [
        (
            "FROM x AS a\nFROM scratch AS c\nCOPY --from=b x y\nFROM y AS b\nFROM c",
            None,
            &["line 3", "COPY --from=b x y", "stage b is only made after", "from line 4 on"][..],
        ),
        ("FROM x AS a\nCOPY --from=a x y", None, &["line 2", "stage a cannot take files from itself"]),
        ("FROM x\nRUN --mount=from=0,target=/x y", None, &["line 2", "stage 0 cannot take"]),
        ("FROM x\nCOPY --from=7 x y", None, &["line 2", "no stage 7", "there are 1 stage, from 0"]),
        (
            "FROM x AS a\nCOPY --from=b x y\nFROM a AS b\nFROM scratch",
            None,
            &["line 1", "wait for each other", "stage a", "stage b"],
        ),
        ("FROM x\nRUN --mount=from=$X,target=/y z", None, &["line 2", "from=$X"]),
        ("FROM x AS build\nFROM y", Some("biuld"), &["no stage \"biuld\"", "did you mean build?"]),
        ("FROM x\nFROM y", Some("zzz"), &["there are 2 stages, from 0"]),
        ("FROM x AS a\nFROM y", Some("zzz"), &["hint: there are a"]),
        ("FROM $X", None, &["line 1", "is empty", "ARG NAME=VALUE"]),
        ("FROM --platform=$X y", None, &["line 1", "platform"]),
        ("FROM --platform=linux/a/b/c y", None, &["line 1", "more than three parts"]),
        ("FROM scratch\nENV A=${B:?no}", None, &["line 2", "ENV", "no"]),
        ("FROM scratch\nENV A=${", None, &["line 2"]),
        ("FROM scratch\nEXPOSE 80/x", None, &["line 2", "EXPOSE 80/x", "tcp, udp nor sctp"]),
        ("FROM scratch\nSTOPSIGNAL NOTHING", None, &["line 2", "no signal"]),
        ("FROM scratch\nENV V=\nVOLUME $V", None, &["line 3", "has no name"]),
        ("FROM scratch\nCOPY https://x /y", None, &["line 2", "write ADD"]),
        ("FROM scratch\nCOPY --chmod=9 x /y", None, &["line 2", "no mode"]),
        ("FROM scratch\nCOPY --chmod=77777 x /y", None, &["line 2", "no mode"]),
        ("FROM scratch\nADD --checksum=sha256:x x /y", None, &["line 2", "--checksum"]),
        ("FROM scratch\nRUN --device=a x", None, &["line 2", "--device=a"]),
        ("FROM scratch\nRUN --mount=target=/ x", None, &["line 2", "no target"]),
        ("FROM scratch\nRUN --mount=type=cache x", None, &["line 2", "no target"]),
        (
            "FROM nothing AS x\nFROM scratch AS nothin\nFROM x",
            None,
            &["line 1", "did you mean the stage nothin?"],
        ),
        ("FROM nol AS x\nFROM scratch AS nol\nFROM x", None, &["line 1", "move stage nol, from line 2 on"]),
    ] {
        let options = PlanOptions { target: target.map(str::to_owned), ..options() };
        let said = refused(text, &options);
        assert!(parts.iter().all(|part| said.contains(part)), "{text:?}\n{said}");
    }
}

// ---------------------------------------------------------------- RUN

#[test]
fn commands_are_run_as_they_were_written() {
    for (text, args) in [
        ("RUN a && b", &["/bin/sh", "-c", "a && b"][..]),
        ("RUN a \\\n  b", &["/bin/sh", "-c", "a   b"]),
        ("RUN [\"a\", \"$b c\"]", &["a", "$b c"]),
        ("RUN $A \"$B\"", &["/bin/sh", "-c", "$A \"$B\""]),
        ("SHELL [\"/bin/bash\", \"-e\"]\nRUN a", &["/bin/bash", "-e", "a"]),
        ("RUN <<EOF\na\nb $X\nEOF", &["/bin/sh", "-c", "a\nb $X\n"]),
        ("RUN <<-EOF\n\ta\n\tEOF", &["/bin/sh", "-c", "a\n"]),
        ("RUN <<'EOF'\na\nEOF", &["/bin/sh", "-c", "a\n"]),
        ("RUN <<\"EOF\"\na\nEOF", &["/bin/sh", "-c", "a\n"]),
        ("RUN cat <<EOF > /x\na\nEOF", &["/bin/sh", "-c", "cat <<EOF > /x\na\nEOF"]),
        ("RUN <<EOF cat\na\nEOF", &["/bin/sh", "-c", "<<EOF cat\na\nEOF"]),
        ("RUN <<A <<B cat\na\nA\nb\nB", &["/bin/sh", "-c", "<<A <<B cat\na\nA\nb\nB"]),
        ("SHELL [\"/bin/zsh\"]\nRUN <<EOF\na\nEOF", &["/bin/zsh", "a\n"]),
    ] {
        let run = run(&format!("FROM scratch\n{text}"));
        assert_eq!(run.args, args, "{text}");
        assert!(run.files.is_empty(), "{text}");
    }
    let run = run("FROM scratch\nRUN <<EOF\n#!/usr/bin/env python3\nprint(1)\nEOF");
    assert_eq!(run.args, ["/dev/pipes/EOF"]);
    assert_eq!(
        run.files,
        [("/dev/pipes/EOF".to_owned(), "#!/usr/bin/env python3\nprint(1)\n".to_owned(), 0o755)]
    );
}

#[test]
fn walls_and_networks_are_chosen() {
    let of = |text: &str| {
        let run = run(&format!("FROM scratch\n{text}"));
        (run.network, run.security)
    };
    assert_eq!(of("RUN x"), (Network::Default, Security::Sandbox));
    assert_eq!(of("RUN --network=none --security=insecure x"), (Network::None, Security::Insecure));
    assert_eq!(of("RUN --network=host --security=sandbox x"), (Network::Host, Security::Sandbox));
    let plan = planned_with(
        "FROM scratch\nRUN x\nRUN --network=host x",
        &PlanOptions { network: Network::None, ..options() },
    );
    let networks: Vec<Network> = plan.stages[0].steps.iter().map(|step| run_of(step).network).collect();
    assert_eq!(networks, [Network::None, Network::Host]);
}

#[test]
fn mounts_have_the_defaults_of_buildkit() {
    let owner = |uid, gid, mode| Owner { uid, gid, mode };
    let bind = |from, source: &str, writable| MountKind::Bind { from, source: source.to_owned(), writable };
    let cache = |id: &str, sharing, owner| MountKind::Cache {
        id: id.to_owned(),
        sharing,
        from: None,
        source: "/".to_owned(),
        read_only: false,
        owner,
    };
    let secret = |id: &str, env: Option<&str>, is_file, owner| MountKind::Secret {
        id: id.to_owned(),
        required: false,
        env: env.map(str::to_owned),
        is_file,
        owner,
    };
    for (text, target, kind) in [
        ("target=/x", "/x", bind(None, "/", false)),
        ("type=bind,source=../a/b,dst=x,rw", "/w/x", bind(None, "/a/b", true)),
        ("from=a,src=$S,target=/x", "/x", bind(Some(Ground::Stage(0)), "/s", false)),
        ("type=cache,target=/c/", "/c", cache("/c", Sharing::Shared, owner(0, 0, 0o755))),
        ("type=cache,target=c/d", "/w/c/d", cache("c/d", Sharing::Shared, owner(0, 0, 0o755))),
        (
            "type=cache,id=$S,target=/c,sharing=locked,uid=1,gid=2,mode=0700",
            "/c",
            cache("s", Sharing::Locked, owner(1, 2, 0o700)),
        ),
        ("type=tmpfs,target=/t", "/t", MountKind::Tmpfs { size: None }),
        ("type=tmpfs,target=/t,size=1m", "/t", MountKind::Tmpfs { size: Some(1 << 20) }),
        ("type=secret,id=a/b", "/run/secrets/b", secret("a/b", None, true, owner(0, 0, 0o400))),
        ("type=secret,target=/k/x", "/k/x", secret("x", None, true, owner(0, 0, 0o400))),
        ("type=secret,id=t,env=T", "/run/secrets/t", secret("t", Some("T"), false, owner(0, 0, 0o400))),
        (
            "type=secret,id=t,env=T,target=/t,mode=0444,uid=5",
            "/t",
            secret("t", Some("T"), true, owner(5, 0, 0o444)),
        ),
        (
            "type=ssh",
            "/run/buildkit/ssh_agent.0",
            MountKind::Ssh { id: "default".to_owned(), required: false, owner: owner(0, 0, 0o600) },
        ),
        (
            "type=ssh,id=x,required,target=/s",
            "/s",
            MountKind::Ssh { id: "x".to_owned(), required: true, owner: owner(0, 0, 0o600) },
        ),
    ] {
        let text = format!("FROM scratch AS a\nFROM scratch\nENV S=s\nWORKDIR /w\nRUN --mount={text} x");
        assert_eq!(run(&text).mounts, [RunMount { target: target.to_owned(), kind }], "{text}");
    }
    let run = run("FROM scratch\nRUN --mount=type=ssh --mount=type=tmpfs,target=/t --mount=type=ssh,id=b x");
    let targets: Vec<&str> = run.mounts.iter().map(|mount| mount.target.as_str()).collect();
    assert_eq!(targets, ["/run/buildkit/ssh_agent.0", "/t", "/run/buildkit/ssh_agent.1"]);
}

// ---------------------------------------------------------------- COPY

#[test]
fn copies_are_expanded_and_stay_inside() {
    let copy = |text: &str| {
        let stage = last(&format!("FROM scratch\nENV S=s D=/d U=app\nWORKDIR /w\n{text}"));
        copy_of(stage.steps.last().unwrap()).clone()
    };
    for (text, sources, destination) in [
        ("COPY a b", &["a"][..], "/w/b"),
        ("COPY a b /c/", &["a", "b"], "/c/"),
        ("COPY $S ${S}x $D/y/", &["s", "sx"], "/d/y/"),
        ("COPY . .", &["."], "/w/"),
        ("COPY ../../a /../b/", &["a"], "/b/"),
        ("COPY /a/b ./", &["a/b"], "/w/"),
        ("COPY *.c /", &["*.c"], "/"),
        ("COPY [\"a b\", \"/c d/\"]", &["a b"], "/c d/"),
        ("COPY --parents a/./b/../c /x/", &["a/./c"], "/x/"),
        ("COPY --parents ../a/*/b /x/", &["a/*/b"], "/x/"),
        ("ADD https://h/a.tar?x=$S /x", &["https://h/a.tar?x=s"], "/x"),
        ("ADD git@h:a/b.git /x", &["git@h:a/b.git"], "/x"),
        ("ADD a.tar /x", &["a.tar"], "/x"),
    ] {
        let step = copy(text);
        assert_eq!(
            (
                step.sources.iter().map(String::as_str).collect::<Vec<_>>().as_slice(),
                step.destination.as_str()
            ),
            (sources, destination),
            "{text}"
        );
        assert_eq!(step.is_add, text.starts_with("ADD"));
    }
    let step = copy("COPY --from=img --chown=$U:$U --chmod=u+x --link --exclude=*.o --exclude=x a /b");
    assert_eq!(step.from, From::Ground(Ground::Image("img".to_owned())));
    assert_eq!(
        (step.chown.as_deref(), step.chmod.as_deref(), step.link),
        (Some("app:app"), Some("u+x"), true)
    );
    assert_eq!(step.exclude, ["*.o", "x"]);
    let step = copy("ADD --checksum=sha256:$S --keep-git-dir=true --unpack=false https://x/y /z");
    assert_eq!(
        (step.checksum.as_deref(), step.keep_git_dir, step.unpack),
        (Some("sha256:s"), true, Some(false))
    );
}

#[test]
fn files_in_the_recipe_are_expanded_unless_quoted() {
    let stage = last(
        "FROM scratch\nENV A=1\nCOPY <<a <<\"b\" <<-c /d/\n$A \"${A}\" \\$A 'x'\na\n$A\nb\n\tt $A\n\tc\n",
    );
    let copy = copy_of(&stage.steps[1]);
    let heredoc = |name: &str, content: &str| Heredoc { name: name.to_owned(), content: content.to_owned() };
    assert_eq!(
        copy.heredocs,
        [heredoc("a", "1 \"1\" $A 'x'\n"), heredoc("b", "$A\n"), heredoc("c", "t 1\n")]
    );
    assert!(copy.sources.is_empty());
}

#[test]
fn a_comment_marks_where_a_layer_ends() {
    let stage = last("FROM scratch\nRUN a\n# rootling: layer\nRUN b\n# something\nRUN c");
    assert_eq!(stage.steps.iter().map(|step| step.is_marked).collect::<Vec<_>>(), [false, true, false]);
}

#[test]
fn steps_say_where_they_stand() {
    let stage = last("# x\nFROM scratch\n\nRUN a \\\n  b\nCOPY <<EOF /x\n1\n2\nEOF\nenv A=b");
    let lines: Vec<_> = stage.steps.iter().map(|step| (step.lines, step.shown.as_str())).collect();
    assert_eq!(lines, [((4, 5), "RUN a   b"), ((6, 9), "COPY <<EOF /x (1...)"), ((10, 10), "env A=b")]);
    assert_eq!((stage.lines, stage.shown.as_str()), ((2, 2), "FROM scratch"));
}

#[test]
fn many_stages_are_no_danger() {
    let mut text = "FROM scratch AS s0\n".to_owned();
    for number in 1..3000 {
        writeln!(text, "FROM s{} AS s{number}\nENV A{number}=1", number - 1).unwrap();
    }
    assert_eq!(planned(&text).stages.len(), 3000);
}

// ---------------------------------------------------------------- anything

/// Pieces that files are made of: names are few, so that they meet.
fn piece() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        "[a-c]",
        "\\$[A-C]",
        "\\$\\{[A-C](:[-+?][a-c]?)?\\}",
        "/[a-c]/?",
        "\\.\\./[a-c]",
        "[0-9]{1,6}(-[0-9]{1,5})?(/udp)?",
        "\"[a-c $]*\"",
        "[\\PC]{0,4}",
    ];
    let keywords = [
        "RUN",
        "RUN",
        "COPY",
        "COPY",
        "ADD",
        "ENV",
        "ENV",
        "ARG",
        "ARG",
        "LABEL",
        "EXPOSE",
        "VOLUME",
        "USER",
        "WORKDIR",
        "CMD",
        "ENTRYPOINT",
        "STOPSIGNAL",
        "HEALTHCHECK CMD",
        "ONBUILD RUN",
        "ONBUILD COPY --from=a",
    ];
    let line = (prop::sample::select(keywords.to_vec()), prop::collection::vec(word.clone(), 0..4))
        .prop_map(|(keyword, words)| format!("{keyword} {}", words.join(" ")));
    let flags = "(from|mount|chown|chmod|platform|network|checksum|exclude)";
    let flagged = ("(COPY|ADD|RUN|FROM)", flags, word.clone(), word.clone(), word.clone())
        .prop_map(|(keyword, flag, value, a, b)| format!("{keyword} --{flag}={value} {a} {b}"));
    let keys = "(target|source|from|id|mode|size|sharing|env)";
    let mount = ("(bind|cache|tmpfs|secret|ssh|\\$A)", keys, word.clone(), word)
        .prop_map(|(kind, key, value, run)| format!("RUN --mount=type={kind},target=/t,{key}={value} {run}"));
    prop_oneof![
        3 => "FROM ([a-c]|scratch|\\$[A-C])( AS [a-c])?",
        16 => line,
        3 => flagged,
        2 => mount,
        1 => "[A-C]{1}".prop_map(|name| format!("ENV {name}=1 B=$A")),
        1 => Just("RUN <<A cat\n$B\nA".to_owned()),
        1 => Just("COPY <<A /x\n$B ${A:-x}\nA".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_can_be_read_is_planned_or_refused(
        pieces in prop::collection::vec(piece(), 0..12), from in prop::option::of("[a-c]|[0-3]"), context in "[a-c]", arg in "[A-C]",
    ) {
        let text = format!("ARG A=a\nFROM scratch\n{}", pieces.join("\n"));
        let Ok(file) = parse(text.as_bytes()) else { return Ok(()) };
        let options = PlanOptions {
            target: from,
            contexts: BTreeSet::from([context]),
            args: BTreeMap::from([(arg, "x".to_owned())]),
            ..options()
        };
        if let Ok(plan) = plan(&file, &options, &mut Known::with("a", &json!({"OnBuild": ["RUN $A", "COPY --from=b x y"]}))) {
            let numbers: Vec<usize> = plan.stages.iter().map(|stage| stage.number).collect();
            prop_assert!(numbers.is_sorted() && numbers.last() == Some(&plan.target), "{numbers:?}");
            for stage in &plan.stages {
                prop_assert!(stage.needs.iter().all(|need| *need < stage.number && numbers.contains(need)));
                for step in &stage.steps {
                    if let Work::Run(run) = &step.work {
                        prop_assert!(run.workdir.starts_with('/') && !run.args.is_empty());
                        prop_assert!(run.mounts.iter().all(|mount| mount.target.starts_with('/')));
                    }
                    if let Work::Copy(copy) = &step.work {
                        prop_assert!(copy.destination.starts_with('/'));
                    }
                }
            }
        }
    }
}
