//! The registry client beside real servers: Debian's docker-registry in several dresses (`server`), and servers that fail (`faulty`).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rootling::image::{Descriptor, Digest, Document, ImageReference, Manifest, media_type};
use rootling::registry::credentials::Credentials;
use rootling::registry::hosts::{CertificateDirectories, Registries};
use rootling::registry::{Client, Credential, Ended, Patience, Progress, Settings, Timeouts};
use rootling_backends::{Error, ErrorKind};
use tempfile::TempDir;

mod catalog;
mod faults;
mod faulty;
mod mirrors;
pub(crate) mod server;
mod tokens;

use server::Registry;

/// Everything that a client reads and writes, in a directory of the test's own.
pub(crate) struct Place {
    directory: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("registries.conf"), "").unwrap();
        fs::create_dir(directory.path().join("certs.d")).unwrap();
        Self { directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn credentials(&self) -> Credentials {
        Credentials::in_files(vec![self.path("auth.json")])
    }

    /// Settings that know nothing of this machine and are in a hurry.
    pub(crate) fn settings(&self) -> Settings {
        let configuration = self.path("registries.conf").to_str().unwrap().to_owned();
        let variable = |name: &str| (name == "CONTAINERS_REGISTRIES_CONF").then(|| configuration.clone());
        let mut settings = Settings::of(&variable, 0).unwrap();
        settings.credentials = self.credentials();
        settings.hosts.certificates = CertificateDirectories::in_directories(vec![self.path("certs.d")]);
        let milliseconds = Duration::from_millis;
        settings.patience = Patience {
            tries: 4,
            first: milliseconds(5),
            longest: milliseconds(20),
            longest_asked: milliseconds(3000),
        };
        let seconds = Duration::from_secs;
        settings.timeouts = Timeouts { connect: seconds(10), answer: seconds(20), idle: seconds(10) };
        settings
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.settings())
    }

    /// A client that reads this registries.conf.
    pub(crate) fn client_with(&self, registries: &str) -> Client {
        let mut settings = self.settings();
        settings.hosts.registries = Registries::parse(registries).unwrap();
        Client::new(settings)
    }

    pub(crate) fn trust(&self, host: &str, authority: &Path) {
        let directory = self.path("certs.d").join(host);
        fs::create_dir_all(&directory).unwrap();
        fs::copy(authority, directory.join("ca.crt")).unwrap();
    }
}

/// An image made by hand.
pub(crate) struct Image {
    pub(crate) blobs: Vec<(Descriptor, Vec<u8>)>,
    pub(crate) document: Document,
}

/// Bytes that do not repeat.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

impl Image {
    /// One layer of `length` bytes that is no tar: registries do not look.
    pub(crate) fn new(seed: u64, length: usize) -> Self {
        let config = br#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#;
        let config = [&config[..config.len() - 1], format!(",\"seed\":{seed}}}").as_bytes()].concat();
        let layer = noise(seed, length);
        let config_descriptor = Descriptor::of(media_type::CONFIG, &config);
        let layer_descriptor = Descriptor::of(media_type::LAYER_GZIP, &layer);
        let manifest = Manifest::new(config_descriptor.clone(), vec![layer_descriptor.clone()]);
        let document = Document::of_manifest(manifest);
        Self { blobs: vec![(config_descriptor, config), (layer_descriptor, layer)], document }
    }

    pub(crate) fn layer(&self) -> &(Descriptor, Vec<u8>) {
        &self.blobs[1]
    }

    pub(crate) fn push(&self, client: &Client, reference: &ImageReference) -> Vec<Ended> {
        let push = |(descriptor, bytes): &(Descriptor, Vec<u8>)| {
            client.push_blob(reference, descriptor, bytes.as_slice(), &[]).unwrap()
        };
        let ended = self.blobs.iter().map(push).collect();
        client.push_manifest(reference, &self.document).unwrap();
        ended
    }
}

pub(crate) fn named(host: &str, rest: &str) -> ImageReference {
    ImageReference::parse(&format!("{host}/{rest}")).unwrap()
}

/// The whole chain and the hint, as a person would see it.
pub(crate) fn told(error: &Error) -> String {
    format!("{error:?}; {}", error.first_hint().unwrap_or_default())
}

/// Remembers what a transfer tells.
#[derive(Default)]
pub(crate) struct Told(pub(crate) Mutex<Vec<String>>);

impl Progress for Told {
    fn begin(&self, _: &Digest, size: u64, held: u64) {
        self.0.lock().unwrap().push(format!("begin {held}/{size}"));
    }

    fn resumed(&self, _: &Digest, held: u64) {
        self.0.lock().unwrap().push(format!("resumed {held}"));
    }

    fn end(&self, _: &Digest, how: &Ended) {
        self.0.lock().unwrap().push(format!("{how:?}"));
    }

