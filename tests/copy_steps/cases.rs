//! What each form of a step makes: docker's rules, case by case.

use super::*;

pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) tree: &'static str,
    pub(super) context: &'static str,
    /// Lines of the `.dockerignore`, with blanks between them.
    pub(super) ignored: &'static str,
    pub(super) step: &'static str,
    /// The whole tree afterwards, or after `!` what the error says.
    pub(super) made: &'static str,
}

const CASE: Case = Case { name: "", tree: "", context: "", ignored: "", step: "", made: "" };

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a file to a name, its owner is root",
        context: "f 640 1000:1000 a = text",
        step: "COPY a /x/y",
        made: "d 755 0:0 x\n f 640 0:0 x/y = text",
        ..CASE
    },
    Case {
        name: "a file to a directory that is made",
        context: "f 4755 0:0 a = text",
        step: "COPY a /x/",
        made: "d 755 0:0 x\n f 4755 0:0 x/a = text",
        ..CASE
    },
    Case {
        name: "a file to a directory that is there, without a slash",
        tree: "d 1777 3:4 x",
        context: "f 644 0:0 a = text",
        step: "COPY a /x",
        made: "d 1777 3:4 x\n f 644 0:0 x/a = text",
        ..CASE
    },
    Case {
        name: "a directory by its content, made with 755 whatever its own mode is",
        context: "d 700 5:5 d\n f 600 5:5 d/a = a\n d 2750 5:5 d/e\n f 644 5:5 d/e/b = b",
        step: "COPY d /x",
        made: "d 755 0:0 x\n f 600 0:0 x/a = a\n d 2750 0:0 x/e\n f 644 0:0 x/e/b = b",
        ..CASE
    },
    Case {
        name: "directories become one with the attributes of the source, below the destination",
        tree: "d 711 7:7 x\n d 700 7:7 x/e\n f 644 7:7 x/e/old = old\n f 600 7:7 x/e/b = old",
        context: "d 755 0:0 d\n d 750 5:5 d/e\n f 644 5:5 d/e/b = new",
        step: "COPY d/ /x/",
        made: "d 711 7:7 x\n d 750 0:0 x/e\n f 644 0:0 x/e/b = new\n f 644 7:7 x/e/old = old",
        ..CASE
    },
    Case {
        name: "everything to the root",
        tree: "d 755 0:0 etc\n f 644 0:0 etc/motd = old",
        context: "d 755 0:0 etc\n f 644 0:0 etc/motd = new\n f 644 0:0 a = a",
        step: "COPY . /",
        made: "f 644 0:0 a = a\n d 755 0:0 etc\n f 644 0:0 etc/motd = new",
        ..CASE
    },
    Case {
        name: "what is above the context is the context",
        context: "f 644 0:0 a = a",
        step: "COPY ../../a /x",
        made: "f 644 0:0 x = a",
        ..CASE
    },
    Case {
        name: "several to a directory, a directory by its content",
        context: "f 644 0:0 a = a\n f 644 0:0 d/b = b\n f 644 0:0 d/c = c",
        step: "COPY a d /x/",
        made: "d 755 0:0 x\n f 644 0:0 x/a = a\n f 644 0:0 x/b = b\n f 644 0:0 x/c = c",
        ..CASE
    },
    Case {
        name: "several to a name that is no directory",
        context: "f 644 0:0 a = a\n f 644 0:0 b = b",
        step: "COPY a b /x",
        made: "!must be a directory and end with a slash [write /x/]",
        ..CASE
    },
    Case {
        name: "several to a directory that is there",
        tree: "d 755 0:0 x",
        context: "f 644 0:0 a = a\n f 644 0:0 b = b",
        step: "COPY a b /x",
        made: "d 755 0:0 x\n f 644 0:0 x/a = a\n f 644 0:0 x/b = b",
        ..CASE
    },
    Case {
        name: "a pattern that means one thing may have a name",
        context: "f 644 0:0 app-1.jar = jar",
        step: "COPY app-*.jar /app.jar",
        made: "f 644 0:0 app.jar = jar",
        ..CASE
    },
    Case {
        name: "a pattern that means several may not",
        context: "f 644 0:0 app-1.jar = jar\n f 644 0:0 app-2.jar = jar",
        step: "COPY app-*.jar /app.jar",
        made: "!must be a directory and end with a slash",
        ..CASE
    },
    Case {
        name: "patterns in directories",
        context: "f 644 0:0 a/x/one.c = 1\n f 644 0:0 b/x/two.c = 2\n f 644 0:0 b/x/two.h = h\n f 644 0:0 three.c = 3",
        step: "COPY ?/x/*.c /s/",
        made: "d 755 0:0 s\n f 644 0:0 s/one.c = 1\n f 644 0:0 s/two.c = 2",
        ..CASE
    },
    Case {
        name: "a pattern that means nothing is nothing",
        context: "f 644 0:0 a = a",
        step: "COPY a yarn.lock* /x/",
        made: "d 755 0:0 x\n f 644 0:0 x/a = a",
        ..CASE
    },
    Case {
        name: "a link to a source is followed inside, one in a directory is copied",
        context: "f 644 0:0 real/file = text\n l 777 5:5 real/link -> /etc/passwd\n l 777 0:0 d -> /real\n l 777 0:0 f -> ../../real/file",
        step: "COPY d f /x/",
        made: "d 755 0:0 x\n f 644 0:0 x/f = text\n f 644 0:0 x/file = text\n l 777 0:0 x/link -> /etc/passwd",
        ..CASE
    },
    Case {
        name: "links on the way to the destination are followed inside",
        tree: "d 755 0:0 usr/bin\n l 777 0:0 bin -> usr/bin\n l 777 0:0 out -> ../../../usr",
        context: "f 755 0:0 tool = tool",
        step: "COPY tool /out/../bin/",
        made: "l 777 0:0 bin -> usr/bin\n l 777 0:0 out -> ../../../usr\n d 755 0:0 usr\n d 755 0:0 usr/bin\n f 755 0:0 usr/bin/tool = tool",
        ..CASE
    },
    Case {
        name: "a link at the end of the destination leads on, to what is not there too",
        tree: "d 755 0:0 d\n l 777 0:0 link -> /d/new",
        context: "f 644 0:0 a = a",
        step: "COPY a /link",
        made: "d 755 0:0 d\n f 644 0:0 d/new = a\n l 777 0:0 link -> /d/new",
        ..CASE
    },
    Case {
        name: "a link under the name of a file is replaced",
        tree: "f 644 0:0 keep = keep\n d 755 0:0 x\n l 777 0:0 x/a -> /keep",
        context: "f 644 0:0 a = a",
        step: "COPY a /x/",
        made: "f 644 0:0 keep = keep\n d 755 0:0 x\n f 644 0:0 x/a = a",
        ..CASE
    },
    Case {
        name: "a directory on a link",
        tree: "d 755 0:0 usr/lib\n l 777 0:0 lib -> usr/lib",
        context: "f 644 0:0 d/lib/a = a",
        step: "COPY d /",
        made: "!/lib is there and is no directory [a directory cannot take its place",
        ..CASE
    },
    Case {
        name: "a directory on a file",
        tree: "f 644 0:0 x = x",
        context: "f 644 0:0 d/a = a",
        step: "COPY d /x",
        made: "!/x is there and is no directory",
        ..CASE
    },
    Case {
        name: "a file on a directory",
        tree: "d 755 0:0 x/a",
        context: "f 644 0:0 a = a",
        step: "COPY a /x/",
        made: "!/x/a is a directory there [a file cannot take its place",
        ..CASE
    },
    Case {
        name: "--chown by names of the tree, for what is made on the way too",
        tree: "f 644 0:0 etc/passwd = me:x:1000:1001::/:/bin/sh\n f 644 0:0 etc/group = audio:x:29:",
        context: "f 644 0:0 d/a = a\n l 777 0:0 d/l -> a",
        step: "COPY --chown=me:audio d /x/y",
        made: "d 755 0:0 etc\n f 644 0:0 etc/group = audio:x:29:\n f 644 0:0 etc/passwd = me:x:1000:1001::/:/bin/sh\n d 755 1000:29 x\n d 755 1000:29 x/y\n f 644 1000:29 x/y/a = a\n l 777 1000:29 x/y/l -> a",
        ..CASE
    },
    Case {
        name: "--chown by a number is the group's too",
        context: "f 4755 0:0 a = a",
        step: "COPY --chown=55 a /a",
        made: "f 4755 55:55 a = a",
        ..CASE
    },
    Case {
        name: "--chown by a name that is not there",
        context: "f 644 0:0 a = a",
        step: "COPY --chown=me a /a",
        made: "!read --chown=me: no user \"me\" in the tree's /etc/passwd",
        ..CASE
    },
    Case {
        name: "--chmod by number is for directories too, not for what was made on the way",
        context: "f 4755 0:0 d/a = a\n d 700 0:0 d/e\n l 777 0:0 d/l -> a",
        step: "COPY --chmod=640 d /x",
        made: "d 755 0:0 x\n f 640 0:0 x/a = a\n d 640 0:0 x/e\n l 777 0:0 x/l -> a",
        ..CASE
    },
    Case {
        name: "--chmod by letters",
        context: "f 600 0:0 d/a = a\n f 700 0:0 d/b = b\n d 700 0:0 d/e",
        step: "COPY --chmod=u=rwX,go=rX d /x",
        made: "d 755 0:0 x\n f 644 0:0 x/a = a\n f 755 0:0 x/b = b\n d 755 0:0 x/e",
        ..CASE
    },
    Case {
        name: "hard links of one source stay links",
        context: "f 644 0:0 d/a = a\n f 644 0:0 d/b == d/a",
        step: "COPY d /x",
        made: "d 755 0:0 x\n f 644 0:0 x/a = a\n f 644 0:0 x/b == x/a",
        ..CASE
    },
    Case {
        name: "pipes are copied, sockets of a context are not",
        context: "p 600 0:0 d/p\n s 600 0:0 d/s\n f 644 0:0 d/a = a",
        step: "COPY d /x",
        made: "d 755 0:0 x\n f 644 0:0 x/a = a\n p 600 0:0 x/p",
        ..CASE
    },
    Case {
        name: "what the ignore file leaves out is not there",
        context: "f 644 0:0 src/a.c = a\n f 644 0:0 src/a.o = o\n f 644 0:0 .git/x = x\n f 644 0:0 .git/keep = k\n f 644 0:0 b = b",
        ignored: "**/*.o .git !.git/keep",
        step: "COPY . /x",
        made: "d 755 0:0 x\n d 755 0:0 x/.git\n f 644 0:0 x/.git/keep = k\n f 644 0:0 x/b = b\n d 755 0:0 x/src\n f 644 0:0 x/src/a.c = a",
        ..CASE
    },
    Case {
        name: "a source that the ignore file leaves out",
        context: "f 644 0:0 secret = s",
        ignored: "secret",
        step: "COPY secret /x",
        made: "!.dockerignore leaves secret out of the context [take it back with a line !secret in .dockerignore]",
        ..CASE
    },
    Case {
        name: "a source that is not there, and nearly is",
        context: "f 644 0:0 src/main.py = m",
        step: "COPY src/mian.py /x",
        made: "!COPY src/mian.py: there is no src/mian.py in the context [did you mean src/main.py?]",
        ..CASE
    },
    Case {
        name: "a link that leads out of the context",
        context: "l 777 0:0 passwd -> /etc/passwd",
        step: "COPY passwd /x",
        made: "!passwd of the context is a link that leads to nothing in it",
        ..CASE
    },
    Case {
        name: "--exclude, of what is in a directory and of what a pattern means",
        context: "f 644 0:0 d/a.txt = a\n f 644 0:0 d/b.c = b\n f 644 0:0 e.txt = e\n f 644 0:0 e.c = c",
        step: "COPY --exclude=*.txt d e* /x/",
        made: "d 755 0:0 x\n f 644 0:0 x/b.c = b\n f 644 0:0 x/e.c = c",
        ..CASE
    },
    Case {
        name: "--parents keeps directories, with their attributes where they are new",
        tree: "d 711 7:7 x/a",
        context: "f 644 0:0 a/b/one.txt = 1\n d 750 5:5 a/b\n f 644 0:0 a/two.txt = 2\n f 644 0:0 c/three.txt = 3",
        step: "COPY --parents a/b/one.txt c/*.txt /x/",
        made: "d 755 0:0 x\n d 755 7:7 x/a\n d 750 0:0 x/a/b\n f 644 0:0 x/a/b/one.txt = 1\n d 755 0:0 x/c\n f 644 0:0 x/c/three.txt = 3",
        ..CASE
    },
    Case {
        name: "--parents from a pivot, and with any number of directories",
        context: "f 644 0:0 a/b/c/one.go = 1\n f 644 0:0 a/b/two.go = 2\n f 644 0:0 a/b/two.md = 2\n f 644 0:0 three.go = 3",
        step: "COPY --parents a/./**/*.go /x/",
        made: "d 755 0:0 x\n d 755 0:0 x/b\n d 755 0:0 x/b/c\n f 644 0:0 x/b/c/one.go = 1\n f 644 0:0 x/b/two.go = 2",
        ..CASE
    },
    Case {
        name: "--parents of what is not there",
        context: "f 644 0:0 a/b = b",
        step: "COPY --parents a/c /x/",
        made: "!there is no a/c in the context",
        ..CASE
    },
    Case {
        name: "--link follows nothing and gives way to nothing",
        tree: "d 755 0:0 usr/lib\n l 777 0:0 lib -> usr/lib\n d 1777 3:3 tmp\n f 644 3:3 tmp/stays = s\n f 644 0:0 file = f\n d 755 0:0 dir\n f 644 0:0 dir/gone = g",
        context: "f 644 0:0 d/lib/a = a\n f 644 0:0 d/tmp/a = a\n f 644 0:0 d/file/a = a\n f 644 0:0 d/dir = a\n d 700 0:0 d/tmp",
        step: "COPY --link d /",
        made: "f 644 0:0 dir = a\n d 755 0:0 file\n f 644 0:0 file/a = a\n d 755 0:0 lib\n f 644 0:0 lib/a = a\n d 700 0:0 tmp\n f 644 0:0 tmp/a = a\n f 644 3:3 tmp/stays = s\n d 755 0:0 usr\n d 755 0:0 usr/lib",
        ..CASE
    },
    Case {
        name: "--link leaves directories on the way what they are",
        tree: "d 1777 3:3 tmp\n l 777 0:0 bin -> tmp",
        context: "f 644 0:0 a = a",
        step: "COPY --link --chown=5 a /tmp/new/",
        made: "l 777 0:0 bin -> tmp\n d 1777 3:3 tmp\n d 755 5:5 tmp/new\n f 644 5:5 tmp/new/a = a",
        ..CASE
    },
    Case {
        name: "--link to the name of a directory replaces it",
        tree: "d 755 0:0 x\n f 644 0:0 x/gone = g",
        context: "f 644 0:0 a = a",
        step: "COPY --link a /x",
        made: "f 644 0:0 x = a",
        ..CASE
    },
    Case {
        name: "files that stand in the Dockerfile",
        tree: "d 755 0:0 x\n l 777 0:0 x/one -> /etc/passwd",
        step: "COPY --chown=5:6 <<one <<two /x/",
        made: "d 755 0:0 x\n f 644 5:6 x/one = text of <<one\\n\n f 644 5:6 x/two = text of <<two\\n",
        ..CASE
    },
    Case {
        name: "one such file to a name, with a mode",
        step: "COPY --chmod=755 <<one /bin/run",
        made: "d 755 0:0 bin\n f 755 0:0 bin/run = text of <<one\\n",
        ..CASE
    },
];

#[test]
fn steps_make_what_docker_makes() {
    on_file_systems(|environment, sort| {
        let bench = Bench::new(environment, sort);
        for (number, case) in CASES.iter().enumerate() {
            let node = bench.import(&format!("case-{number}"), case.tree);
            let context =
                context(&environment.path(&format!("context-{number}")), case.context, case.ignored);
            for &kind in &bench.kinds {
                let fork = bench.fork(&node, kind);
                let done = bench.copy(&fork, &step(case.step), &context);
                let what = format!("{} ({}) on {kind} of {sort}", case.name, case.step);
                match (case.made.strip_prefix('!'), done) {
                    (Some(message), Err(error)) => {
                        let told = told(&error);
                        assert!(told.contains(message), "{what}: {told}");
                    }
                    (Some(message), Ok(_)) => panic!("{what}: did not fail with {message}"),
                    (None, Err(error)) => panic!("{what}: {}", told(&error)),
                    (None, Ok(_)) => {
                        assert_eq!(bench.lines(&fork), sorted(case.made), "{what}");
                    }
                }
            }
        }
    });
}
