//! The rules of ignore files, one by one, and against a slow reading of them.

use proptest::prelude::*;

use super::*;

fn patterns(text: &str) -> Patterns {
    Patterns::parse_file(text.as_bytes()).unwrap()
}

fn ignored(text: &str, path: &str) -> bool {
    patterns(text).matches(Path::new(path))
}

#[test]
fn single_patterns_mean_these_paths() {
    for (pattern, path, wanted) in [
        ("notes", "notes", true),
        ("notes", "notes/a/b", true),
        ("notes", "a/notes", false),
        ("notes", "notes2", false),
        ("/notes/", "notes/a", true),
        ("./a/../notes//x", "notes/x", true),
        ("*.log", "x.log", true),
        ("*.log", "a/x.log", false),
        ("*/x.log", "a/x.log", true),
        ("*/*/x.log", "a/b/x.log", true),
        ("a/*", "a", false),
        ("a/*", "a/b", true),
        ("a/*", "a/b/c", true),
        ("**/x.log", "x.log", true),
        ("**/x.log", "a/b/x.log", true),
        ("**/x.log", "a/bx.log", false),
        ("**/*.log", "x.log", true),
        ("**/*.log", "a/b/x.log", true),
        ("**/*.log", "a/b/x.log/y", true),
        ("**/*.log", "a/b/x.logs", false),
        ("**", "a", true),
        ("**", "a/b", true),
        ("**/", "a/b", true),
        ("a/**", "a", false),
        ("a/**", "a/b", true),
        ("a/**", "ab/c", false),
        ("a/**/", "a/b/c", true),
        ("a**", "abc/d", true),
        ("a/**/z", "a/z", true),
        ("a/**/z", "a/b/c/z", true),
        ("a/**/z", "a/b/cz", false),
        ("a/**/z/*", "a/b/z/y", true),
        ("*a/**", "xa/b", true),
        ("*a/**", "xa", false),
        ("**/a/**", "x/a/y", true),
        ("**/a/**", "a/y", true),
        ("**/a/**", "a", false),
        // Two stars that are not a whole name: a comparison of ends where nothing else is special, directories otherwise.
        ("**log", "x/catalog", true),
        ("**log*", "x/catalog", false),
        ("**log*", "x/logs", true),
        ("a**b", "ab", true),
        ("a**b", "axb", false),
        ("a**b", "ax/b", true),
        ("***", "a/b/c", true),
        ("?", "a", true),
        ("?", "é", true),
        ("?b", "/b", false),
        ("[a-c].txt", "b.txt", true),
        ("[^a-c].txt", "b.txt", false),
        ("a[^b]c", "a/c", true),
        ("\\*", "*", true),
        ("\\*", "a", false),
        ("\\!important", "!important", true),
        ("\\#x", "#x", true),
        ("a\\[1\\]", "a[1]", true),
        ("a.b", "axb", false),
        ("a+(b)|{c}$^", "a+(b)|{c}$^", true),
        ("a+b*", "a+bc", true),
        (".", "a", false),
        ("/", "a", false),
        ("..", "a", false),
        ("../a", "a", false),
        (" spaced name ", "spaced name", true),
        ("# comment", "# comment", false),
        (" # no comment", "# no comment", true),
    ] {
        assert_eq!(ignored(pattern, path), wanted, "{pattern:?} {path:?}");
    }
}

#[test]
fn the_last_line_that_means_a_path_decides() {
    for (text, path, wanted) in [
        ("*.md\n!readme.md", "readme.md", false),
        ("*.md\n!readme.md", "notes.md", true),
        ("!readme.md\n*.md", "readme.md", true),
        ("*.md\n!read*.md\nreadme-secret.md", "readme-secret.md", true),
        ("*\n!src", "src", false),
        ("*\n!src", "src/a/b", false),
        ("*\n!src", "doc/a", true),
        ("*\n!src\nsrc/*.o", "src/a.o", true),
        ("*\n!src\nsrc/*.o", "src/a.c", false),
        ("a\n!a/b\na", "a/b", true),
        ("**\n!**/*.c", "x/y.c", false),
        ("**\n!**/*.c", "x/y.h", true),
        ("node_modules\n! /node_modules/keep/", "node_modules/keep/x", false),
        ("\u{feff}*.md\r\n!a.md\r\n\r\n", "a.md", false),
        ("\u{feff}*.md\r\n!a.md\r\n\r\n", "b.md", true),
        ("\u{feff}# comment", "# comment", false),
        ("!a", "a", false),
        ("", "a", false),
    ] {
        assert_eq!(ignored(text, path), wanted, "{text:?} {path:?}");
    }
}

#[test]
fn wrong_lines_are_told_with_their_number() {
    for (text, line) in
        [("a\n\n[", "line 3"), ("!", "line 1"), ("a\n ! ", "line 2"), ("[]a]", "line 1"), ("a\\", "line 1")]
    {
        let error = Patterns::parse_file(text.as_bytes()).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::InvalidInput, line), "{text:?}");
    }
}

