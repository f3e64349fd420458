//! Mirrors, aliases and other servers in place of the one that was named.

use std::fs;

use rootling::image::ImageReference;
use rootling::registry::Client;
use rootling_backends::ErrorKind;

use super::faulty::{Reply, Scripted};
use super::server::Registry;
use super::{Image, Place, named, read, told};

#[test]
fn a_mirror_is_asked_first_and_the_registry_where_it_fails() {
    let Some(registry) = Registry::plain() else { return };
    let place = Place::new();
    let image = Image::new(70, 1000);
    image.push(&place.client(), &named(&registry.host, "hub/library/app:1"));
    let (descriptor, bytes) = image.layer();
    let broken = Scripted::start(|_, _| Reply::new(500, "no"));
    let gone = "127.0.0.1:1";
    // The registry of the name does not exist: only a mirror can have answered.
    let client = place.client_with(&format!(
        r#"
        [[registry]]
        location = "registry.invalid"
        [[registry.mirror]]
        location = "{gone}"
        [[registry.mirror]]
        location = "{}/x"
        [[registry.mirror]]
        location = "{}/hub"
        insecure = true
        "#,
        broken.host, registry.host
    ));
    let reference = ImageReference::parse("registry.invalid/library/app:1").unwrap();
    assert_eq!(client.manifest(&reference).unwrap(), image.document);
    assert_eq!(&read(&client, &reference, descriptor).unwrap(), bytes);
    assert!(broken.lines().contains(&"GET /v2/x/library/app/manifests/1".to_owned()), "{:?}", broken.lines());

    // Mirrors that lie are found out; the registry has the last word.
    let wrong = noise_of(image.layer().1.len());
    let liar = Scripted::start(move |seen, _| match seen.path.contains("/blobs/") {
        true => Reply::new(200, wrong.clone()),
        false => Reply::new(404, ""),
    });
    let client = place.client_with(&format!(
        "[[registry]]\nlocation = \"{}\"\n[[registry.mirror]]\nlocation = \"{}\"\n",
        registry.host, liar.host
    ));
    let reference = named(&registry.host, "hub/library/app:1");
    assert_eq!(client.manifest(&reference).unwrap(), image.document);
    let path = place.path("file");
    let file = fs::File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    client.blob_into(&reference, descriptor, &file).unwrap();
    assert_eq!(&fs::read(&path).unwrap(), bytes);
    assert!(liar.lines().iter().any(|line| line.contains("/blobs/")), "it was asked");
}

fn noise_of(length: usize) -> Vec<u8> {
    super::noise(99, length)
}

#[test]
fn mirrors_are_for_reading_and_of_digests_where_so_said() {
    let Some(registry) = Registry::plain() else { return };
    let place = Place::new();
    let mirror = Scripted::start(|_, _| Reply::new(404, ""));
    let client = place.client_with(&format!(
        "[[registry]]\nlocation = \"{}\"\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = \"{}\"\n",
        registry.host, mirror.host
    ));
    let image = Image::new(71, 1000);
    let reference = named(&registry.host, "app:1");
    image.push(&client, &reference);
    client.manifest(&reference).unwrap();
    client.tags(&registry.host, "app").unwrap();
    assert_eq!(mirror.lines(), [] as [&str; 0]);
    client.manifest(&reference.with_digest(image.document.digest.clone())).unwrap();
    assert_eq!(mirror.lines(), [format!("GET /v2/app/manifests/{}", image.document.digest)]);
}

#[test]
fn a_location_stands_in_for_a_name_and_what_is_blocked_is_not_asked() {
    let Some(registry) = Registry::plain() else { return };
    let place = Place::new();
    let client = place.client_with(&format!(
        r#"
        [[registry]]
        prefix = "*.example.com"
        blocked = true
        [[registry]]
        prefix = "images.test/team"
        location = "{}/inner"
        "#,
        registry.host
    ));
    let image = Image::new(72, 1000);
    image.push(&client, &ImageReference::parse("images.test/team/app:1").unwrap());
    assert_eq!(place.client().manifest(&named(&registry.host, "inner/app:1")).unwrap(), image.document);
    let blocked = ImageReference::parse("r.example.com/app:1").unwrap();
    let error = client.manifest(&blocked).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(told(&error).contains("r.example.com/app is blocked"), "{}", told(&error));
}

#[test]
fn hosts_toml_names_mirrors_that_are_told_for_whom_they_answer() {
    let Some(registry) = Registry::plain() else { return };
    let place = Place::new();
    let image = Image::new(73, 1000);
    image.push(&place.client(), &named(&registry.host, "app:1"));
    let bytes = image.document.bytes.clone();
    let mirror = Scripted::start(move |seen, _| match seen.path.contains("/manifests/") {
        true => Reply::new(200, bytes.clone()),
        false => Reply::new(404, ""),
    });
    let directory = place.path("certs.d").join(&registry.host);
    fs::create_dir_all(&directory).unwrap();
    let text = format!(
        r#"
        server = "http://{}"
        [host."http://{}/cache/v2"]
        capabilities = ["pull", "resolve"]
        override_path = true
        [host."http://{}/cache/v2".header]
        x-team = ["blue"]
        [host."http://127.0.0.1:1"]
        capabilities = ["pull", "resolve"]
        "#,
        registry.host, mirror.host, mirror.host
    );
    fs::write(directory.join("hosts.toml"), text).unwrap();
    let client = place.client();
    let reference = named(&registry.host, "app:1");
    assert_eq!(client.manifest(&reference).unwrap(), image.document);
    let seen = mirror.seen();
    let manifest = seen.iter().find(|seen| seen.path.contains("/manifests/")).unwrap();
    let namespace = registry.host.replace(':', "%3A");
    assert_eq!(manifest.path, format!("/cache/v2/app/manifests/1?ns={namespace}"));
    assert_eq!(manifest.header("x-team"), "blue");
    let (descriptor, bytes) = image.layer();
    assert_eq!(&read(&client, &reference, descriptor).unwrap(), bytes, "from the registry itself");
    Image::new(74, 10).push(&client, &named(&registry.host, "app:2"));
    assert!(mirror.seen().iter().all(|seen| seen.method == "GET"), "nothing is written to mirrors");
}

#[test]
fn plain_http_is_for_loopback_and_who_was_named() {
    let place = Place::new();
    // An address of this machine that is not loopback, where there is one, is as good as any: nobody listens there.
    let reference = ImageReference::parse("registry.invalid:5000/app:1").unwrap();
    let mut settings = place.settings();
    settings.patience.tries = 1;
    let error = Client::new(settings.clone()).manifest(&reference).unwrap_err();
    assert!(told(&error).contains("GET https://registry.invalid:5000/v2/"), "{}", told(&error));
    settings.hosts.insecure = vec!["registry.invalid:5000".to_owned()];
    let error = Client::new(settings).manifest(&reference).unwrap_err();
    assert!(told(&error).contains("registry.invalid:5000/v2/"), "{}", told(&error));
}
