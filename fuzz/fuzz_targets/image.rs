//! Reads any bytes as a reference, a platform, a manifest and a configuration: what is taken is written as it was meant.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rootling::image::{Configuration, Document, ImageReference, Parsed, Platform};

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(reference) = ImageReference::parse(text) {
            assert_eq!(ImageReference::parse(&reference.to_string()).expect("its own form"), reference);
            assert_eq!(ImageReference::parse(&reference.familiar()).expect("its familiar form"), reference);
            assert!(reference.default_name().len() <= 128);
        }
        if let Ok(platform) = Platform::parse(text) {
            assert_eq!(platform.rank(&platform), Some(0));
        }
    }
    if let Ok(document) = Document::parse(data.to_vec(), None) {
        for child in document.children() {
            // An error is as good as success: most inputs are damaged.
            drop(child.inline());
        }
        let again = match document.parsed.clone() {
            Parsed::Manifest(manifest) => Document::of_manifest(manifest),
            Parsed::Index(index) => Document::of_index(index),
        };
        let read = Document::parse(again.bytes.clone(), Some(&document.media_type)).expect("what we wrote");
        assert_eq!(read.parsed, document.parsed);
    }
    if let Ok(configuration) = Configuration::parse(data) {
        assert_eq!(configuration.chain_ids().len(), configuration.layer_history().len());
    }
});
