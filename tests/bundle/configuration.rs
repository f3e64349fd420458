//! `config.json`, field by field, and whether it is one by the words of the specification.

use serde_json::{Value, json};

use crate::environment::{Environment, is_root};

fn dry(environment: &Environment, arguments: &[&str]) -> Value {
    let directory = environment.path("b").to_string_lossy().into_owned();
    let (flags, rest) =
        arguments.split_at(arguments.iter().position(|word| *word == "--").unwrap_or(arguments.len()));
    let value = environment.json([&["bundle", "--dry-run"], flags, &["base", &directory], rest].concat());
    assert!(!environment.path("b").exists(), "it was printed only");
    conforms(&value);
    value
}

/// What a value must be.
enum Is {
    Text,
    Flag,
    /// Between these.
    Number(i64, u64),
    /// One of these.
    Word(&'static [&'static str]),
    List(&'static Is),
    /// Text by any key.
    Texts,
    /// The fields that there may be, and which of them must be there.
    Object(&'static [(&'static str, Is)], &'static [&'static str]),
}

use Is::{Flag, List, Number, Object, Text, Texts, Word};

const INT64: Is = Number(i64::MIN, i64::MAX as u64);
const UINT64: Is = Number(0, u64::MAX);
const UINT32: Is = Number(0, u32::MAX as u64);
const IDS: Is = Object(
    &[("containerID", UINT32), ("hostID", UINT32), ("size", UINT32)],
    &["containerID", "hostID", "size"],
);
const OFFSET: Is = Object(&[("secs", INT64), ("nanosecs", UINT32)], &[]);
const THROTTLE: Is = Object(&[("major", INT64), ("minor", INT64), ("rate", UINT64)], &["major", "minor"]);
const ACTION: Is = Word(&[
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_LOG",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_KILL_PROCESS",
]);

/// What the specification says of the fields that we write (config.md, config-linux.md and schema/ of version 1.1); those that it has besides are
/// not among them, because nothing here writes them.
const CONFIGURATION: Is = Object(
    &[
        ("ociVersion", Word(&["1.0.2", "1.1.0"])),
        ("hostname", Text),
        ("annotations", Texts),
        ("root", Object(&[("path", Text), ("readonly", Flag)], &["path"])),
        (
            "process",
            Object(
                &[
                    ("terminal", Flag),
                    (
                        "user",
                        Object(
                            &[("uid", UINT32), ("gid", UINT32), ("additionalGids", List(&UINT32))],
                            &["uid", "gid"],
                        ),
                    ),
                    ("args", List(&Text)),
                    ("env", List(&Text)),
                    ("cwd", Text),
                    (
                        "capabilities",
                        Object(
                            &[
                                ("bounding", List(&Text)),
                                ("effective", List(&Text)),
                                ("permitted", List(&Text)),
                            ],
                            &[],
                        ),
                    ),
                    (
                        "rlimits",
                        List(&Object(
                            &[("type", Text), ("soft", UINT64), ("hard", UINT64)],
                            &["type", "soft", "hard"],
                        )),
                    ),
                    ("noNewPrivileges", Flag),
                    ("oomScoreAdj", Number(-1000, 1000)),
                ],
                &["cwd", "args"],
            ),
        ),
        (
            "mounts",
            List(&Object(
                &[("destination", Text), ("type", Text), ("source", Text), ("options", List(&Text))],
                &["destination", "type", "source"],
            )),
        ),
        (
            "linux",
            Object(
                &[
                    (
                        "namespaces",
                        List(&Object(
                            &[
                                (
                                    "type",
                                    Word(&[
                                        "mount", "pid", "network", "uts", "ipc", "user", "cgroup", "time",
                                    ]),
                                ),
                                ("path", Text),
                            ],
                            &["type"],
                        )),
                    ),
                    ("uidMappings", List(&IDS)),
                    ("gidMappings", List(&IDS)),
                    ("timeOffsets", Object(&[("monotonic", OFFSET), ("boottime", OFFSET)], &[])),
                    (
                        "devices",
                        List(&Object(
                            &[
                                ("path", Text),
                                ("type", Word(&["c", "b"])),
                                ("major", INT64),
                                ("minor", INT64),
                                ("fileMode", Number(0, 511)),
                                ("uid", UINT32),
                                ("gid", UINT32),
                            ],
                            &["type", "path"],
                        )),
                    ),
                    (
                        "resources",
                        Object(
                            &[
                                (
                                    "devices",
                                    List(&Object(
                                        &[
                                            ("allow", Flag),
                                            ("type", Word(&["c", "b"])),
                                            ("major", INT64),
                                            ("minor", INT64),
                                            ("access", Word(&["rwm"])),
                                        ],
                                        &["allow"],
                                    )),
                                ),
                                (
                                    "memory",
                                    Object(&[("limit", INT64), ("swap", INT64), ("reservation", INT64)], &[]),
                                ),
                                (
                                    "cpu",
                                    Object(
                                        &[
                                            ("shares", UINT64),
                                            ("quota", INT64),
                                            ("period", UINT64),
                                            ("cpus", Text),
                                            ("mems", Text),
                                        ],
                                        &[],
                                    ),
                                ),
                                ("pids", Object(&[("limit", INT64)], &["limit"])),
                                (
                                    "blockIO",
                                    Object(
                                        &[
                                            ("weight", Number(10, 1000)),
                                            ("throttleReadBpsDevice", List(&THROTTLE)),
                                            ("throttleWriteBpsDevice", List(&THROTTLE)),
                                            ("throttleReadIOPSDevice", List(&THROTTLE)),
                                            ("throttleWriteIOPSDevice", List(&THROTTLE)),
                                        ],
                                        &[],
                                    ),
                                ),
                            ],
                            &[],
                        ),
                    ),
                    ("sysctl", Texts),
                    (
                        "seccomp",
                        Object(
                            &[
                                ("defaultAction", ACTION),
                                ("defaultErrnoRet", UINT32),
                                (
                                    "architectures",
                                    List(&Word(&[
                                        "SCMP_ARCH_X86_64",
                                        "SCMP_ARCH_X86",
                                        "SCMP_ARCH_AARCH64",
                                        "SCMP_ARCH_ARM",
                                        "SCMP_ARCH_RISCV64",
                                    ])),
                                ),
                                ("flags", List(&Text)),
                                (
                                    "syscalls",
                                    List(&Object(
                                        &[
                                            ("names", List(&Text)),
                                            ("action", ACTION),
                                            ("errnoRet", UINT32),
                                            (
                                                "args",
                                                List(&Object(
                                                    &[
                                                        ("index", Number(0, 5)),
                                                        ("value", UINT64),
                                                        ("valueTwo", UINT64),
                                                        (
                                                            "op",
                                                            Word(&[
                                                                "SCMP_CMP_NE",
                                                                "SCMP_CMP_LT",
                                                                "SCMP_CMP_LE",
                                                                "SCMP_CMP_EQ",
                                                                "SCMP_CMP_GE",
                                                                "SCMP_CMP_GT",
                                                                "SCMP_CMP_MASKED_EQ",
                                                            ]),
                                                        ),
                                                    ],
                                                    &["index", "value", "op"],
                                                )),
                                            ),
                                        ],
                                        &["names", "action"],
                                    )),
                                ),
                            ],
                            &["defaultAction"],
                        ),
                    ),
                    ("maskedPaths", List(&Text)),
                    ("readonlyPaths", List(&Text)),
                ],
                &[],
            ),
        ),
    ],
    &["ociVersion"],
);

