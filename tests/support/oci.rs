//! OCI layouts for tests: layers written entry by entry, able to be wrong.

use std::io::Write;
use std::path::Path;

use rootling::image::Digest;
use serde_json::json;

/// A tar, entry by entry.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tar(Vec<u8>);

impl Tar {
    fn entry(mut self, kind: u8, mode: u32, name: &str, link: &str, data: &[u8]) -> Self {
        let mut block = [0_u8; 512];
        let mut field = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        field(0, name.as_bytes());
        field(100, format!("{mode:07o}\0").as_bytes());
        field(108, b"0000000\0");
        field(116, b"0000000\0");
        field(124, format!("{:011o}\0", data.len()).as_bytes());
        field(136, b"14000000000\0");
        field(156, &[kind]);
        field(157, link.as_bytes());
        field(257, b"ustar\x0000");
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.entry(b'5', 0o755, name, "", b"")
    }

    pub(crate) fn dir_of_mode(self, name: &str, mode: u32) -> Self {
        self.entry(b'5', mode, name, "", b"")
    }

    pub(crate) fn file(self, name: &str, data: impl AsRef<[u8]>) -> Self {
        self.entry(b'0', 0o644, name, "", data.as_ref())
    }

    pub(crate) fn program(self, name: &str, data: impl AsRef<[u8]>) -> Self {
        self.entry(b'0', 0o755, name, "", data.as_ref())
    }

    pub(crate) fn link(self, name: &str, first: &str) -> Self {
        self.entry(b'1', 0o644, name, first, b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(b'2', 0o777, name, target, b"")
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// Returns bytes packed with gzip.
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("a vector takes all");
    encoder.finish().expect("a vector takes all")
}

/// Writes the layout of an image of these layers, and returns the digest of its manifest. `config` is what it says of how it is run.
pub(crate) fn write_layout(at: &Path, layers: &[Vec<u8>], config: &serde_json::Value) -> Digest {
    let blobs = at.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).expect("a directory");
    let put = |media_type: &str, bytes: &[u8]| {
        let digest = Digest::sha256_of(bytes);
        std::fs::write(blobs.join(digest.hex()), bytes).expect("a blob");
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    };
    let diff_ids: Vec<Digest> = layers.iter().map(|tar| Digest::sha256_of(tar)).collect();
    let packed: Vec<_> =
        layers.iter().map(|tar| put("application/vnd.oci.image.layer.v1.tar+gzip", &gzip(tar))).collect();
    let history: Vec<_> =
        (0..layers.len()).map(|at| json!({ "created_by": format!("RUN make {at}") })).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "created": "2024-05-01T00:00:00Z", "config": config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids }, "history": history,
    });
    let config = put("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": packed });
    let manifest = manifest.to_string();
    let descriptor = put(media_type, manifest.as_bytes());
    std::fs::write(
        at.join("index.json"),
        json!({ "schemaVersion": 2, "manifests": [descriptor] }).to_string(),
    )
    .expect("an index");
    std::fs::write(at.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("a mark");
    Digest::sha256_of(manifest.as_bytes())
}
