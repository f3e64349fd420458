//! skopeo copies to an OCI layout, umoci unpacks that; back by `umoci repack` and skopeo.

use std::path::{Path, PathBuf};
use std::process::Command;

use rootling_backends::Result;

use super::cost::{self, Cost};
use super::engine::{Engine, Visit};
use crate::command::command;

/// A layout and bundles beside it.
#[derive(Debug)]
pub(super) struct Umoci {
    directory: PathBuf,
    /// The tag of the image whose bundle is the box.
    boxed: String,
}

impl Umoci {
    pub(super) fn open(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), boxed: String::new() }
    }

    fn layout(&self) -> PathBuf {
        self.directory.join("layout")
    }

    fn bundle(&self, tag: &str) -> PathBuf {
        self.directory.join(tag)
    }

    fn umoci(&self, verb: &str, image: &str, bundle: &str) -> Command {
        let mut umoci = command("umoci", [verb, "--image"]);
        umoci.arg(format!("{}:{image}", self.layout().display())).arg(self.bundle(bundle));
        umoci
    }
}

fn skopeo(from: &str, to: &str) -> Command {
    let flags = ["copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false"];
    let mut skopeo = command("skopeo", ["--insecure-policy"]);
    skopeo.args(flags).args([from, to]);
    skopeo
}

impl Engine for Umoci {
    fn pull(&mut self, reference: &str, tag: &str) -> Result<Cost> {
        let to = format!("oci:{}:{tag}", self.layout().display());
        let copied = cost::measure(&mut skopeo(&format!("docker://{reference}"), &to))?;
        Ok(copied.then(cost::measure(&mut self.umoci("unpack", tag, tag))?))
    }

    fn look(&mut self, _reference: &str, tag: &str, check: Visit<'_>) -> Result<()> {
        check(&self.bundle(tag).join("rootfs"))
    }

    fn change(&mut self, _reference: &str, tag: &str, write: Visit<'_>) -> Result<bool> {
        tag.clone_into(&mut self.boxed);
        write(&self.bundle(tag).join("rootfs")).map(|()| true)
    }

    fn push(&mut self, reference: &str) -> Result<Cost> {
        let packed = cost::measure(&mut self.umoci("repack", "changed", &self.boxed))?;
        let from = format!("oci:{}:changed", self.layout().display());
        Ok(packed.then(cost::measure(&mut skopeo(&from, &format!("docker://{reference}")))?))
    }
}
