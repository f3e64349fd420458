//! What was parsed, to look at: for people, as BuildKit's parser prints it, and for programs.

use std::fmt::Write;

use serde_json::{Value, json};

use super::ast::{Command, Dockerfile, Flag, Heredoc, Instruction};

/// Returns the file as a JSON object.
///
/// ```json
/// {"directives": {"syntax": null, "escape": "\\", "check": null},
///  "instructions": [{"keyword": "RUN", "flags": ["--network=none"], "arguments": ["cat <<EOF"], "json": false,
///                    "heredocs": [{"name": "EOF", "content": "text\n", "expand": true, "descriptor": 0,
///                                  "strips_tabs": false}],
///                    "comments": [], "start_line": 2, "end_line": 4}]}
/// ```
///
/// Keywords are in capitals; flags and arguments are as they were typed, those of a JSON list apart, which are its
/// strings. An `ONBUILD` has its instruction as `trigger` too.
pub fn to_json(file: &Dockerfile) -> Value {
    let directives = &file.directives;
    json!({
        "directives": {
            "syntax": directives.syntax,
            "escape": directives.escape.to_string(),
            "check": directives.check,
        },
        "instructions": file.instructions.iter().map(instruction_json).collect::<Vec<_>>(),
    })
}

fn instruction_json(instruction: &Instruction) -> Value {
    let mut value = json!({
        "keyword": instruction.keyword.to_uppercase(),
        "flags": instruction.flags.iter().map(Flag::typed).collect::<Vec<_>>(),
        "arguments": instruction.arguments,
        "json": instruction.is_json,
        "heredocs": instruction.heredocs.iter().map(heredoc_json).collect::<Vec<_>>(),
        "comments": instruction.comments,
        "start_line": instruction.position.line,
        "end_line": instruction.last_line,
    });
    if let Command::Onbuild(_, trigger) = &instruction.command {
        value["trigger"] = instruction_json(trigger);
    }
    value
}

fn heredoc_json(heredoc: &Heredoc) -> Value {
    json!({
        "name": heredoc.name,
        "content": heredoc.content,
        "expand": heredoc.expand,
        "descriptor": heredoc.descriptor,
        "strips_tabs": heredoc.strips_tabs,
    })
}

impl Flag {
    /// Returns the flag as it stands in a file, without quotes.
    pub fn typed(&self) -> String {
        match &self.value {
            Some(value) => format!("--{}={value}", self.name),
            None => format!("--{}", self.name),
        }
    }
}

/// Returns the file as text: an expression for each instruction, and behind it where it stands.
///
/// ```text
/// (from "debian" "AS" "build") ; line 1
/// (run ["--network=none"] "cat <<EOF" (heredoc "EOF" "text\n")) ; lines 2-4
/// (env "A" "1" "=" "B" "2" "=") ; line 5
/// (cmd "sh" "-c" "x") ; line 6, json
/// ```
pub fn to_text(file: &Dockerfile) -> String {
    let mut text = String::new();
    let directives = &file.directives;
    for (name, value) in [("syntax", &directives.syntax), ("check", &directives.check)] {
        if let Some(value) = value {
            line(&mut text, format_args!("; {name} {value:?}"));
        }
    }
    if directives.escape != '\\' {
        line(&mut text, format_args!("; escape {:?}", directives.escape));
    }
    for instruction in &file.instructions {
        let (first, last) = (instruction.position.line, instruction.last_line);
        let place = if first == last { format!("line {first}") } else { format!("lines {first}-{last}") };
        let form = if instruction.is_json { ", json" } else { "" };
        line(&mut text, format_args!("{} ; {place}{form}", expression(instruction)));
    }
    text
}

fn line(text: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _written = writeln!(text, "{what}");
}

fn expression(instruction: &Instruction) -> String {
    let mut parts = vec![instruction.keyword.to_lowercase()];
    if !instruction.flags.is_empty() {
        let flags: Vec<String> = instruction.flags.iter().map(|flag| format!("{:?}", flag.typed())).collect();
        parts.push(format!("[{}]", flags.join(" ")));
    }
    let arguments = &instruction.arguments;
    match &instruction.command {
        Command::Onbuild(_, trigger) => parts.push(expression(trigger)),
        Command::Env(_) | Command::Label(_) if arguments[0].contains('=') => {
            for (name, value) in arguments.iter().filter_map(|pair| pair.split_once('=')) {
                parts.push(format!("{name:?} {value:?} \"=\""));
            }
        }
        Command::Env(_) | Command::Label(_) => {
            parts.push(format!("{:?} {:?} \"\"", arguments[0], arguments[1]))
        }
        _ => parts.extend(arguments.iter().map(|argument| format!("{argument:?}"))),
    }
    if !matches!(instruction.command, Command::Onbuild(..)) {
        let heredocs = &instruction.heredocs;
        parts.extend(heredocs.iter().map(|doc| format!("(heredoc {:?} {:?})", doc.name, doc.content)));
    }
    format!("({})", parts.join(" "))
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    const FILE: &str = r#"# syntax=docker/dockerfile:1
# check=skip=all
from debian AS build
ENV A=1 B='2 3'
LABEL a b c
# why
RUN --mount=type=cache,target=/a --network=none make \
  all
COPY --link <<A <<-"B" /d/
x
A
	y
B
CMD ["a", "b c"]
HEALTHCHECK --interval=5s CMD curl x
ONBUILD RUN <<E
z
E
"#;

    #[test]
    fn the_text_is_what_buildkit_prints_and_where_it_stands() {
        let text = to_text(&parse(FILE.as_bytes()).unwrap());
        let expected = r#"; syntax "docker/dockerfile:1"
; check "skip=all"
(from "debian" "AS" "build") ; line 3
(env "A" "1" "=" "B" "'2 3'" "=") ; line 4
(label "a" "b c" "") ; line 5
(run ["--mount=type=cache,target=/a" "--network=none"] "make   all") ; lines 7-8
(copy ["--link"] "<<A" "<<-\"B\"" "/d/" (heredoc "A" "x\n") (heredoc "B" "y\n")) ; lines 9-13
(cmd "a" "b c") ; line 14, json
(healthcheck ["--interval=5s"] "CMD" "curl x") ; line 15
(onbuild (run "<<E" (heredoc "E" "z\n"))) ; lines 16-18
"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn the_object_has_everything() {
        let value = to_json(&parse(FILE.as_bytes()).unwrap());
        assert_eq!(
            value["directives"],
            json!({"syntax": "docker/dockerfile:1", "escape": "\\", "check": "skip=all"})
        );
        assert_eq!(
            value["instructions"][3],
            json!({
                "keyword": "RUN",
                "flags": ["--mount=type=cache,target=/a", "--network=none"],
                "arguments": ["make   all"],
                "json": false,
                "heredocs": [],
                "comments": ["why"],
                "start_line": 7,
                "end_line": 8,
            })
        );
        let copy = &value["instructions"][4];
        assert_eq!(copy["arguments"], json!(["<<A", "<<-\"B\"", "/d/"]));
        assert_eq!(
            copy["heredocs"][1],
            json!({"name": "B", "content": "y\n", "expand": false, "descriptor": 0, "strips_tabs": true})
        );
        assert_eq!(value["instructions"][5]["json"], true);
        assert_eq!(value["instructions"][7]["trigger"]["heredocs"][0]["content"], "z\n");
        assert_eq!(value["instructions"][7]["trigger"]["end_line"], 18);
    }
}