#[test]
fn given_patterns_have_no_comments_and_keep_the_slash() {
    let given = Patterns::of(&["#a", "/b", "**/*.o", "!keep.o"]).unwrap();
    let matches = |path: &str| given.matches(Path::new(path));
    assert!(matches("#a") && !matches("b") && matches("x/y.o") && !matches("keep.o"));
    assert_eq!(given.to_string(), "#a\n/b\n**/*.o\n!keep.o\n");
}

#[test]
fn what_is_left_out_is_entered_only_where_something_may_come_back() {
    let may_differ = |text: &str, path: &str| {
        let patterns = patterns(text);
        let level =
            path.split('/').fold(patterns.root(), |level, name| patterns.enter(&level, name.as_bytes()));
        (patterns.means(&level), patterns.may_differ_below(&level))
    };
    for (text, path, wanted) in [
        ("a", "a", (true, false)),
        ("a\n!a/b", "a", (true, true)),
        ("a\n!a/b/c", "a/b", (true, true)),
        ("a\n!a/b/c", "a/x", (true, false)),
        ("!a/b\na", "a", (true, false)),
        ("*\n!**/*.c", "a/b", (true, true)),
        ("*\n!src/*.c", "src", (true, true)),
        ("*\n!src/*.c", "doc", (true, false)),
        ("*\n!src/**", "src/a", (false, false)),
        ("*\n!s*/keep", "src", (true, true)),
        ("*\n!s*/keep", "src/a", (true, false)),
        ("*\n!**/x", "a", (true, true)),
        ("x/*.c", "x", (false, true)),
        ("x/*.c", "y", (false, false)),
    ] {
        assert_eq!(may_differ(text, path), wanted, "{text:?} {path:?}");
    }
}

/// Whether a pattern means a path, by trying everything.
fn slowly(pattern: &[char], text: &[char]) -> bool {
    match pattern {
        [] => text.is_empty(),
        ['*', '*'] | ['*', '*', '/'] => true,
        ['*', '*', '/', rest @ ..] | ['*', '*', rest @ ..] => {
            slowly(rest, text) || (0..text.len()).any(|at| text[at] == '/' && slowly(rest, &text[at + 1..]))
        }
        ['*', rest @ ..] => {
            slowly(rest, text)
                || (text.first().is_some_and(|found| *found != '/') && slowly(pattern, &text[1..]))
        }
        ['?', rest @ ..] => text.first().is_some_and(|found| *found != '/') && slowly(rest, &text[1..]),
        [literal, rest @ ..] => text.first() == Some(literal) && slowly(rest, &text[1..]),
    }
}

/// The whole of the rules, without levels and without order of evaluation.
fn slow_verdict(lines: &[String], path: &str) -> bool {
    let mut verdict = false;
    for line in lines {
        let (negated, pattern) = line.strip_prefix('!').map_or((false, line.as_str()), |rest| (true, rest));
        let cleaned = String::from_utf8(clean(pattern.as_bytes()).into_owned()).unwrap();
        let pattern =
            if cleaned.len() > 1 { cleaned.strip_prefix('/').unwrap_or(&cleaned) } else { &cleaned };
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        let means = ends.into_iter().any(|end| {
            let text = &path[..end];
            match pattern.strip_prefix("**") {
                Some(end) if !end.contains(['*', '?']) => {
                    text.ends_with(end) || end.strip_prefix('/').is_some_and(|end| text == end)
                }
                _ => slowly(&pattern.chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>()),
            }
        });
        if means {
            verdict = !negated;
        }
    }
    verdict
}

fn line() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => Just("a"), 4 => Just("b"), 4 => Just("/"), 2 => Just("*"), 2 => Just("**"), 1 => Just("?"), 1 => Just("é"), 1 => Just(".")
    ];
    (any::<bool>(), proptest::collection::vec(piece, 1..7))
        .prop_map(|(negated, pieces)| format!("{}{}", if negated { "!" } else { "" }, pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn the_verdict_is_what_the_rules_say(lines in proptest::collection::vec(line(), 0..5), path in "[abé][ab.]?(/[abé][ab.]?){0,3}") {
        prop_assert_eq!(ignored(&lines.join("\n"), &path), slow_verdict(&lines, &path), "{:?} {}", lines, path);
    }

    /// What a walk that does not enter misses would have had the verdict of the directory.
    #[test]
    fn pruning_loses_nothing(lines in proptest::collection::vec(line(), 0..5), dir in "[ab]{1,2}(/[ab]{1,2}){0,2}", below in "[ab]{1,2}(/[ab]{1,2}){0,2}") {
        let patterns = patterns(&lines.join("\n"));
        let level = dir.split('/').fold(patterns.root(), |level, name| patterns.enter(&level, name.as_bytes()));
        prop_assert_eq!(patterns.means(&level), patterns.matches(Path::new(&dir)));
        if !patterns.may_differ_below(&level) {
            let verdict = patterns.matches(&Path::new(&dir).join(&below));
            prop_assert_eq!(verdict, patterns.means(&level), "{:?} {} {}", lines, dir, below);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(text: Vec<u8>, path in "\\PC{0,20}") {
        if let Ok(patterns) = Patterns::parse_file(&text) {
            patterns.matches(Path::new(&path));
        }
    }
}
