//! Names in the index of a layout or archive, and which image a word means.
//!
//! | who writes | `org.opencontainers.image.ref.name` | `io.containerd.image.name` |
//! |---|---|---|
//! | skopeo, podman, umoci | what the person typed: a tag or a whole reference | |
//! | docker, buildx, containerd | the tag | the whole reference |

use rootling_backends::{Error, ErrorKind, Result};

use crate::image::{Descriptor, Digest, Document, ImageReference, Index, annotations};

/// Something to be had by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// What the place calls it: a tag, a whole reference; what has no name is had by its digest.
    pub name: Option<String>,
    /// Its manifest or index, where the place tells without being asked for it.
    pub descriptor: Option<Descriptor>,
}

/// The index of a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    document: Document,
    index: Index,
}

/// What a word means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chosen<'a> {
    /// This entry.
    Entry(&'a Descriptor),
    /// Several entries, one for each platform: this index of them.
    Index(Box<Document>),
}

impl Catalog {
    /// Takes the document of an index; a manifest is an error of kind `InvalidInput`.
    pub fn new(document: Document) -> Result<Self> {
        match document.index().cloned() {
            Some(index) => Ok(Self { document, index }),
            None => Err(Error::new(ErrorKind::InvalidInput, "it is a manifest and not an index")),
        }
    }

    /// Returns what the index says.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Returns the names and what they are of, in order.
    pub fn list(&self) -> Vec<Listed> {
        let listed = |entry: &Descriptor| Listed {
            name: name(entry).map(str::to_owned),
            descriptor: Some(entry.clone()),
        };
        self.index.manifests.iter().map(listed).collect()
    }

    /// Returns what `name` means: a digest, the name of an entry, or a reference that is the same as the name; without a name,
    /// the only image.
    ///
    /// Entries of several platforms of the same name are one image.
    pub fn choose(&self, name: Option<&str>) -> Result<Chosen<'_>> {
        let entries = &self.index.manifests;
        let found: Vec<&Descriptor> = match name {
            None => self.index.images().collect(),
            Some(name) => {
                let exact: Vec<&Descriptor> =
                    entries.iter().filter(|entry| names(entry).any(|own| own == name)).collect();
                if exact.is_empty() {
                    entries.iter().filter(|entry| is_meant(entry, name)).collect()
                } else {
                    exact
                }
            }
        };
        let Some((first, rest)) = found.split_first() else { return Err(self.not_found(name)) };
        if rest.iter().all(|entry| entry.digest == first.digest) {
            return Ok(Chosen::Entry(first));
        }
        let is_same =
            |entry: &&&Descriptor| entry.platform.is_some() && self::name(entry) == self::name(first);
        if found.iter().filter(is_same).count() != found.len() {
            return Err(self.ambiguous(name, &found));
        }
        if found.len() == entries.len() {
            return Ok(Chosen::Index(Box::new(self.document.clone())));
        }
        let several = found.iter().map(|entry| (*entry).clone()).collect();
        Ok(Chosen::Index(Box::new(Document::of_index(Index::new(several)))))
    }

    fn not_found(&self, name: Option<&str>) -> Error {
        let Some(name) = name else {
            return Error::new(ErrorKind::NotFound, "there is no image in it");
        };
        let error = Error::new(ErrorKind::NotFound, format!("there is no image {name:?} in it"));
        let known: Vec<String> = self.index.manifests.iter().map(shown).collect();
        if known.is_empty() { error } else { error.hint(format!("there is {}", known.join(", "))) }
    }

    fn ambiguous(&self, name: Option<&str>, found: &[&Descriptor]) -> Error {
        let message = match name {
            None => format!("there are {} images in it", found.len()),
            Some(name) => format!("there are {} images {name:?} in it", found.len()),
        };
        // By its digest each can be had.
        let known: Vec<String> = match name {
            None => found.iter().map(|entry| shown(entry)).collect(),
            Some(_) => found.iter().map(|entry| entry.digest.to_string()).collect(),
        };
        Error::new(ErrorKind::InvalidInput, message).hint(format!("choose one of {}", known.join(", ")))
    }

    /// Returns the index with this entry under this name: what had it, or is the same without a name, is there no more.
    #[must_use]
    pub fn with(&self, mut entry: Descriptor, name: Option<&str>) -> Index {
        let mut index = self.index.clone();
        let has_name = |entry: &Descriptor| names(entry).next().is_some();
        let Some(name) = name else {
            // It may be there already, perhaps even with a name.
            if !index.manifests.iter().any(|old| old.digest == entry.digest) {
                index.manifests.push(entry);
            }
            return index;
        };
        set_name(&mut entry, name);
        let is_replaced = |old: &Descriptor| {
            if has_name(old) { is_called(old, name) } else { old.digest == entry.digest }
        };
        let place = index.manifests.iter().position(is_replaced).unwrap_or(index.manifests.len());
        index.manifests.retain(|old| !is_replaced(old));
        index.manifests.insert(place, entry);
        index
    }
}

/// Names an entry: in the words of skopeo and podman, and if it is a whole reference in those of docker too.
pub fn set_name(entry: &mut Descriptor, name: &str) {
    entry.annotations.insert(annotations::REF_NAME.to_owned(), name.to_owned());
    if name.contains([':', '/'])
        && let Ok(reference) = ImageReference::parse(name)
    {
        entry.annotations.insert(annotations::CONTAINERD_IMAGE_NAME.to_owned(), reference.to_string());
    }
}

