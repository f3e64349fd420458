//! Media types of the documents and layers of images: OCI's and docker's, which mean the same.

/// A manifest: a configuration and layers.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An index: manifests, of platforms for example.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The configuration of an image.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// A layer that is not packed.
pub const LAYER_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// A layer packed by gzip.
pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// A layer packed by zstd.
pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// The configuration of what is no image: `{}`.
pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// Docker's manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's index.
pub const DOCKER_MANIFEST_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's configuration of an image.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker's layer, not packed.
pub const DOCKER_LAYER_TAR: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// Docker's layer, packed by gzip.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Docker's layer, packed by zstd.
pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
/// Docker's layer that is fetched from where its descriptor says, packed by gzip.
pub const DOCKER_FOREIGN_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";

/// What a client that reads all of them asks for, the preferred first.
pub const ACCEPTED: &[&str] = &[MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_MANIFEST_LIST];

const OCI_NONDISTRIBUTABLE: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
const DOCKER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";

/// Is it a manifest?
pub fn is_manifest(media_type: &str) -> bool {
    [MANIFEST, DOCKER_MANIFEST].contains(&media_type)
}

/// Is it an index?
pub fn is_index(media_type: &str) -> bool {
    [INDEX, DOCKER_MANIFEST_LIST].contains(&media_type)
}

/// Is it the configuration of an image, and not of some other artifact?
pub fn is_config(media_type: &str) -> bool {
    [CONFIG, DOCKER_CONFIG].contains(&media_type)
}

/// Is it a layer of a root filesystem, however packed?
///
/// An encrypted one (`+encrypted`) is none that could be read.
pub fn is_layer(media_type: &str) -> bool {
    const BASES: &[&str] = &[LAYER_TAR, DOCKER_LAYER_TAR, OCI_NONDISTRIBUTABLE, DOCKER_FOREIGN];
    BASES.iter().any(|base| {
        media_type
            .strip_prefix(base)
            .is_some_and(|packed| matches!(packed, "" | "+gzip" | "+zstd" | ".gzip" | ".zstd"))
    })
}

/// Is it a layer that registries need not have, and that is not pushed to them?
pub fn is_foreign(media_type: &str) -> bool {
    media_type.starts_with(OCI_NONDISTRIBUTABLE) || media_type.starts_with(DOCKER_FOREIGN)
}

/// Is it one of docker's, which does not mix with OCI's in one manifest?
pub fn is_docker(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.docker.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_known_however_packed() {
        for layer in [
            LAYER_TAR,
            LAYER_GZIP,
            LAYER_ZSTD,
            DOCKER_LAYER_TAR,
            DOCKER_LAYER_GZIP,
            DOCKER_LAYER_ZSTD,
            DOCKER_FOREIGN_LAYER_GZIP,
            "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        ] {
            assert!(is_layer(layer), "{layer}");
            assert_eq!(is_foreign(layer), layer.contains("foreign") || layer.contains("nondistributable"));
        }
        for other in [
            "",
            MANIFEST,
            CONFIG,
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            "application/x-tar",
        ] {
            assert!(!is_layer(other), "{other}");
        }
    }
}
