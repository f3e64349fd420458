//! `--output`: where the end of a build goes, in buildx's words.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rootling_backends::{Error, ErrorKind, Result};

use crate::build::syntax::mount::fields;
use crate::layer::{Compression, Packing};
use crate::near::near;

/// Where the end of a build goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Where to.
    pub destination: Destination,
    /// How layers are packed, if that was said.
    pub packing: Option<Packing>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
}

/// Where to, and as what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Its files, into a directory.
    Directory(PathBuf),
    /// Its files, as a tar; `-` is standard output.
    Tar(PathBuf),
    /// A directory in OCI's layout.
    Layout(PathBuf),
    /// Such a layout as a tar; `-` is standard output.
    OciArchive(PathBuf),
    /// What `docker load` reads; `-` is standard output.
    DockerArchive(PathBuf),
    /// The store, and the registries that these names mean if it is pushed, too.
    Image {
        /// Names beside those that `-t` gives.
        names: Vec<String>,
        /// Is it pushed?
        push: bool,
    },
}

const TYPES: [&str; 6] = ["local", "tar", "oci", "docker", "image", "registry"];

/// Fields that say how BuildKit does what is done here anyway, or not at all.
const NO_MATTER: [&str; 6] =
    ["oci-mediatypes", "rewrite-timestamp", "force-compression", "unpack", "platform-split", "store"];

impl Output {
    /// Reads `type=TYPE,dest=PATH,...`, or only a path: a directory, or `-` for a tar on standard output.
    pub fn parse(text: &str) -> Result<Self> {
        Self::read(text).map_err(|error| error.context(format!("read the output {text:?}")))
    }

    /// Does it go to standard output?
    pub fn is_stdout(&self) -> bool {
        match &self.destination {
            Destination::Tar(path) | Destination::OciArchive(path) | Destination::DockerArchive(path) => {
                path.as_os_str() == "-"
            }
            Destination::Directory(_) | Destination::Layout(_) | Destination::Image { .. } => false,
        }
    }

    fn read(text: &str) -> Result<Self> {
        if !text.contains('=') && !text.is_empty() {
            let destination = match text {
                "-" => Destination::Tar("-".into()),
                path => Destination::Directory(path.into()),
            };
            return Ok(Self { destination, packing: None, annotations: BTreeMap::new() });
        }
        let (mut values, mut annotations) = (BTreeMap::new(), BTreeMap::new());
        let given = if text.is_empty() { Vec::new() } else { fields(text)? };
        for field in given {
            let Some((key, value)) = field.split_once('=') else {
                return Err(wrong(format!("{field:?} is no KEY=VALUE"), "write it as in type=tar,dest=FILE"));
            };
            match key.strip_prefix("annotation.").or_else(|| key.strip_prefix("annotation-manifest.")) {
                Some(name) => drop(annotations.insert(name.to_owned(), value.to_owned())),
                None => drop(values.insert(key.to_ascii_lowercase(), value.to_owned())),
            }
        }
        let Some(kind) = values.remove("type") else {
            return Err(wrong(
                "it has no type".to_owned(),
                "write type=local, tar, oci, docker, image or registry",
            ));
        };
        let path = values.remove("dest");
        let need = |path: Option<String>| match path {
            Some(path) if path != "-" => Ok(PathBuf::from(path)),
            _ => Err(wrong(format!("type={kind} needs a directory"), "say which: dest=DIRECTORY")),
        };
        let stream = |path: Option<String>| PathBuf::from(path.unwrap_or_else(|| "-".to_owned()));
        let destination = match kind.as_str() {
            "local" => Destination::Directory(need(path)?),
            "tar" => Destination::Tar(stream(path)),
            "oci" if !flag(&mut values, "tar", true)? => Destination::Layout(need(path)?),
            "oci" => Destination::OciArchive(stream(path)),
            "docker" => Destination::DockerArchive(stream(path)),
            "image" | "registry" => {
                if let Some(path) = path {
                    return Err(wrong(
                        format!("type={kind} has no dest, and {path:?} is one"),
                        "write type=oci for a file",
                    ));
                }
                let names = values.remove("name").unwrap_or_default();
                let names = names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
                Destination::Image { names, push: flag(&mut values, "push", kind == "registry")? }
            }
            other => {
                let hint = match near(other, TYPES.into_iter()).first() {
                    Some(name) => format!("did you mean {name}?"),
                    None => format!("there are {}", TYPES.join(", ")),
                };
                return Err(wrong(format!("there is no type {other:?}"), &hint));
            }
        };
        let packing = packing(&mut values)?;
        match values.keys().find(|key| !NO_MATTER.contains(&key.as_str())) {
            Some(key) => Err(wrong(format!("type={kind} knows no {key:?}"), "leave it out")),
            None => Ok(Self { destination, packing, annotations }),
        }
    }
}

fn wrong(message: String, hint: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, message).hint(hint.to_owned())
}

fn flag(values: &mut BTreeMap<String, String>, key: &str, otherwise: bool) -> Result<bool> {
    match values.remove(key).as_deref() {
        None => Ok(otherwise),
        Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => {
            Err(Error::new(ErrorKind::InvalidInput, format!("{key}={other} is neither true nor false"))
                .hint(format!("write {key}=true or {key}=false")))
        }
    }
}

