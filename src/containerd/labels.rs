//! Labels: how long they may be, and what an update changes of them.

use std::collections::{BTreeMap, HashMap};

use rootling_backends::{Error, ErrorKind, Result};

use super::quoted;

/// Bytes of a label's key and value together, as containerd's metadata has it.
const LABEL_MAX: usize = 4096;

/// The labels of one held tree.
pub(super) type Labels = BTreeMap<String, String>;

/// Takes labels off the wire. One that is too long is an error of kind `InvalidInput`; one without a value is none.
pub(super) fn taken(labels: HashMap<String, String>) -> Result<Labels> {
    let labels: Labels = labels.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    labels.iter().try_for_each(|(key, value)| check(key, value))?;
    Ok(labels)
}

fn check(key: &str, value: &str) -> Result<()> {
    let length = key.len() + value.len();
    if key.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "a label has no key"));
    }
    if length <= LABEL_MAX {
        return Ok(());
    }
    let shown: String = key.chars().take(64).collect();
    let message = format!("label {shown:?} has {length} bytes with its value, more than {LABEL_MAX}");
    Err(Error::new(ErrorKind::InvalidInput, message))
}

/// What an update changes of the labels.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// They become these.
    All(Labels),
    /// These get a value, or go.
    Some(BTreeMap<String, Option<String>>),
}

impl Change {
    /// Reads the fields that are to be updated; none are all that can be.
    ///
    /// Only labels can: another field is an error of kind `InvalidInput`. What follows `labels.` is a key as it is, dots and slashes
    /// included, or in quotes.
    pub(super) fn read(fields: &[String], labels: HashMap<String, String>) -> Result<Self> {
        let labels = taken(labels)?;
        if fields.is_empty() || fields.iter().any(|field| field == "labels") {
            fields.iter().try_for_each(|field| key(field).map(drop))?;
            return Ok(Self::All(labels));
        }
        let one = |field: &String| {
            let key = key(field)?.expect("the field of all labels was looked for");
            Ok((key.clone(), labels.get(&key).cloned()))
        };
        fields.iter().map(one).collect::<Result<_>>().map(Self::Some)
    }

    /// Makes it.
    pub(super) fn apply(self, labels: &mut Labels) {
        match self {
            Self::All(new) => *labels = new,
            Self::Some(changes) => {
                for (key, value) in changes {
                    match value {
                        Some(value) => drop(labels.insert(key, value)),
                        None => drop(labels.remove(&key)),
                    }
                }
            }
        }
    }
}

/// Returns the key of the label that a field is; `None` is all labels.
fn key(field: &str) -> Result<Option<String>> {
    if field == "labels" {
        return Ok(None);
    }
    let Some(key) = field.strip_prefix("labels.").filter(|key| !key.is_empty()) else {
        let message = format!("field {field:?} cannot be updated: only labels can");
        return Err(Error::new(ErrorKind::InvalidInput, message));
    };
    // A key that only begins like a quoted one is a key.
    let is_quoted = key.starts_with('"');
    let unquoted = is_quoted.then(|| quoted::read(key, 0).ok()).flatten();
    let whole = unquoted.filter(|(_, end)| *end == key.len()).map(|(text, _)| text);
    Ok(Some(whole.unwrap_or_else(|| key.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(labels: &[(&str, &str)]) -> HashMap<String, String> {
        labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn updated(fields: &[&str], new: &[(&str, &str)]) -> Vec<(String, String)> {
        let fields: Vec<String> = fields.iter().map(|field| (*field).to_owned()).collect();
        let mut labels = taken(wire(&[("a", "1"), ("b/c.d", "2")])).unwrap();
        Change::read(&fields, wire(new)).unwrap().apply(&mut labels);
        labels.into_iter().collect()
    }

    fn pairs(labels: &[(&str, &str)]) -> Vec<(String, String)> {
        labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn no_field_is_all_labels() {
        assert_eq!(updated(&[], &[("x", "9")]), pairs(&[("x", "9")]));
        assert_eq!(updated(&["labels"], &[]), pairs(&[]));
        assert_eq!(updated(&["labels.a", "labels"], &[("b", "3")]), pairs(&[("b", "3")]));
    }

    #[test]
    fn one_label_gets_a_value_or_goes() {
        assert_eq!(updated(&["labels.a"], &[("a", "9"), ("z", "1")]), pairs(&[("a", "9"), ("b/c.d", "2")]));
        assert_eq!(updated(&["labels.b/c.d"], &[]), pairs(&[("a", "1")]));
        assert_eq!(updated(&["labels.\"b/c.d\""], &[("b/c.d", "")]), pairs(&[("a", "1")]));
    }

    #[test]
    fn other_fields_and_long_labels_are_refused() {
        for field in ["parent", "name", "labels.", "kind", "labelsx", ""] {
            for with in [vec![field.to_owned()], vec!["labels".to_owned(), field.to_owned()]] {
                let error = Change::read(&with, HashMap::new()).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidInput, "{with:?}");
            }
        }
        assert!(taken(wire(&[("key", &"v".repeat(4093))])).is_ok());
        assert_eq!(taken(wire(&[("key", &"v".repeat(4094))])).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(taken(wire(&[("", "v")])).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
