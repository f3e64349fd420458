//! Small Dockerfiles, each for an instruction or a flag: what they leave in the tree beside the base, and what the image says.

/// A Dockerfile, and what it makes.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) dockerfile: &'static str,
    /// What it adds to the tree, as [`super::Project::added`] lists it.
    pub(super) tree: &'static str,
    /// What is in the image's configuration, beside the path, which is `$PATH`.
    pub(super) config: &'static str,
    /// Does buildah make the same of it?
    pub(super) beside: bool,
}

/// Files of the context of all of them: `PATH CONTENT`, all of mode 644.
pub(super) const CONTEXT: &[(&str, &str)] = &[
    ("a", "one"),
    ("b.txt", "two"),
    ("c.txt", "three"),
    ("d/e", "four"),
    ("d/f/g", "five"),
    ("left.out", "nothing"),
    ("with space", "six"),
    (".dockerignore", "left.*\n"),
];

const fn case(
    name: &'static str,
    dockerfile: &'static str,
    tree: &'static str,
    config: &'static str,
) -> Case {
    Case { name, dockerfile, tree, config, beside: true }
}

/// What buildah of this age does not know, or does otherwise than BuildKit.
const fn ours(
    name: &'static str,
    dockerfile: &'static str,
    tree: &'static str,
    config: &'static str,
) -> Case {
    Case { name, dockerfile, tree, config, beside: false }
}

