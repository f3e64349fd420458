//! `simplestreams:`: the newest root filesystem of that name, from an index as Ubuntu and Linux Containers publish them.
//!
//! ```text
//! streams/v1/index.json ──> path of the products ──> product by alias, architecture, variant
//!                                                      └─ newest version ──> root.tar.* or squashfs, with SHA-256
//! ```
//!
//! The index is a stranger's: sizes are limited, unknown fields ignored, and paths stay on the server or go to one of https.

use std::collections::BTreeMap;

use rootling_backends::{Context, Error, ErrorKind, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::bootstrap::of_debian;
use super::fetch::Fetch;
use super::location::Location;
use super::words::{Words, is_word};
use super::{Content, Resolved, server};
use crate::image::{Digest, Platform};
use crate::near;

/// Bytes in the largest `index.json`, and in the largest list of products: Ubuntu's has a few million.
const INDEX_LIMIT: u64 = 2 << 20;
const PRODUCTS_LIMIT: u64 = 64 << 20;

/// Lists of products that are looked through.
const LISTS: usize = 16;

/// What is wanted of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Streams {
    pub(super) server: Location,
    alias: String,
    variant: Option<String>,
    architecture: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Index {
    #[serde(default)]
    index: BTreeMap<String, List>,
}

#[derive(Debug, Deserialize)]
struct List {
    #[serde(default)]
    path: String,
    #[serde(default)]
    datatype: String,
}

#[derive(Debug, Deserialize)]
struct Products {
    #[serde(default)]
    products: BTreeMap<String, Product>,
}

#[derive(Debug, Deserialize)]
struct Product {
    #[serde(default)]
    aliases: String,
    #[serde(default)]
    arch: String,
    #[serde(default)]
    variant: String,
    #[serde(default)]
    versions: BTreeMap<String, Version>,
}

#[derive(Debug, Deserialize)]
struct Version {
    #[serde(default)]
    items: BTreeMap<String, Item>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Item {
    #[serde(default)]
    ftype: String,
    #[serde(default)]
    path: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    sha256: String,
}

/// What was chosen.
#[derive(Debug, PartialEq, Eq)]
struct Choice<'a> {
    product: &'a str,
    version: &'a str,
    item: &'a Item,
    is_squashfs: bool,
}

impl Streams {
    /// Reads `SERVER/ALIAS[?variant=..&arch=..]`; with `server` known already, only the alias.
    pub(super) fn parse(text: &str, rest: &str, known: Option<&str>) -> Result<Self> {
        let mut words = Words::parse(text, rest)?;
        if known.is_some() && words.path.contains("//") {
            return Err(words
                .wrong("it is on a server already")
                .hint("of others: simplestreams:SERVER//ALIAS"));
        }
        let (server, alias) = server::split(&words, known)?;
        let (variant, architecture) = (words.one("variant")?, words.one("arch")?);
        if let Some(word) = [&variant, &architecture].into_iter().flatten().find(|word| !is_word(word, b"")) {
            return Err(words.wrong(format!("{word:?} is no name of that kind")));
        }
        words.finish("variant and arch")?;
        Ok(Self { server, alias: alias.to_owned(), variant, architecture })
    }

    /// Finds the newest version.
    pub(super) fn resolve(&self, fetch: &Fetch<'_>) -> Result<Resolved> {
        let index: Index = read(fetch, &self.server.join("streams/v1/index.json")?, INDEX_LIMIT)?;
        let lists =
            index.index.values().filter(|list| list.datatype == "image-downloads" && !list.path.is_empty());
        let mut names = Vec::new();
        for list in lists.take(LISTS) {
            let products: Products = read(fetch, &self.server.join(&list.path)?, PRODUCTS_LIMIT)?;
            match self.choose(&products.products)? {
                Some(choice) => return self.chosen(&choice),
                None => names.extend(products.products.values().flat_map(Product::names).map(str::to_owned)),
            }
        }
        names.sort();
        names.dedup();
        let message = format!("{} has no image {:?}", self.server, self.alias);
        let near = near::near(&self.alias, names.iter().map(String::as_str));
        let error = Error::new(ErrorKind::NotFound, message);
        Err(match (near.is_empty(), names.first()) {
            (false, _) => error.hint(format!("did you mean {}?", near.join(" or "))),
            (true, Some(name)) => error.hint(format!("there are {} names, {name} for one", names.len())),
            (true, None) => error.hint("there is none at all: is it the right directory of the server?"),
        })
    }

    fn choose<'a>(&self, products: &'a BTreeMap<String, Product>) -> Result<Option<Choice<'a>>> {
        let wanted = self.architecture.clone().unwrap_or_else(|| of_debian(&Platform::host()));
        let named: Vec<_> = products.iter().filter(|(key, product)| self.means(key, product)).collect();
        if named.is_empty() {
            return Ok(None);
        }
        let of_arch = |product: &Product| match self.alias_of_arch(product) {
            Some(_) => self.architecture.as_ref().is_none_or(|wanted| *wanted == product.arch),
            None => product.arch == wanted,
        };
        let mut fitting: Vec<_> = named.iter().filter(|(_, product)| of_arch(product)).collect();
        if fitting.is_empty() {
            return Err(self.missing(
                &format!("for {wanted}"),
                "arch",
                named.iter().map(|(_, product)| &product.arch),
            ));
        }
        if let Some(variant) = &self.variant {
            let all: Vec<_> = fitting.iter().map(|(_, product)| &product.variant).collect();
            fitting.retain(|(_, product)| product.variant == *variant);
            if fitting.is_empty() {
                return Err(self.missing(&format!("of variant {variant:?}"), "variant", all.into_iter()));
            }
        }
        // The plain one before those with more in it.
        fitting.sort_by_key(|(_, product)| !matches!(product.variant.as_str(), "" | "default"));
        let found = fitting.iter().find_map(|(key, product)| {
            product.versions.iter().rev().find_map(|(version, content)| {
                let (item, is_squashfs) = content.root()?;
                Some(Choice { product: key, version, item, is_squashfs })
            })
        });
        let error = || {
            let message = format!(
                "{} has images {:?}, but none of them is a root filesystem with a checksum",
                self.server, self.alias
            );
            Error::new(ErrorKind::Unsupported, message).hint("virtual machines' disks are not imported")
        };
        found.ok_or_else(error).map(Some)
    }

    fn means(&self, key: &str, product: &Product) -> bool {
        key == self.alias
            || product.names().any(|name| name == self.alias)
            || self.alias_of_arch(product).is_some()
    }

    /// Returns the name before the architecture, where the alias is `NAME/ARCHITECTURE`.
    fn alias_of_arch(&self, product: &Product) -> Option<&str> {
        let (alias, arch) = self.alias.rsplit_once('/')?;
        (arch == product.arch && product.names().any(|name| name == alias)).then_some(alias)
    }

    fn missing<'a>(&self, what: &str, option: &str, there: impl Iterator<Item = &'a String>) -> Error {
        let mut there: Vec<&str> = there.map(String::as_str).collect();
        there.sort_unstable();
        there.dedup();
        let message = format!("{} has no image {:?} {what}", self.server, self.alias);
        Error::new(ErrorKind::NotFound, message).hint(format!("there is ?{option}={}", there.join(", ")))
    }

    fn chosen(&self, choice: &Choice<'_>) -> Result<Resolved> {
        let item = choice.item;
        let digest = Digest::parse(&format!("sha256:{}", item.sha256))
            .context(|| format!("read what {} says of {}", self.server, choice.product))?;
        let at = self.server.join(&item.path)?;
        let content = if choice.is_squashfs { Content::Squashfs(at) } else { Content::Archive(at) };
        Ok(Resolved {
            digest: Some(digest),
            length: item.size,
            version: Some(format!("{} version {}", choice.product, choice.version)),
            ..Resolved::of(content)
        })
    }
}

