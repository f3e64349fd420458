//! Which heredocs the line of an instruction announces.

use super::ast::Heredoc;
use crate::build::expand::Expander;

/// Returns the heredocs that a line names, without their content.
///
/// The backslash escapes here whatever the file's escape character is. A line whose quotes are not closed names none.
pub(super) fn of_line(line: &str) -> Vec<Heredoc> {
    if !line.contains("<<") {
        return Vec::new();
    }
    let lexer = Expander::new(&|_| None, '\\').keep_quotes().keep_escapes().keep_unset().join_heredocs();
    let words = lexer.expand(line).map(|expansion| expansion.words).unwrap_or_default();
    words.iter().filter_map(|word| of_word(word)).collect()
}

/// Reads `[N]<<[-]NAME`; white space may stand before the name.
pub(super) fn of_word(word: &str) -> Option<Heredoc> {
    let digits = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
    let (descriptor, rest) = word.split_at(digits);
    let rest = rest.strip_prefix("<<")?;
    let (strips_tabs, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.trim_start();
    if rest.contains('<') {
        return None;
    }
    let lexer = || Expander::new(&|_| None, '\\').keep_unset();
    let (name, typed) = (lexer().expand(rest).ok()?, lexer().keep_quotes().expand(rest).ok()?);
    let ([name], [typed]) = (name.words.as_slice(), typed.words.as_slice()) else { return None };
    let quotes = |text: &str| text.chars().filter(|c| matches!(c, '"' | '\'')).count();
    Some(Heredoc {
        name: name.clone(),
        content: String::new(),
        expand: quotes(name) == quotes(typed),
        descriptor: descriptor.parse().unwrap_or(0),
        strips_tabs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns descriptor, name, whether it expands, whether tabs go.
    fn found(line: &str) -> Vec<(u32, String, bool, bool)> {
        of_line(line).into_iter().map(|doc| (doc.descriptor, doc.name, doc.expand, doc.strips_tabs)).collect()
    }

    #[test]
    fn heredocs_are_words_of_their_own() {
        let one = |descriptor, name: &str, expand, tabs| vec![(descriptor, name.to_owned(), expand, tabs)];
        let cases = [
            ("RUN <<EOF", one(0, "EOF", true, false)),
            ("RUN <<-EOF", one(0, "EOF", true, true)),
            ("RUN <<'EOF'", one(0, "EOF", false, false)),
            ("RUN <<\"EOF\"", one(0, "EOF", false, false)),
            ("RUN <<E'O'F", one(0, "EOF", false, false)),
            ("RUN <<-'EOF'", one(0, "EOF", false, true)),
            ("RUN 3<<EOF cat /dev/fd/3", one(3, "EOF", true, false)),
            ("RUN <<EOF cat > /a", one(0, "EOF", true, false)),
            ("RUN cat <<EOF>/a", Vec::from([(0, "EOF>/a".to_owned(), true, false)])),
            ("RUN <<$X", one(0, "$X", true, false)),
            ("RUN <<${X:-a}", one(0, "${X:-a}", true, false)),
            ("RUN <<'a b'", one(0, "a b", false, false)),
            ("RUN echo '<<EOF'", vec![]),
            ("RUN echo \"<<EOF\"", vec![]),
            ("RUN cat<<EOF", vec![]),
            ("RUN <<  EOF", one(0, "EOF", true, false)),
            ("RUN <<\tEOF > a", one(0, "EOF", true, false)),
            ("RUN << -EOF", one(0, "-EOF", true, false)),
            ("RUN <<- EOF", vec![]),
            ("RUN cat << 'a b'", one(0, "a b", false, false)),
            ("RUN echo $((1 << 2))", one(0, "2))", true, false)),
            ("RUN cat << <EOF", vec![]),
            ("RUN <<eo\\'f", one(0, "eo'f", true, false)),
            ("RUN <<'e'o\\'f", one(0, "eo'f", false, false)),
            ("RUN \"<<EOF\" a", vec![]),
            ("RUN <<<EOF", vec![]),
            ("RUN cat <<<word", vec![]),
            ("RUN echo $((1<<2))", vec![]),
            ("RUN echo $(( 1<<2 ))", one(1, "2", true, false)),
            ("RUN <<EOF don't", vec![]),
            ("RUN << ", vec![]),
            ("RUN <<", vec![]),
            ("RUN <<-", vec![]),
            ("RUN <<''", vec![]),
        ];
        for (line, expected) in cases {
            assert_eq!(found(line), expected, "{line}");
        }
        assert_eq!(found("COPY <<a <<'b' 4<<-c /d/").len(), 3);
    }
}
