//! Expands any text in every way there is: it must not panic, and take no more steps than the text is long, or so.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rootling::build::expand::{self, Expander};

fn value(name: &str) -> Option<String> {
    match name {
        "x" => Some("a/b.c*\nd e".to_owned()),
        "y" => Some(String::new()),
        _ => None,
    }
}

fuzz_target!(|text: &str| {
    for escape in ['\\', '`'] {
        let plain = Expander::new(&value, escape).expand(text);
        let kept = Expander::new(&value, escape).keep_quotes().keep_escapes().keep_unset().expand(text);
        if let Ok(expansion) = &plain {
            assert!(expansion.words.iter().all(|word| !word.is_empty()));
            assert!(expansion.found.is_disjoint(&expansion.unset));
        }
        drop(kept);
    }
    // An error is as good as success: most inputs are damaged.
    drop(expand::heredoc(text, &value));
});