    fn waiting(&self, _: &str, _: Duration, why: &str) {
        self.0.lock().unwrap().push(format!("waiting: {why}"));
    }
}

pub(crate) fn read(
    client: &Client,
    reference: &ImageReference,
    descriptor: &Descriptor,
) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let mut blob = client.blob(reference, descriptor)?;
    match blob.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(blob.failed(error)),
    }
}

fn skopeo(arguments: &[&str]) -> String {
    let output =
        Command::new("skopeo").args(arguments).output().expect("skopeo is installed: make deps-test");
    assert!(output.status.success(), "skopeo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_is_pushed_is_read_back_by_us_and_by_skopeo() {
    let Some(registry) = Registry::plain() else { return };
    let place = Place::new();
    let client = place.client();
    let reference = named(&registry.host, "team/app:1");
    let image = Image::new(1, 300_000);
    assert_eq!(image.push(&client, &reference), [Ended::Transferred, Ended::Transferred]);

    let document = client.manifest(&reference).unwrap();
    assert_eq!(document, image.document);
    let by_digest = client.manifest(&reference.with_digest(document.digest.clone())).unwrap();
    assert_eq!(by_digest.bytes, document.bytes);
    let head = client.head(&reference).unwrap().unwrap();
    assert_eq!(head.digest.as_ref(), Some(&document.digest));
    assert_eq!(head.size, Some(document.bytes.len() as u64));
    assert_eq!(client.head(&named(&registry.host, "team/app:2")).unwrap(), None);
    for (descriptor, bytes) in &image.blobs {
        assert_eq!(&read(&client, &reference, descriptor).unwrap(), bytes);
    }

    let whole = format!("docker://{reference}");
    let raw = skopeo(&["inspect", "--raw", "--tls-verify=false", &whole]);
    assert_eq!(raw.as_bytes(), image.document.bytes, "the bytes of the manifest are ours");
    let copied = place.path("copied");
    skopeo(&["copy", "--src-tls-verify=false", &whole, &format!("dir:{}", copied.display())]);
    let (descriptor, bytes) = image.layer();
    assert_eq!(&fs::read(copied.join(descriptor.digest.hex())).unwrap(), bytes);

    // And the other way round.
    skopeo(&[
        "copy",
        "--dest-tls-verify=false",
        &format!("dir:{}", copied.display()),
        &format!("docker://{}/theirs:x", registry.host),
    ]);
    assert_eq!(client.manifest(&named(&registry.host, "theirs:x")).unwrap().bytes, document.bytes);
}

#[test]
fn what_is_there_is_not_sent_again_and_other_repositories_lend_blobs() {
    let Some(registry) = Registry::plain() else { return };
    let place = Place::new();
    let client = place.client();
    let image = Image::new(2, 1000);
    image.push(&client, &named(&registry.host, "one:1"));
    assert_eq!(image.push(&client, &named(&registry.host, "one:2")), [Ended::Existed, Ended::Existed]);
    let (descriptor, bytes) = image.layer();
    let two = named(&registry.host, "two:1");
    let ended = client.push_blob(&two, descriptor, bytes.as_slice(), &["nowhere", "one"]).unwrap();
    assert_eq!(ended, Ended::Mounted("one".to_owned()));
    assert_eq!(&read(&client, &two, descriptor).unwrap(), bytes);
    let three = named(&registry.host, "three:1");
    let ended = client.push_blob(&three, descriptor, bytes.as_slice(), &["nowhere"]).unwrap();
    assert_eq!(ended, Ended::Transferred, "nobody had it");
}

#[test]
fn a_blob_goes_on_from_what_a_file_has() {
    let Some(registry) = Registry::plain() else { return };
    let place = Place::new();
    let told = Arc::new(Told::default());
    let mut settings = place.settings();
    settings.progress = told.clone();
    let client = Client::new(settings);
    let reference = named(&registry.host, "big:1");
    let image = Image::new(3, 700_000);
    image.push(&client, &reference);
    let (descriptor, bytes) = image.layer();
    let path = place.path("partial");
    let open = || File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();

    fs::write(&path, &bytes[..500_000]).unwrap();
    told.0.lock().unwrap().clear();
    client.blob_into(&reference, descriptor, &open()).unwrap();
    assert_eq!(&fs::read(&path).unwrap(), bytes);
    assert_eq!(*told.0.lock().unwrap(), ["begin 500000/700000", "Transferred"]);
    client.blob_into(&reference, descriptor, &open()).unwrap();
    assert_eq!(told.0.lock().unwrap()[2..], ["begin 700000/700000", "Transferred"], "all of it was there");

    // A file that has something else, or more, is of no use; it is found out and the blob comes whole.
    for wrong in [noise(9, 500_000), noise(9, 800_000), noise(9, 700_000)] {
        fs::write(&path, wrong).unwrap();
        client.blob_into(&reference, descriptor, &open()).unwrap();
        assert_eq!(&fs::read(&path).unwrap(), bytes);
    }
}

#[test]
fn a_small_blob_may_come_with_its_descriptor() {
    let place = Place::new();
    let mut descriptor = Descriptor::of("text/plain", b"hello");
    descriptor.data = Some("aGVsbG8=".to_owned());
    // Nobody is asked: there is nobody.
    let reference = named("127.0.0.1:1", "x:1");
    assert_eq!(read(&place.client(), &reference, &descriptor).unwrap(), b"hello");
    descriptor.data = Some("aGVsbG9v".to_owned());
    assert_eq!(read(&place.client(), &reference, &descriptor).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn passwords_are_checked_kept_shared_with_skopeo_and_forgotten() {
    let Some(registry) = Registry::with_password() else { return };
    let place = Place::new();
    place.trust(&registry.host, &registry.authority());
    let image = Image::new(4, 1000);
    let reference = named(&registry.host, "team/app:1");

    let error = client_error(&place.client(), &reference);
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(
        told(&error).contains("401 unauthorized: UNAUTHORIZED: authentication required"),
        "{}",
        told(&error)
    );
    assert!(told(&error).ends_with(&format!("; if the name is right: rootling login {}", registry.host)));

    let given = |password: &str| {
        let mut settings = place.settings();
        let (username, password) = ("alice".to_owned(), password.to_owned());
        settings.given = Some(Credential::Password { username, password });
        Client::new(settings)
    };
    let error = given("cheshire").log_in(&registry.host).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
    assert!(!told(&error).contains("cheshire"), "{}", told(&error));
    assert!(given("wonderland").log_in(&registry.host).unwrap());

    let file = place.path("auth.json");
    fs::write(&file, r#"{"credHelpers":{"other.example":"none"},"mine":[1]}"#).unwrap();
    let credential = Credential::Password { username: "alice".to_owned(), password: "wonderland".to_owned() };
    place.credentials().store(&registry.host, &credential).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let kept: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(kept["mine"], serde_json::json!([1]));
    image.push(&place.client(), &reference);
    fs::write(&file, fs::read_to_string(&file).unwrap().replace("credHelpers", "was")).unwrap();
    let (auth, certificates) = (format!("--authfile={}", file.display()), registry.certificates());
    let certificates = format!("--cert-dir={}", certificates.display());
    let raw = skopeo(&["inspect", "--raw", &auth, &certificates, &format!("docker://{reference}")]);
    assert_eq!(raw.as_bytes(), image.document.bytes);

    // What skopeo writes is read by us.
    fs::remove_file(&file).unwrap();
    skopeo(&["login", &auth, &certificates, "-u", "alice", "-p", "wonderland", &registry.host]);
    assert_eq!(place.client().manifest(&reference).unwrap(), image.document);
    assert_eq!(place.credentials().erase(&registry.host).unwrap(), [file]);
    assert_eq!(place.credentials().erase(&registry.host).unwrap(), [] as [PathBuf; 0]);
    assert_eq!(client_error(&place.client(), &reference).kind(), ErrorKind::PermissionDenied);
}

fn client_error(client: &Client, reference: &ImageReference) -> Error {
    client.manifest(reference).unwrap_err()
}

#[test]
fn a_certificate_is_believed_only_with_its_authority_or_when_told() {
    let Some(registry) = Registry::with_password() else { return };
    let place = Place::new();
    place
        .credentials()
        .store(
            &registry.host,
            &Credential::Password { username: "alice".into(), password: "wonderland".into() },
        )
        .unwrap();
    let reference = named(&registry.host, "team/app:1");
    let error = client_error(&place.client(), &reference);
    assert!(told(&error).contains("UnknownIssuer"), "{}", told(&error));
    assert!(told(&error).contains(&format!("certs.d/{}/ca.crt", registry.host)), "{}", told(&error));

    let mut settings = place.settings();
    settings.hosts.insecure = vec![registry.host.clone()];
    Image::new(5, 10).push(&Client::new(settings), &reference);
    place.trust(&registry.host, &registry.authority());
    assert!(place.client().head(&reference).unwrap().is_some());
}

#[test]
fn a_client_shows_its_certificate() {
    let Some(registry) = Registry::with_client_certificates() else { return };
    let place = Place::new();
    place.trust(&registry.host, &registry.authority());
    let reference = named(&registry.host, "team/app:1");
    assert!(place.client().head(&reference).is_err(), "without a certificate nobody is let in");
    let directory = place.path("certs.d").join(&registry.host);
    fs::copy(registry.certificates().join("client.cert"), directory.join("client.cert")).unwrap();
    let error = client_error(&place.client(), &reference);
    assert!(told(&error).contains("client.key"), "{}", told(&error));
    fs::copy(registry.certificates().join("client.key"), directory.join("client.key")).unwrap();
    Image::new(6, 10).push(&place.client(), &reference);
}
