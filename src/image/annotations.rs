//! Keys of annotations and labels: those of the [specification](https://github.com/opencontainers/image-spec/blob/main/annotations.md),
//! what other programs write, and our own.

/// When the image was made (RFC 3339).
pub const CREATED: &str = "org.opencontainers.image.created";
/// Who is to be asked.
pub const AUTHORS: &str = "org.opencontainers.image.authors";
/// Where more is to be read.
pub const URL: &str = "org.opencontainers.image.url";
/// Where its documentation is.
pub const DOCUMENTATION: &str = "org.opencontainers.image.documentation";
/// Where its source is.
pub const SOURCE: &str = "org.opencontainers.image.source";
/// The version of what is in it.
pub const VERSION: &str = "org.opencontainers.image.version";
/// The revision of its source.
pub const REVISION: &str = "org.opencontainers.image.revision";
/// Who distributes it.
pub const VENDOR: &str = "org.opencontainers.image.vendor";
/// Under which licenses (SPDX).
pub const LICENSES: &str = "org.opencontainers.image.licenses";
/// What a descriptor in the index of a layout is called: a tag, or a whole reference.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// A title for people.
pub const TITLE: &str = "org.opencontainers.image.title";
/// A text for people.
pub const DESCRIPTION: &str = "org.opencontainers.image.description";
/// The digest of the manifest that it was made from.
pub const BASE_DIGEST: &str = "org.opencontainers.image.base.digest";
/// The reference of the image that it was made from.
pub const BASE_NAME: &str = "org.opencontainers.image.base.name";

/// The whole reference of an image in a layout, which containerd and docker write beside [`REF_NAME`].
pub const CONTAINERD_IMAGE_NAME: &str = "io.containerd.image.name";
/// What docker's builder says of a manifest in an index that is no image: `attestation-manifest`.
pub const DOCKER_REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// The label of the snapshot that ends with this layer; on descriptors of layers.
pub const SNAPSHOT_LABEL: &str = "org.rootling.snapshot.label";
/// When that snapshot was made (RFC 3339).
pub const SNAPSHOT_CREATED: &str = "org.rootling.snapshot.created";
/// The note that was left on it.
pub const SNAPSHOT_NOTE: &str = "org.rootling.snapshot.note";
/// The key of the step of a build that ends with this layer; on descriptors of layers.
pub const STEP_KEY: &str = "org.rootling.step.key";
/// The instruction of that step.
pub const STEP_SHOWN: &str = "org.rootling.step.instruction";