fn packing(values: &mut BTreeMap<String, String>) -> Result<Option<Packing>> {
    let (name, level) = (values.remove("compression"), values.remove("compression-level"));
    if name.is_none() && level.is_none() {
        return Ok(None);
    }
    let compression = match name.as_deref() {
        None | Some("gzip") => Compression::Gzip,
        Some("zstd") => Compression::Zstd,
        Some("uncompressed") => Compression::None,
        Some(other) => {
            let message = format!("layers cannot be packed with {other:?}");
            return Err(Error::new(ErrorKind::InvalidInput, message).hint("write gzip, zstd or uncompressed"));
        }
    };
    let number = |text: String| {
        let wrong = || Error::new(ErrorKind::InvalidInput, format!("compression-level={text} is no number"));
        text.parse::<i32>().map_err(|_| wrong().hint("write 0 to 9 for gzip, 1 to 22 for zstd"))
    };
    Packing::new(compression, level.map(number).transpose()?).map(Some)
}

/// Reads `--annotation [manifest:]KEY=VALUE`. There is one manifest and no index, so that others have no place.
pub fn annotation(text: &str) -> Result<(String, String)> {
    let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, format!("{text:?} is no annotation")).hint("write KEY=VALUE")
    })?;
    let (places, name) = match name.split_once(':') {
        Some((places, rest)) if places.split(',').all(|place| PLACES.contains(&place)) => {
            (Some(places), rest)
        }
        _ => (None, name),
    };
    match places.map(|places| places.split(',').all(|place| place == "manifest")) {
        None | Some(true) => Ok((name.to_owned(), value.to_owned())),
        Some(false) => {
            let message = format!("the annotation {text:?} is for an index, and there is none");
            Err(Error::new(ErrorKind::InvalidInput, message).hint(format!("write manifest:{name}={value}")))
        }
    }
}

const PLACES: [&str; 4] = ["manifest", "index", "manifest-descriptor", "index-descriptor"];

#[cfg(test)]
mod tests {
    use super::*;

    fn image(names: &[&str], push: bool) -> Destination {
        Destination::Image { names: names.iter().map(|name| (*name).to_owned()).collect(), push }
    }

    #[test]
    fn outputs_are_read_as_buildx_reads_them() {
        for (text, destination) in [
            ("out", Destination::Directory("out".into())),
            ("-", Destination::Tar("-".into())),
            ("type=local,dest=out", Destination::Directory("out".into())),
            ("type=tar,dest=o.tar", Destination::Tar("o.tar".into())),
            ("type=tar", Destination::Tar("-".into())),
            ("type=oci,dest=o.tar", Destination::OciArchive("o.tar".into())),
            ("type=oci,dest=o,tar=false", Destination::Layout("o".into())),
            ("type=docker,dest=-", Destination::DockerArchive("-".into())),
            ("type=docker", Destination::DockerArchive("-".into())),
            ("type=image,name=a,push=true", image(&["a"], true)),
            ("type=image,\"name=a,b:1\"", image(&["a", "b:1"], false)),
            ("type=registry", image(&[], true)),
            ("type=image,oci-mediatypes=true,unpack=true", image(&[], false)),
        ] {
            assert_eq!(Output::parse(text).unwrap().destination, destination, "{text}");
        }
        let output = Output::parse("type=oci,compression=zstd,compression-level=9,annotation.a=b").unwrap();
        assert_eq!(output.packing, Some(Packing::new(Compression::Zstd, Some(9)).unwrap()));
        assert_eq!(output.annotations, BTreeMap::from([("a".to_owned(), "b".to_owned())]));
    }

    #[test]
    fn what_is_no_output_is_refused_with_what_to_write() {
        for (text, hint) in [
            ("", "type=local"),
            ("dest=x", "type=local"),
            ("type=tra", "did you mean tar?"),
            ("type=x", "there are local"),
            ("type=local", "dest=DIRECTORY"),
            ("type=local,dest=-", "dest=DIRECTORY"),
            ("type=image,dest=x", "type=oci"),
            ("type=image,push=maybe", "push=true"),
            ("type=tar,name=x", "leave it out"),
            ("type=oci,compression=lzma", "gzip, zstd"),
            ("type=oci,compression-level=x", "0 to 9"),
            ("type=oci,push", "type=tar,dest=FILE"),
        ] {
            let error = Output::parse(text).unwrap_err();
            assert!(error.first_hint().is_some_and(|said| said.contains(hint)), "{text}: {error:?}");
        }
    }

    #[test]
    fn annotations_are_those_of_the_manifest() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(annotation("a=b=c").unwrap(), pair("a", "b=c"));
        assert_eq!(annotation("manifest:a=b").unwrap(), pair("a", "b"));
        assert_eq!(annotation("org.x:y=b").unwrap(), pair("org.x:y", "b"));
        for bad in ["a", "=b", "index:a=b", "manifest,index:a=b"] {
            assert_eq!(annotation(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
    }
}