fn check(value: &Value, is: &Is, place: &str) {
    match is {
        Text => assert!(value.is_string(), "{place}: {value}"),
        Flag => assert!(value.is_boolean(), "{place}: {value}"),
        Number(least, most) => {
            let fits = value
                .as_i64()
                .is_some_and(|number| number >= *least && (number < 0 || number.unsigned_abs() <= *most))
                || value.as_u64().is_some_and(|number| number <= *most);
            assert!(fits, "{place}: {value}");
        }
        Word(words) => assert!(words.contains(&value.as_str().unwrap_or_default()), "{place}: {value}"),
        List(each) => {
            let list = value.as_array().unwrap_or_else(|| panic!("{place}: {value}"));
            list.iter().enumerate().for_each(|(index, one)| check(one, each, &format!("{place}[{index}]")));
        }
        Texts => {
            let map = value.as_object().unwrap_or_else(|| panic!("{place}: {value}"));
            assert!(map.iter().all(|(key, value)| !key.is_empty() && value.is_string()), "{place}: {value}");
        }
        Object(fields, required) => {
            let map = value.as_object().unwrap_or_else(|| panic!("{place}: {value}"));
            for (key, value) in map {
                let (_, is) = fields
                    .iter()
                    .find(|(known, _)| known == key)
                    .unwrap_or_else(|| panic!("{place}.{key} is in no specification"));
                check(value, is, &format!("{place}.{key}"));
            }
            required.iter().for_each(|key| assert!(map.contains_key(*key), "{place}.{key} is missing"));
        }
    }
}

