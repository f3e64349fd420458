//! What follows the keyword of an instruction: flags, and arguments in one of four forms.
//!
//! Offsets are in bytes, from the begin of the text that was given.

use serde_json::Value;

/// White space that parts arguments: neither a line feed nor that of Unicode.
const BLANKS: [char; 5] = ['\t', '\u{b}', '\u{c}', '\r', ' '];

/// Returns the first word, and where the rest begins.
pub(super) fn first(text: &str) -> (&str, usize) {
    let end = text.find(BLANKS).unwrap_or(text.len());
    let rest = text[end..].trim_start_matches(BLANKS);
    (&text[..end], text.len() - rest.len())
}

/// Returns the words between blanks, with where each begins; quotes mean nothing.
pub(super) fn split(text: &str) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    let mut at = 0;
    for word in text.split(BLANKS) {
        if !word.is_empty() {
            words.push((at, word));
        }
        at += word.len() + 1;
    }
    words
}

/// Returns the words that begin with `--`, where each begins, without their quotes and backslashes; and where the
/// arguments begin. A word of nothing but two dashes ends the flags.
pub(super) fn flags(text: &str) -> (Vec<(usize, String)>, usize) {
    let mut flags = Vec::new();
    let mut at = 0;
    loop {
        at = text.len() - text[at..].trim_start().len();
        if !text[at..].starts_with("--") {
            return (flags, at);
        }
        let (word, length) = flag(&text[at..]);
        if word == "--" {
            return (flags, text.len() - text[at + length..].trim_start().len());
        }
        flags.push((at, word));
        at += length;
    }
}

/// Reads one flag and returns it with the length of what was read.
fn flag(text: &str) -> (String, usize) {
    let mut word = String::new();
    let mut quote = None;
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match (c, quote) {
            ('\\', _) => word.extend(characters.next().map(|(_, c)| c)),
            (_, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => quote = Some(c),
            (_, None) if c.is_whitespace() => return (word, at),
            _ => word.push(c),
        }
    }
    (word, text.len())
}

/// Returns words between white space, with where each begins; quoted white space parts nothing. Quotes and escapes
/// are left in.
pub(super) fn quoted(text: &str, escape: char) -> Vec<(usize, String)> {
    let mut words = Vec::new();
    let mut word: Option<(usize, String)> = None;
    let mut quote = None;
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        if c.is_whitespace() && quote.is_none() {
            words.extend(word.take());
            continue;
        }
        let (_, word) = word.get_or_insert_with(|| (at, String::new()));
        if c == escape && quote != Some('\'') {
            // At the very end it says nothing.
            if let Some((_, next)) = characters.next() {
                word.extend([c, next]);
            }
            continue;
        }
        match quote {
            Some(open) if open == c => quote = None,
            None if matches!(c, '"' | '\'') => quote = Some(c),
            _ => {}
        }
        word.push(c);
    }
    words.extend(word.filter(|(_, word)| !word.is_empty()));
    words
}

/// What a text is as JSON.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Json {
    /// Not a list: a shell's matter.
    None,
    /// A list of strings.
    List(Vec<String>),
    /// A list with something else in it.
    Mixed,
}

/// Reads a JSON list of strings. What begins like one and is none is no error: a shell knows `[` too.
pub(super) fn json(text: &str) -> Json {
    if !text.trim_start().starts_with('[') {
        return Json::None;
    }
    let Ok(values) = serde_json::from_str::<Vec<Value>>(text) else { return Json::None };
    let strings = values.into_iter().map(|value| match value {
        Value::String(text) => Some(text),
        _ => None,
    });
    strings.collect::<Option<_>>().map_or(Json::Mixed, Json::List)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_end_where_arguments_begin() {
        let cases: [(&str, &[&str], &str); 14] = [
            ("", &[], ""),
            ("a --b", &[], "a --b"),
            ("--a", &["--a"], ""),
            ("--a  --b=c d", &["--a", "--b=c"], "d"),
            ("--a -- --b c", &["--a"], "--b c"),
            ("--", &[], ""),
            ("-a b", &[], "-a b"),
            ("--a='b c' d", &["--a=b c"], "d"),
            ("--a=\"b \\\" 'c'\" d", &["--a=b \" 'c'"], "d"),
            ("--a=b\\ c d", &["--a=b c"], "d"),
            ("--a=ü b", &["--a=ü"], "b"),
            ("--a='b c", &["--a=b c"], ""),
            ("--a=b\\", &["--a=b"], ""),
            ("--'a'=b c", &["--a=b"], "c"),
        ];
        for (text, expected, arguments) in cases {
            let (found, at) = flags(text);
            assert_eq!(found.iter().map(|(_, flag)| flag).collect::<Vec<_>>(), expected, "{text}");
            assert_eq!(&text[at..], arguments, "{text}");
            assert!(found.iter().all(|(at, _)| text[*at..].starts_with("--")), "{text}");
        }
    }

    #[test]
    fn quoted_blanks_part_nothing() {
        let cases: [(&str, &[&str]); 12] = [
            ("", &[]),
            (" a\tb ", &["a", "b"]),
            ("a='b c' d", &["a='b c'", "d"]),
            ("a=\"b c\" d", &["a=\"b c\"", "d"]),
            ("a=b\\ c d", &["a=b\\ c", "d"]),
            ("a=\"b\\\" c\" d", &["a=\"b\\\" c\"", "d"]),
            ("a='b\\' c' d", &["a='b\\'", "c' d"]),
            ("'' a", &["''", "a"]),
            ("a=\"b c", &["a=\"b c"]),
            ("a\\", &["a"]),
            ("\\", &[]),
            ("é='ü ö' ñ", &["é='ü ö'", "ñ"]),
        ];
        for (text, expected) in cases {
            let found = quoted(text, '\\');
            assert_eq!(found.iter().map(|(_, word)| word).collect::<Vec<_>>(), expected, "{text}");
        }
        assert_eq!(quoted("a=b` c", '`'), [(0, "a=b` c".to_owned())]);
        assert_eq!(quoted("a=b\\ c", '`').len(), 2);
    }

    #[test]
    fn words_are_split_at_blanks() {
        assert_eq!(split("a  'b c'\t\"d\""), [(0, "a"), (3, "'b"), (6, "c'"), (9, "\"d\"")]);
        assert_eq!(split(""), []);
        assert_eq!(first("RUN \t a"), ("RUN", 6));
        assert_eq!(first("RUN"), ("RUN", 3));
    }

    #[test]
    fn a_list_of_strings_is_json_and_all_else_is_not() {
        let list = |words: &[&str]| Json::List(words.iter().map(|&word| word.to_owned()).collect());
        let cases = [
            ("[]", list(&[])),
            (" [ \"a\" , \"b c\" ] ", list(&["a", "b c"])),
            ("[\"\\u00e9\\n\\\\\"]", list(&["é\n\\"])),
            ("[1]", Json::Mixed),
            ("[\"a\", null]", Json::Mixed),
            ("[\"a\", [\"b\"]]", Json::Mixed),
            ("['a']", Json::None),
            ("[\"a\"", Json::None),
            ("[\"a\",]", Json::None),
            ("[\"a\"] b", Json::None),
            ("[\"c:\\x\"]", Json::None),
            ("[ -f /a ] && b", Json::None),
            ("\"a\"", Json::None),
            ("{\"a\": []}", Json::None),
        ];
        for (text, expected) in cases {
            assert_eq!(json(text), expected, "{text}");
        }
    }
}
