//! `WWW-Authenticate`: what a server wants to be shown (RFC 9110 11.3, RFC 6750 3), read from hostile text.

/// Challenges that are looked at; a server sends one or two.
const LIMIT: usize = 16;

/// One way to be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// `basic`, `bearer`, ...; in small letters.
    pub scheme: String,
    /// Names in small letters, values without quotes, in their order.
    pub parameters: Vec<(String, String)>,
}

impl Challenge {
    /// Returns the challenges of one header; what is not understood ends the list.
    pub fn parse(header: &str) -> Vec<Self> {
        let mut rest = Rest(header);
        let mut challenges: Vec<Self> = Vec::new();
        while challenges.len() < LIMIT {
            rest.skip_commas();
            let Some(word) = rest.token() else { break };
            rest.skip_spaces();
            // `name =` belongs to the challenge before it; `Scheme` and `Scheme name=` begin one.
            let parameter = rest.0.starts_with('=').then(|| rest.value()).flatten();
            match (parameter, challenges.last_mut()) {
                (Some(value), Some(last)) => last.parameters.push((word.to_ascii_lowercase(), value)),
                (Some(_), None) => break,
                (None, _) => {
                    challenges.push(Self { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
                    rest.skip_token68();
                }
            }
        }
        challenges
    }

    /// Returns the value of the first parameter of that name.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// What is still to be read.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn skip_spaces(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t']);
    }

    fn skip_commas(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t', ',']);
    }

    fn token(&mut self) -> Option<&'a str> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        let (token, rest) = self.0.split_at(self.0.find(|c| !is_part(c)).unwrap_or(self.0.len()));
        self.0 = rest;
        (!token.is_empty()).then_some(token)
    }

    /// Reads `= value`, where the value is a token or in quotes.
    fn value(&mut self) -> Option<String> {
        self.0 = self.0.strip_prefix('=')?;
        self.skip_spaces();
        if !self.0.starts_with('"') {
            // Servers leave quotes away where they must not: `realm=https://host/token`.
            let end = self.0.find([',', ' ', '\t', '"']).unwrap_or(self.0.len());
            let (value, rest) = self.0.split_at(end);
            self.0 = rest;
            return Some(value.to_owned());
        }
        let mut value = String::new();
        let mut characters = self.0[1..].char_indices();
        while let Some((at, c)) = characters.next() {
            match c {
                '"' => {
                    self.0 = &self.0[at + 2..];
                    return Some(value);
                }
                '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
                other => value.push(other),
            }
        }
        self.0 = "";
        None
    }

    /// Skips what `Negotiate` and others have in place of parameters: letters, then `=` to the end.
    fn skip_token68(&mut self) {
        let is_part = |c: char| c.is_ascii_alphanumeric() || "-._~+/".contains(c);
        let end = self.0.find(|c| !is_part(c)).unwrap_or(self.0.len());
        let after = self.0[end..].trim_start_matches('=');
        let ends_here = after.trim_start().is_empty() || after.trim_start().starts_with(',');
        if end > 0 && ends_here {
            self.0 = after;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(scheme: &str, parameters: &[(&str, &str)]) -> Challenge {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Challenge { scheme: scheme.to_owned(), parameters: parameters.iter().map(owned).collect() }
    }

    #[test]
    fn what_registries_send_is_read() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        assert_eq!(
            Challenge::parse(hub),
            [challenge(
                "bearer",
                &[
                    ("realm", "https://auth.docker.io/token"),
                    ("service", "registry.docker.io"),
                    ("scope", "repository:a/b:pull,push"),
                ]
            )]
        );
        assert_eq!(Challenge::parse("Basic realm=Registry"), [challenge("basic", &[("realm", "Registry")])]);
        let several = r#"Negotiate abc==, BASIC realm = "a \"b\", c" , Bearer realm=https://h/t?x, error="invalid_token""#;
        assert_eq!(
            Challenge::parse(several),
            [
                challenge("negotiate", &[]),
                challenge("basic", &[("realm", "a \"b\", c")]),
                challenge("bearer", &[("realm", "https://h/t?x"), ("error", "invalid_token")]),
            ]
        );
        assert_eq!(
            Challenge::parse("Negotiate, Basic"),
            [challenge("negotiate", &[]), challenge("basic", &[])]
        );
    }

    #[test]
    fn damage_ends_the_list() {
        assert_eq!(Challenge::parse(""), []);
        assert_eq!(Challenge::parse("=x"), []);
        assert_eq!(Challenge::parse(r#"realm="x""#), []);
        assert_eq!(
            Challenge::parse(r#"Basic realm="open"#),
            [challenge("basic", &[]), challenge("realm", &[])]
        );
        assert!(Challenge::parse(&"Basic,".repeat(1000)).len() <= LIMIT);
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(header in "(?s)(Bearer |Basic |[a-z]+=|\"|\\\\|,| |=|.){0,30}") {
            proptest::prop_assert!(Challenge::parse(&header).len() <= LIMIT);
        }

        #[test]
        fn a_quoted_value_is_what_was_quoted(value in "\\PC{0,20}") {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            let parsed = Challenge::parse(&format!("Bearer realm=\"{quoted}\", service=x"));
            proptest::prop_assert_eq!(parsed[0].parameter("realm"), Some(value.as_str()));
            proptest::prop_assert_eq!(parsed[0].parameter("service"), Some("x"));
        }
    }
}
