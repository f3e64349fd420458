//! Names with values, and lists: `ARG`, `ENV`, `LABEL`, `VOLUME`.

use super::super::ast::Command;
use super::super::problem::Fault;
use super::super::words::{first, quoted, split};
use super::{Arguments, Reading};

impl Arguments<'_> {
    pub(super) fn arg(&self) -> Result<Reading, Fault> {
        let words = quoted(self.text, self.escape);
        let arguments: Vec<String> = words.iter().map(|(_, word)| word.clone()).collect();
        self.some(&arguments, "ARG NAME, or ARG NAME=default")?;
        let mut declared = Vec::new();
        for (at, word) in words {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (word, None),
            };
            if name.is_empty() {
                return Err(Fault::new(self.at + at, "a default stands there without a name".to_owned())
                    .hint("write ARG NAME=default, without blanks around ="));
            }
            declared.push((name, value));
        }
        Ok(Reading::new(Command::Arg(declared), arguments))
    }

    /// Reads `NAME=VALUE ...`, or the older `NAME REST OF THE LINE`.
    pub(super) fn pairs(&self, command: impl Fn(Vec<(String, String)>) -> Command) -> Result<Reading, Fault> {
        let keyword = self.keyword;
        let words = quoted(self.text, self.escape);
        let Some((_, word)) = words.first() else {
            return Err(self
                .fault(format!("{keyword} says nothing"))
                .hint(format!("write {keyword} NAME=value")));
        };
        if !word.contains('=') {
            let (name, rest) = first(self.text);
            let value = &self.text[rest..];
            if value.is_empty() {
                return Err(self
                    .fault(format!("{name} has no value"))
                    .hint(format!("write {keyword} {name}=value, or {name}= for an empty one")));
            }
            let pair = (name.to_owned(), value.to_owned());
            return Ok(Reading::new(command(vec![pair.clone()]), vec![pair.0, pair.1]));
        }
        let mut pairs = Vec::new();
        for (at, word) in &words {
            let fault = |message: String| Fault::new(self.at + at, message);
            match word.split_once('=') {
                None => {
                    return Err(fault(format!("{word} has no ="))
                        .hint("put a value with blanks in quotes: NAME=\"one two\""));
                }
                Some(("", _)) => return Err(fault("a value stands there without a name".to_owned())),
                Some((name, value)) => pairs.push((name.to_owned(), value.to_owned())),
            }
        }
        Ok(Reading::new(command(pairs), words.into_iter().map(|(_, word)| word).collect()))
    }

    pub(super) fn volume(&self) -> Result<Reading, Fault> {
        let list = self.json(self.text, self.at)?;
        let is_json = list.is_some();
        let arguments: Vec<String> =
            list.unwrap_or_else(|| split(self.text).into_iter().map(|(_, path)| path.to_owned()).collect());
        self.some(&arguments, "VOLUME /directory")?;
        let paths: Vec<String> = arguments.iter().map(|path| path.trim().to_owned()).collect();
        if paths.iter().any(String::is_empty) {
            return Err(self.fault("a volume has an empty path"));
        }
        Ok(Reading { is_json, ..Reading::new(Command::Volume(paths), arguments) })
    }
}