impl Product {
    fn names(&self) -> impl Iterator<Item = &str> {
        self.aliases.split(',').map(str::trim).filter(|name| !name.is_empty())
    }
}

impl Version {
    /// Returns the root filesystem among the files of a version: a tar rather than a squashfs.
    fn root(&self) -> Option<(&Item, bool)> {
        let usable = |item: &&Item| !item.path.is_empty() && !item.sha256.is_empty();
        let tar = self.items.values().filter(usable).find(|item| item.ftype.starts_with("root.tar"));
        let squashfs = || self.items.values().filter(usable).find(|item| item.ftype == "squashfs");
        tar.map(|item| (item, false)).or_else(|| squashfs().map(|item| (item, true)))
    }
}

fn read<T: DeserializeOwned>(fetch: &Fetch<'_>, at: &Location, limit: u64) -> Result<T> {
    let bytes = fetch.small(at, limit)?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Error::new(ErrorKind::Corrupt, format!("{at} is not an index that can be read: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn streams(rest: &str) -> Streams {
        Streams::parse(rest, rest, Some("images")).unwrap()
    }

    fn products() -> BTreeMap<String, Product> {
        let item = |ftype: &str, path: &str| serde_json::json!({"ftype": ftype, "path": path, "sha256": "a".repeat(64), "size": 1, "more": {}});
        let product = |arch: &str, variant: &str| {
            let aliases = match variant {
                "cloud" => "debian/12/cloud",
                _ => "debian/12,debian/bookworm",
            };
            serde_json::json!({"aliases": aliases, "arch": arch, "variant": variant, "os": "Debian", "versions": {
                "20260101_05:24": {"items": {"root.tar.xz": item("root.tar.xz", &format!("{arch}/old"))}},
                "20260102_05:24": {"items": {
                    "disk": item("disk-kvm.img", "disk"),
                    "root.squashfs": item("squashfs", &format!("{arch}/squash")),
                    "root.tar.xz": item("root.tar.xz", &format!("{arch}/new")),
                }},
                "20260103_05:24": {"items": {"disk": item("disk-kvm.img", "disk")}},
            }})
        };
        let all = serde_json::json!({"products": {
            "debian:bookworm:amd64:cloud": product("amd64", "cloud"),
            "debian:bookworm:amd64:default": product("amd64", "default"),
            "debian:bookworm:arm64:default": product("arm64", "default"),
        }});
        serde_json::from_value::<Products>(all).unwrap().products
    }

    #[test]
    fn the_newest_root_of_the_right_sort_is_chosen() {
        let products = products();
        let path =
            |rest: &str| streams(rest).choose(&products).unwrap().map(|choice| choice.item.path.clone());
        assert_eq!(path("debian/bookworm?arch=amd64").as_deref(), Some("amd64/new"));
        assert_eq!(path("debian/12?arch=arm64").as_deref(), Some("arm64/new"));
        assert_eq!(path("debian/12/arm64").as_deref(), Some("arm64/new"));
        assert_eq!(path("debian/12/cloud?arch=amd64").as_deref(), Some("amd64/new"));
        assert_eq!(path("debian:bookworm:arm64:default?arch=arm64").as_deref(), Some("arm64/new"));
        assert_eq!(path("debian/13?arch=amd64"), None);
        let error = |rest: &str| streams(rest).choose(&products).unwrap_err();
        assert_eq!(error("debian/12?arch=s390x").first_hint(), Some("there is ?arch=amd64, arm64"));
        assert_eq!(error("debian/12?arch=amd64&variant=x").first_hint(), Some("there is ?variant=default"));
    }

    #[test]
    fn a_squashfs_will_do_where_there_is_no_tar() {
        let mut products = products();
        for product in products.values_mut() {
            for version in product.versions.values_mut() {
                version.items.retain(|_, item| item.ftype != "root.tar.xz");
            }
        }
        let wanted = streams("debian/12?arch=amd64");
        let choice = wanted.choose(&products).unwrap().unwrap();
        assert!(choice.is_squashfs && choice.item.path == "amd64/squash");
        for product in products.values_mut() {
            product.versions.clear();
        }
        assert_eq!(wanted.choose(&products).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    proptest! {
        #[test]
        fn no_index_is_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[\\[\\]{}\",:a-z0-9]{0,80}") {
            drop(serde_json::from_slice::<Products>(&bytes));
            drop(serde_json::from_str::<Index>(&text));
        }
    }
}