pub(super) const CASES: &[Case] = &[
    case(
        "RUN of a shell",
        "FROM base\nRUN echo $0 > /a && echo b >> /a\n",
        "f 644 0:0 a = /bin/sh|b\n",
        "{}",
    ),
    case("RUN of words", "FROM base\nRUN [\"touch\", \"/a $X\"]\n", "f 644 0:0 a $X = \n", "{}"),
    case(
        "RUN over several lines, with comments between",
        "FROM base\nRUN echo a \\\n# not this\n  b \\\n\n  c > /a\n",
        "f 644 0:0 a = a b c\n",
        "{}",
    ),
    case(
        "RUN as a user in a directory with variables",
        "FROM base\nRUN mkdir -m 777 /w\nUSER me\nENV A=b\nARG C=d\nWORKDIR /w\nRUN echo $A $C $(id -u):$(id -g) $(pwd) $HOME > x\n",
        "d 777 0:0 w\nf 644 1000:1000 w/x = b d 1000:1000 /w /\n",
        r#"{"User": "me", "WorkingDir": "/w", "Env": ["$PATH", "A=b"]}"#,
    ),
    ours(
        "RUN with a heredoc",
        "FROM base\nRUN <<X\necho a > /a\nX=b\necho $X >> /a\nX\n",
        "f 644 0:0 a = a|b\n",
        "{}",
    ),
    ours(
        "RUN with an interpreter in its heredoc",
        "FROM base\nRUN <<X cat > /a\n$A\nX\nRUN cat <<-X >/b\n\t\tb\n\tX\n",
        "f 644 0:0 a = \nf 644 0:0 b = b\n",
        "{}",
    ),
    ours(
        "RUN with a hash bang",
        "FROM base\nRUN <<X\n#!/bin/cat\nno more\nX\nRUN echo a > /a\n",
        "f 644 0:0 a = a\n",
        "{}",
    ),
    case("COPY of a file", "FROM base\nCOPY a /new\n", "f 644 0:0 new = one\n", "{}"),
    case(
        "COPY of files and wildcards into a directory that is made",
        "FROM base\nCOPY a *.txt /x/y/\n",
        "d 755 0:0 x\nd 755 0:0 x/y\nf 644 0:0 x/y/a = one\nf 644 0:0 x/y/b.txt = two\nf 644 0:0 x/y/c.txt = three\n",
        "{}",
    ),
    case(
        "COPY of a directory's files",
        "FROM base\nCOPY d /x\n",
        "d 755 0:0 x\nf 644 0:0 x/e = four\nd 755 0:0 x/f\nf 644 0:0 x/f/g = five\n",
        "{}",
    ),
    case(
        "COPY in JSON",
        "FROM base\nCOPY [\"with space\", \"/other space\"]\n",
        "f 644 0:0 other space = six\n",
        "{}",
    ),
    case(
        "COPY relative to WORKDIR",
        "FROM base\nWORKDIR /w\nWORKDIR x\nCOPY a b/\n",
        "d 755 0:0 w\nd 755 0:0 w/x\nd 755 0:0 w/x/b\nf 644 0:0 w/x/b/a = one\n",
        r#"{"WorkingDir": "/w/x"}"#,
    ),
    case(
        "COPY --chown by name and by number",
        "FROM base\nCOPY --chown=me a /a\nCOPY --chown=me:root a /b\nCOPY --chown=5:6 a /c\nCOPY --chown=7 d /d\n",
        "f 644 1000:1000 a = one\nf 644 1000:0 b = one\nf 644 5:6 c = one\nd 755 7:7 d\nf 644 7:7 d/e = four\nd 755 7:7 d/f\nf 644 7:7 d/f/g = five\n",
        "{}",
    ),
    case(
        "COPY --chmod",
        "FROM base\nCOPY --chmod=755 a /a\nCOPY --chmod=4711 a /b\n",
        "f 755 0:0 a = one\nf 4711 0:0 b = one\n",
        "{}",
    ),
    ours(
        "COPY --chmod in letters",
        "FROM base\nARG M=go=\nCOPY --chmod=u+x,$M a /a\n",
        "f 700 0:0 a = one\n",
        "{}",
    ),
    ours(
        "COPY --parents and --exclude",
        "FROM base\nCOPY --parents d/f/g ./d/./e /x/\nCOPY --exclude=*.txt --exclude=D* --exclude=.d* --exclude=d --exclude=t.* . /y/\n",
        "d 755 0:0 x\nd 755 0:0 x/d\nd 755 0:0 x/d/f\nf 644 0:0 x/d/f/g = five\nf 644 0:0 x/e = four\nd 755 0:0 y\nf 644 0:0 y/a = one\nf 644 0:0 y/with space = six\n",
        "{}",
    ),
    ours(
        "COPY --link",
        "FROM base\nRUN mkdir /real && ln -s real /l\nCOPY --link a /n/a\n",
        "l 777 0:0 l -> real\nd 755 0:0 n\nf 644 0:0 n/a = one\nd 755 0:0 real\n",
        "{}",
    ),
    ours(
        "COPY of heredocs",
        "FROM base\nARG V=w\nCOPY <<x <<'y' /d/\n$V\nx\n$V\ny\n",
        "d 755 0:0 d\nf 644 0:0 d/x = w\nf 644 0:0 d/y = $V\n",
        "{}",
    ),
    case(
        "COPY --from of a stage by name, by number and of an image",
        "FROM base AS one\nRUN echo 1 > /x\nFROM scratch\nCOPY a /2\nFROM base\nCOPY --from=one /x /x\nCOPY --from=0 /x /y\nCOPY --from=1 /2 /z\nCOPY --from=base /etc/passwd /p\n",
        "f 644 0:0 p = root:x:0:0::/root:/bin/sh|me:x:1000:1000::/:/bin/sh\nf 644 0:0 x = 1\nf 644 0:0 y = 1\nf 644 0:0 z = one\n",
        "{}",
    ),
    case(
        "a stage on a stage",
        "FROM base AS one\nENV A=1\nRUN echo 1 > /x\nFROM one\nRUN echo $A >> /x\n",
        "f 644 0:0 x = 1|1\n",
        r#"{"Env": ["$PATH", "A=1"]}"#,
    ),
    case(
        "ADD of a file",
        "FROM base\nADD a d /x/\n",
        "d 755 0:0 x\nf 644 0:0 x/a = one\nf 644 0:0 x/e = four\nd 755 0:0 x/f\nf 644 0:0 x/f/g = five\n",
        "{}",
    ),
    case(
        "ADD of archives",
        "FROM base\nADD t.tar t.tgz /x/\nCOPY t.tar /\n",
        "o 644 0:0 t.tar of 10240\nd 755 0:0 x\nf 640 3:4 x/in = tar\nl 777 0:0 x/ln -> in\nf 644 0:0 x/zip = gzip\n",
        "{}",
    ),
    ours("ADD --unpack=false", "FROM base\nADD --unpack=false t.tar /\n", "o 644 0:0 t.tar of 10240\n", "{}"),
    case(
        "ENV sees what was before it",
        "FROM base\nENV A=1 B=2\nENV A=3 C=$A$B D='a b' E=\"q\\\"\"\nENV F g h\n",
        "",
        r#"{"Env": ["$PATH", "A=3", "B=2", "C=12", "D=a b", "E=q\"", "F=g h"]}"#,
    ),
    ours(
        "variables in all their forms",
        "FROM base\nARG U\nENV A=1\nENV B=${A:+x}${U:-y}${U:+no}${N-z} C=\\$A D='$A'\nWORKDIR /${B}\n",
        "d 755 0:0 xyz\n",
        r#"{"WorkingDir": "/xyz", "Env": ["$PATH", "A=1", "B=xyz", "C=$A", "D=$A"]}"#,
    ),
    case(
        "ARG before FROM, and in a stage again",
        "ARG I=base V=1\nFROM $I\nARG V\nARG W=$V.2 X\nRUN echo $V $W ${X-none} ${I-none} > /x\n",
        "f 644 0:0 x = 1 1.2 none none\n",
        "{}",
    ),
    case(
        "ARG gives way to ENV",
        "FROM base\nARG A=arg\nENV A=env\nRUN echo $A > /x\n",
        "f 644 0:0 x = env\n",
        r#"{"Env": ["$PATH", "A=env"]}"#,
    ),
    case(
        "CMD and ENTRYPOINT",
        "FROM base\nENTRYPOINT [\"a\", \"b\"]\nCMD c $D\n",
        "",
        r#"{"Entrypoint": ["a", "b"], "Cmd": ["/bin/sh", "-c", "c $D"]}"#,
    ),
    case(
        "ENTRYPOINT takes away a CMD of the base",
        "FROM base AS x\nCMD [\"a\"]\nFROM x\nENTRYPOINT b\n",
        "",
        r#"{"Entrypoint": ["/bin/sh", "-c", "b"]}"#,
    ),
    case(
        "SHELL",
        "FROM base\nSHELL [\"/bin/sh\", \"-e\", \"-c\"]\nRUN echo $- > /x; false; true || exit 0\nCMD y\n",
        "!",
        "{}",
    ),
    case(
        "another SHELL",
        "FROM base\nSHELL [\"/bin/busybox\", \"echo\"]\nRUN x > /x\nSHELL [\"/bin/sh\", \"-c\"]\nRUN echo y > /y\n",
        "f 644 0:0 y = y\n",
        r#"{"Shell": ["/bin/sh", "-c"]}"#,
    ),
    case(
        "LABEL",
        "FROM base\nLABEL a=b c=\"d e\" \\\n  f.g='h'\nLABEL i j k\n",
        "",
        r#"{"Labels": {"a": "b", "c": "d e", "f.g": "h", "i": "j k"}}"#,
    ),
    ours(
        "EXPOSE",
        "FROM base\nARG P=80\nEXPOSE $P 53/udp 100-102/tcp\n",
        "",
        r#"{"ExposedPorts": {"80/tcp": {}, "53/udp": {}, "100/tcp": {}, "101/tcp": {}, "102/tcp": {}}}"#,
    ),
    case(
        "EXPOSE of single ports",
        "FROM base\nARG P=80\nEXPOSE $P 53/udp\n",
        "",
        r#"{"ExposedPorts": {"80/tcp": {}, "53/udp": {}}}"#,
    ),
    case(
        "variables",
        "FROM base\nARG U\nENV A=1\nENV B=${A:+x}${U:-y}z C=\\$A D='$A'\nWORKDIR /${B}\n",
        "d 755 0:0 xyz\n",
        r#"{"WorkingDir": "/xyz", "Env": ["$PATH", "A=1", "B=xyz", "C=$A", "D=$A"]}"#,
    ),
    case(
        "VOLUME",
        "FROM base\nVOLUME /v /w\nVOLUME [\"/x y\"]\n",
        "?",
        r#"{"Volumes": {"/v": {}, "/w": {}, "/x y": {}}}"#,
    ),
    case(
        "STOPSIGNAL and MAINTAINER",
        "FROM base\nSTOPSIGNAL SIGINT\nMAINTAINER Me <me@here>\n",
        "",
        r#"{"StopSignal": "SIGINT"}"#,
    ),
    case(
        "HEALTHCHECK",
        "FROM base\nHEALTHCHECK --interval=5m --timeout=3s --start-period=10s --retries=2 CMD test -f /x\n",
        "",
        r#"{"Healthcheck": {"Test": ["CMD-SHELL", "test -f /x"], "Interval": 300000000000, "Timeout": 3000000000, "StartPeriod": 10000000000, "Retries": 2}}"#,
    ),
    case("HEALTHCHECK NONE", "FROM base\nHEALTHCHECK NONE\n", "", r#"{"Healthcheck": {"Test": ["NONE"]}}"#),
    case(
        "ONBUILD",
        "FROM base AS x\nONBUILD RUN echo on > /x\nONBUILD ENV A=b\nFROM x\nRUN echo $A >> /x\n",
        "f 644 0:0 x = on|b\n",
        r#"{"Env": ["$PATH", "A=b"]}"#,
    ),
    ours(
        "WORKDIR is the user's",
        "FROM base\nUSER me\nWORKDIR /w/x\n",
        "d 755 1000:1000 w\nd 755 1000:1000 w/x\n",
        r#"{"User": "me", "WorkingDir": "/w/x"}"#,
    ),
    case(
        "another escape",
        "# escape=`\nFROM base\nRUN echo a `\n  b > /x\\y\n",
        "f 644 0:0 xy = a b\n",
        "{}",
    ),
    ours(
        "RUN with mounts of the context and of a stage",
        "FROM base AS s\nRUN echo s > /s\nFROM base\nRUN --mount=target=/c --mount=type=bind,from=s,source=/s,target=/f cat /c/a /f > /x; touch /c/no 2>/dev/null || echo ro >> /x\nRUN --mount=target=/c,rw touch /c/w\n",
        "f 644 0:0 x = ones|ro\n",
        "{}",
    ),
    ours(
        "RUN with a tmpfs and a cache",
        "FROM base\nRUN --mount=type=tmpfs,target=/t,size=1m touch /t/x; df /t | tail -1 | awk '{print $2}' > /x\nRUN --mount=type=cache,target=/k,mode=0700,uid=3 stat -c '%a %u' /k >> /x; echo 1 > /k/1\nRUN --mount=type=cache,target=/k cat /k/1 >> /x\n",
        "f 644 0:0 x = 1024|700 3|1\n",
        "{}",
    ),
    ours(
        "RUN --network=none",
        "FROM base\nRUN --network=none ip link | grep -c mtu > /x\n",
        "f 644 0:0 x = 1\n",
        "{}",
    ),
    case(
        "the base's own files are changed and removed",
        "FROM base\nRUN rm /etc/group && echo x > /etc/passwd && chmod 700 /root\n",
        "f 644 0:0 etc/passwd = x\nd 700 0:0 root\n",
        "{}",
    ),
];