/// What the specification demands that is more than a form.
fn conforms(value: &Value) {
    check(value, &CONFIGURATION, "config");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    assert!(text(&value["process"]["cwd"]).starts_with('/'));
    assert!(!value["process"]["args"].as_array().unwrap().is_empty());
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for mount in list(&value["mounts"]) {
        assert!(text(&mount["destination"]).starts_with('/'), "{mount}");
        let is_bind = list(&mount["options"]).iter().any(|option| option == "bind" || option == "rbind");
        assert_eq!(is_bind, mount["type"] == "bind", "{mount}");
    }
    let mut kinds: Vec<String> =
        list(&value["linux"]["namespaces"]).iter().map(|one| text(&one["type"])).collect();
    let (count, has) = (kinds.len(), |kind: &str, kinds: &[String]| kinds.iter().any(|one| one == kind));
    assert_eq!(value["hostname"].is_string(), has("uts", &kinds), "a name of its own takes a namespace");
    assert_eq!(value["linux"]["timeOffsets"].is_object(), has("time", &kinds));
    kinds.sort();
    kinds.dedup();
    assert_eq!(kinds.len(), count, "one of each");
    let mut limits: Vec<String> =
        list(&value["process"]["rlimits"]).iter().map(|one| text(&one["type"])).collect();
    let count = limits.len();
    limits.sort();
    limits.dedup();
    assert_eq!(limits.len(), count, "one of each");
    assert!(limits.iter().all(|name| name.starts_with("RLIMIT_")));
    for set in ["bounding", "effective", "permitted"] {
        for name in list(&value["process"]["capabilities"][set]) {
            assert!(text(&name).starts_with("CAP_") && text(&name) == text(&name).to_uppercase(), "{name}");
        }
    }
}

#[test]
fn the_configuration_says_what_was_asked_for() {
    if !is_root() {
        return;
    }
    let environment = Environment::new();
    environment.import_base();
    let plain = dry(&environment, &["--", "tool", "a b"]);
    assert_eq!(plain["ociVersion"], "1.1.0");
    assert_eq!(plain["process"]["args"], json!(["tool", "a b"]));
    assert_eq!(plain["process"]["user"], json!({ "uid": 0, "gid": 0 }));
    assert_eq!(plain["process"]["cwd"], "/");
    assert_eq!(plain["process"]["terminal"], false);
    assert_eq!(plain["process"]["noNewPrivileges"], true);
    assert_eq!(plain["root"], json!({ "path": "rootfs", "readonly": false }));
    assert_eq!(plain["hostname"], "b");
    let kinds: Vec<_> =
        plain["linux"]["namespaces"].as_array().unwrap().iter().map(|one| &one["type"]).collect();
    assert_eq!(
        kinds,
        ["mount", "pid", "ipc", "uts", "cgroup"].map(|kind| json!(kind)).iter().collect::<Vec<_>>(),
        "the tests ask for the host's network"
    );
    assert_eq!(plain["linux"]["resources"], json!({ "devices": [{ "allow": false, "access": "rwm" }] }));
    assert!(plain["linux"]["maskedPaths"].as_array().unwrap().contains(&json!("/proc/kcore")));
    assert!(plain["linux"]["readonlyPaths"].as_array().unwrap().contains(&json!("/proc/sys")));
    assert_eq!(plain["linux"]["seccomp"]["defaultErrnoRet"], 38);
    let variables = plain["process"]["env"].as_array().unwrap();
    assert!(
        variables.contains(&json!("container=oci"))
            && !variables.iter().any(|one| one.as_str().unwrap().starts_with("TERM="))
    );

    let asked = dry(
        &environment,
        &[
            "-t",
            "--net",
            "none",
            "--memory",
            "64m",
            "--memory-reservation",
            "32m",
            "--cpus",
            "1.5",
            "--cpu-shares",
            "512",
            "--cpuset-cpus",
            "0",
            "--pids-limit",
            "-1",
            "--io-weight",
            "300",
            "--oom-score-adj",
            "-5",
            "--ulimit",
            "nofile=1024:unlimited",
            "--sysctl",
            "net/ipv4/ip_forward=1",
            "--device",
            "/dev/null:/dev/nothing",
            "--clock-offset",
            "monotonic=-1.5,boottime=3",
            "--cap-drop",
            "all",
            "--cap-add",
            "chown",
            "--security-opt",
            "seccomp=unconfined",
            "--user",
            "7:8",
            "--workdir",
            "/etc",
            "--tmpfs",
            "/run:size=1m",
            "-v",
            "/etc:/usr/etc:ro,rslave",
            "--cgroupns",
            "host",
            "--",
            "tool",
        ],
    );
    assert_eq!(asked["process"]["terminal"], true);
    assert!(asked["process"]["env"].as_array().unwrap().contains(&json!("TERM=xterm")));
    assert_eq!(asked["process"]["user"], json!({ "uid": 7, "gid": 8 }));
    assert_eq!(asked["process"]["cwd"], "/etc");
    assert_eq!(
        asked["process"]["rlimits"],
        json!([{ "type": "RLIMIT_NOFILE", "soft": 1024, "hard": u64::MAX }])
    );
    assert_eq!(asked["process"]["oomScoreAdj"], -5);
    assert_eq!(asked["process"]["capabilities"]["effective"], json!(["CAP_CHOWN"]));
    let linux = &asked["linux"];
    assert!(linux.get("seccomp").is_none());
    assert_eq!(
        linux["resources"]["memory"],
        json!({ "limit": 64 << 20, "swap": 128 << 20, "reservation": 32 << 20 })
    );
    assert_eq!(
        linux["resources"]["cpu"],
        json!({ "shares": 512, "quota": 150_000, "period": 100_000, "cpus": "0" })
    );
    assert_eq!(linux["resources"]["pids"], json!({ "limit": -1 }));
    assert_eq!(linux["resources"]["blockIO"], json!({ "weight": 300 }));
    let rule = json!({ "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm" });
    assert_eq!(linux["resources"]["devices"][1], rule);
    let node = json!({ "path": "/dev/nothing", "type": "c", "major": 1, "minor": 3, "fileMode": 438, "uid": 0, "gid": 0 });
    assert_eq!(linux["devices"], json!([node]));
    assert_eq!(linux["sysctl"], json!({ "net.ipv4.ip_forward": "1" }));
    let offsets = json!({ "monotonic": { "secs": -2, "nanosecs": 500_000_000 }, "boottime": { "secs": 3, "nanosecs": 0 } });
    assert_eq!(linux["timeOffsets"], offsets);
    let mount = |target: &str| {
        let mounts = asked["mounts"].as_array().unwrap();
        mounts.iter().find(|mount| mount["destination"] == target).cloned().unwrap_or_default()
    };
    let options = ["rbind", "rslave", "ro", "nosuid", "nodev", "rro", "rnosuid", "rnodev"];
    assert_eq!(
        mount("/usr/etc"),
        json!({ "destination": "/usr/etc", "type": "bind", "source": "/etc", "options": options })
    );
    assert_eq!(mount("/run")["options"], json!(["mode=1777", "size=1048576", "nosuid", "nodev", "noexec"]));
    assert_eq!(mount("/sys")["options"], json!(["nosuid", "noexec", "nodev", "ro"]));
    // Nothing in it is younger than that.
    let oldest = dry(&environment, &["--security-opt", "seccomp=unconfined", "--", "tool"]);
    assert_eq!(oldest["ociVersion"], "1.0.2");
    let open = dry(&environment, &["--privileged", "--", "tool"]);
    assert_eq!(open["linux"]["resources"]["devices"], json!([{ "allow": true, "access": "rwm" }]));
    assert_eq!(
        (&open["linux"]["maskedPaths"], &open["process"]["noNewPrivileges"]),
        (&json!([]), &json!(false))
    );
    environment.assert_tidy(&["base"]);
}