/// Returns what people call an entry: the most whole of its names.
fn name(entry: &Descriptor) -> Option<&str> {
    names(entry).next()
}

fn names(entry: &Descriptor) -> impl Iterator<Item = &str> {
    [annotations::CONTAINERD_IMAGE_NAME, annotations::REF_NAME]
        .into_iter()
        .filter_map(|key| entry.annotation(key))
}

/// Is this the entry's name, and not only the tag of it?
fn is_called(entry: &Descriptor, name: &str) -> bool {
    let own = self::name(entry).unwrap_or_default();
    own == name || is_same_reference(own, name) && name.contains([':', '/'])
}

fn is_meant(entry: &Descriptor, name: &str) -> bool {
    let by_digest = Digest::parse(name.trim_start_matches('@'));
    by_digest.is_ok_and(|digest| entry.digest == digest)
        || names(entry).any(|own| is_same_reference(own, name))
}

fn is_same_reference(a: &str, b: &str) -> bool {
    let whole = |text: &str| {
        let reference = ImageReference::parse(text).ok()?;
        Some((reference.repository(), reference.manifest_reference()))
    };
    whole(a).is_some_and(|a| Some(a) == whole(b))
}

fn shown(entry: &Descriptor) -> String {
    let text = name(entry).map_or_else(|| entry.digest.to_string(), str::to_owned);
    match &entry.platform {
        Some(platform) => format!("{text} ({platform})"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Platform, media_type};

    fn entry(content: &str, names: &[(&str, &str)]) -> Descriptor {
        let mut entry = Descriptor::of(media_type::MANIFEST, content.as_bytes());
        entry.annotations =
            names.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        entry
    }

    fn catalog(entries: Vec<Descriptor>) -> Catalog {
        Catalog::new(Document::of_index(Index::new(entries))).unwrap()
    }

    #[test]
    fn images_are_found_by_every_name_they_have() {
        let docker = [
            (annotations::CONTAINERD_IMAGE_NAME, "docker.io/library/alpine:3.20"),
            (annotations::REF_NAME, "3.20"),
        ];
        let entries =
            [entry("a", &docker), entry("b", &[(annotations::REF_NAME, "latest")]), entry("c", &[])];
        let catalog = catalog(entries.to_vec());
        for (name, expected) in [
            ("3.20", 0),
            ("alpine:3.20", 0),
            ("docker.io/library/alpine:3.20", 0),
            ("latest", 1),
            (&entries[2].digest.to_string(), 2),
            (&format!("@{}", entries[0].digest), 0),
        ] {
            assert_eq!(catalog.choose(Some(name)).unwrap(), Chosen::Entry(&entries[expected]), "{name}");
        }
        let error = catalog.choose(Some("alpine:3")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let hint = format!("there is docker.io/library/alpine:3.20, latest, {}", entries[2].digest);
        assert_eq!(error.first_hint(), Some(hint.as_str()));
        assert_eq!(catalog.choose(None).unwrap_err().to_string(), "there are 3 images in it");
        assert_eq!(catalog.list()[1].name.as_deref(), Some("latest"));
    }

    #[test]
    fn platforms_of_one_name_are_one_image() {
        let of = |platform: &str, name: &str| {
            let mut entry = entry(platform, &[(annotations::REF_NAME, name)]);
            entry.platform = Some(Platform::parse(platform).unwrap());
            entry
        };
        let all = catalog(vec![of("linux/amd64", "x"), of("linux/arm64", "x")]);
        assert_eq!(all.choose(None).unwrap(), Chosen::Index(Box::new(all.document.clone())));
        let more = catalog(vec![of("linux/amd64", "x"), of("linux/arm64", "x"), entry("y", &[])]);
        let Chosen::Index(document) = more.choose(Some("x")).unwrap() else { panic!("it is one entry") };
        assert_eq!(document.index().unwrap().manifests, more.index.manifests[..2]);
        assert!(more.choose(None).is_err());
        assert_eq!(catalog(vec![]).choose(None).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_name_moves_to_what_is_published_last() {
        let (a, b) = (entry("a", &[]), entry("b", &[]));
        let index = catalog(vec![a.clone()]).with(a.clone(), Some("app:1"));
        assert_eq!(index.manifests.len(), 1);
        let catalog = catalog(index.manifests).with(a.clone(), Some("app:2"));
        let catalog = self::catalog(catalog.manifests).with(b.clone(), Some("docker.io/library/app:1"));
        let catalog = self::catalog(catalog.manifests);
        let named: Vec<_> = catalog.list().into_iter().map(|listed| listed.name.unwrap()).collect();
        assert_eq!(named, ["docker.io/library/app:1", "docker.io/library/app:2"]);
        assert_eq!(catalog.choose(Some("app:1")).unwrap(), Chosen::Entry(&catalog.index.manifests[0]));
        assert_eq!(catalog.with(b, None).manifests.len(), 2);
        // A tag alone is not the tag of every image.
        assert_eq!(catalog.with(a, Some("1")).manifests.len(), 3);
    }
}
