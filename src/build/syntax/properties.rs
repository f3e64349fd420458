//! What holds for every file: written again it says the same, and so it does with its lines broken anywhere.

use proptest::prelude::*;

use super::{Command, Dockerfile, Instruction, Position, problems};

/// A blank-separated piece of an instruction.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z/.*]{1,6}",
        "[a-z]{1,3}=[a-z$]{0,4}",
        "'[a-z \"#\\\\]{0,5}'",
        "\"[a-z '#]{0,5}\"",
        "\\$\\{[a-z]:-[a-z]\\}",
        "#[a-z]{0,3}",
        "[a-z]\\\\[ a-z\"]",
        "[é→ü]{1,3}",
    ]
}

fn words(count: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    (proptest::collection::vec(word(), count), prop_oneof![Just(" "), Just("  "), Just("\t")])
        .prop_map(|(words, blank)| words.join(blank))
}

/// An instruction, with its heredocs.
fn instruction() -> impl Strategy<Value = String> {
    prop_oneof![
        words(1..5).prop_map(|text| format!("RUN {text}")),
        words(1..3).prop_map(|text| format!("run --network=none --mount=type=cache,target=/a {text}")),
        words(0..3).prop_map(|text| format!("RUN -- --{text}")),
        words(2..4).prop_map(|text| format!("COPY --from=b --exclude=a\\ b --exclude='c d' {text}")),
        words(2..4).prop_map(|text| format!("ADD --link {text}")),
        words(0..3).prop_map(|text| format!("ENV A='b c' D=e {}", text.replace([' ', '\t'], "=x y="))),
        words(1..3).prop_map(|text| format!("LABEL a {text}")),
        "[a-z]{1,3}(=[a-z]{0,3})?( [A-Z]{1,3}='[a-z ]{0,5}')?".prop_map(|text| format!("ARG {text}")),
        proptest::collection::vec("[a-z $\\\\\"é#]{0,6}", 1..4)
            .prop_map(|list| format!("CMD {}", serde_json::to_string(&list).expect("strings"))),
        words(1..3).prop_map(|text| format!("Onbuild Entrypoint {text}")),
        words(1..3).prop_map(|text| format!("HEALTHCHECK --interval=1m30s --retries=3 CMD {text}")),
        words(1..3).prop_map(|text| format!("WORKDIR {text}")),
        ("-?", "('|)", "([a-z #\\\\]{0,5}\n){0,3}").prop_map(|(dash, quote, content)| {
            format!("RUN 3<<{dash}{quote}EOF{quote} cat\n\t{content}\nEOF")
        }),
        ("[a-z]{1,3}", "(\t?[a-z$#]{0,5}\r?\n){0,3}")
            .prop_map(|(to, content)| format!("ONBUILD COPY <<A <<-B /{to}/\n{content}A\n{content}\tB")),
    ]
}

fn file() -> impl Strategy<Value = String> {
    let comment = "(|\n|# [a-z]{1,5}\n|# [a-z]{1,5}\n#\n)";
    let body = proptest::collection::vec((comment, instruction()), 0..6);
    ("(|# escape=`\n|# syntax=x/y\n# check=skip=all\n)", body).prop_map(|(directives, body)| {
        let body: Vec<String> =
            body.into_iter().map(|(comment, text)| format!("{comment}{text}\n")).collect();
        format!("{directives}FROM --platform=$A a AS b\n{}", body.concat())
    })
}

/// Writes a file that says what was parsed.
fn written(file: &Dockerfile) -> String {
    let directives = &file.directives;
    let mut text = format!("# escape={}\n", directives.escape);
    for (name, value) in [("syntax", &directives.syntax), ("check", &directives.check)] {
        text.extend(value.as_ref().map(|value| format!("# {name} = {value}\n")));
    }
    text.push('\n');
    for instruction in &file.instructions {
        text.extend(instruction.comments.iter().map(|comment| format!("# {comment}\n")));
        text.push_str(&instruction.keyword);
        for flag in &instruction.flags {
            let escaped: String = flag
                .typed()
                .chars()
                .flat_map(|c| match c {
                    '\\' | '"' | '\'' | ' ' | '\t' => vec!['\\', c],
                    c => vec![c],
                })
                .collect();
            text.push_str(&format!(" {escaped}"));
        }
        let end = if instruction.text.starts_with("--") { " --" } else { "" };
        text.push_str(&format!("{end} {}\n", instruction.text));
        for heredoc in &instruction.heredocs {
            text.push_str(&format!("{}{}\n", heredoc.content, heredoc.name));
        }
    }
    text
}

/// Drops where it stands and how it was written, so that what it says can be compared.
fn meaning(mut instruction: Instruction) -> Instruction {
    instruction.position = Position::default();
    instruction.last_line = 0;
    instruction.source = String::new();
    instruction.empty_lines.clear();
    for flag in &mut instruction.flags {
        flag.position = Position::default();
    }
    if let Command::Onbuild(_, inner) = &mut instruction.command {
        **inner = meaning((**inner).clone());
    }
    instruction
}

fn meanings(file: Dockerfile) -> Vec<Instruction> {
    file.instructions.into_iter().map(meaning).collect()
}

/// Breaks lines of instructions, where that may be done, after every `every`th character, in one of several ways.
fn broken(text: &str, file: &Dockerfile, every: usize, between: &str) -> String {
    let escape = file.directives.escape;
    let heads: Vec<usize> = file.instructions.iter().map(|one| one.position.line).collect();
    let mut result = String::new();
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if !heads.contains(&(number + 1)) {
            result.push_str(line);
            continue;
        }
        let characters: Vec<char> = line.chars().collect();
        for (at, c) in characters.iter().enumerate() {
            result.push(*c);
            let rest: String = characters[at + 1..].iter().collect();
            let may = *c != escape && !rest.trim().is_empty() && !rest.trim_start().starts_with('#')
                // What begins with the escape character would be taken for one that is escaped.
                && !rest.starts_with(escape);
            if may && at % every == every - 1 {
                result.push(escape);
                result.push_str(between);
            }
        }
    }
    result
}

proptest! {
    #[test]
    fn a_file_that_is_written_again_says_the_same(text in file()) {
        let Ok(read) = problems(text.as_bytes()) else { return Ok(()) };
        let again = written(&read);
        let same = problems(again.as_bytes());
        prop_assert!(same.is_ok(), "{again}\n{same:?}");
        let same = same.expect("it was read");
        prop_assert_eq!(&same.directives, &read.directives);
        prop_assert_eq!(meanings(same), meanings(read), "{}", again);
    }

    #[test]
    fn lines_may_be_broken_anywhere(
        text in file(),
        every in 1_usize..6,
        between in prop_oneof![
            Just("\n"), Just("\r\n"), Just(" \t\n"), Just("\n# x\n"), Just("\n\n \t\n"), Just("\n  # x \\\n\n"),
        ],
    ) {
        let Ok(read) = problems(text.as_bytes()) else { return Ok(()) };
        let broken = broken(&text, &read, every, between);
        let same = problems(broken.as_bytes());
        prop_assert!(same.is_ok(), "{broken}\n{same:?}");
        prop_assert_eq!(meanings(same.expect("it was read")), meanings(read), "{}", broken);
    }
}

/// The files above are worth little if they are refused.
#[test]
fn most_files_of_these_properties_are_read() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let read = (0..200).filter(|_| {
        let text = file().new_tree(&mut runner).expect("a file").current();
        problems(text.as_bytes()).is_ok()
    });
    let count = read.count();
    assert!(count > 100, "only {count} of 200 were read");
}