#[test]
fn what_the_image_says_of_itself_are_annotations() {
    if !is_root() {
        return;
    }
    let environment = Environment::new();
    environment.import_base();
    let script = r#"$R -q create base dev > $D/id
        $R -q commit dev app --change 'LABEL a=b org.opencontainers.image.os=mine' --change 'STOPSIGNAL SIGINT' --change 'EXPOSE 80 53/udp' \
            --change 'ENV TERM=dumb' --change 'USER 5' --change 'WORKDIR /srv' --change 'CMD ["x"]' > $D/id
        $R --format json bundle --dry-run app $D/b; $R -q save -o $D/app.tar app; $R -q rm --now dev app; $R -q pull docker-archive:$D/app.tar again > $D/id
        echo; echo =====; $R --format json bundle --dry-run again $D/b; $R -q rmi again > $D/id; $R -q prune --removed > $D/pruned"#;
    let printed = environment.script_ok(script);
    let (local, pulled) = printed.split_once("=====").unwrap();
    for text in [local, pulled] {
        let value: Value = serde_json::from_str(text).unwrap();
        conforms(&value);
        let said = &value["annotations"];
        assert_eq!((&said["a"], &said["org.opencontainers.image.os"]), (&json!("b"), &json!("mine")));
        assert_eq!(said["org.opencontainers.image.stopSignal"], "SIGINT");
        assert_eq!(said["org.opencontainers.image.exposedPorts"], "53/udp,80/tcp");
        assert!(said["org.opencontainers.image.architecture"].is_string());
        assert_eq!(value["process"]["user"]["uid"], 5);
        assert_eq!(value["process"]["cwd"], "/srv");
        assert!(value["process"]["env"].as_array().unwrap().contains(&json!("TERM=dumb")));
    }
    let pulled: Value = serde_json::from_str(pulled).unwrap();
    assert!(
        pulled["annotations"]["org.opencontainers.image.created"].is_string(),
        "{}",
        pulled["annotations"]
    );
}
