//! Lists, hints, deletions, and what refers to what.

use rootling::image::{Descriptor, Document, Manifest, media_type};
use rootling_backends::ErrorKind;

use super::faulty::{Reply, Scripted};
use super::server::Registry;
use super::{Image, Place, named, told};

#[test]
fn tags_and_repositories_are_listed_page_by_page() {
    let server = Scripted::start(|seen, _| match seen.path.as_str() {
        "/v2/a/tags/list?n=1000" => Reply::new(200, r#"{"name":"a","tags":["b","a"]}"#)
            .header("link", r#"</v2/a/tags/list?n=1000&last=b>; rel="next""#),
        "/v2/a/tags/list?n=1000&last=b" => {
            Reply::new(200, r#"{"tags":["c"]}"#).header("link", r#"<list?n=1000&last=c>; rel="next""#)
        }
        // One that leads in a circle.
        "/list?n=1000&last=c" => {
            Reply::new(200, r#"{"tags":["d"]}"#).header("link", r#"<list?n=1000&last=c>; rel="next""#)
        }
        "/v2/empty/tags/list?n=1000" => Reply::new(200, r#"{"name":"a","tags":null}"#),
        "/v2/" => Reply::new(200, ""),
        _ => Reply::error(404, "NAME_UNKNOWN"),
    });
    let client = Place::new().client();
    assert_eq!(client.tags(&server.host, "a").unwrap(), ["a", "b", "c", "d"]);
    assert_eq!(client.tags(&server.host, "empty").unwrap(), [] as [&str; 0]);
    assert_eq!(client.tags(&server.host, "none").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(client.repositories(&server.host).unwrap_err().kind(), ErrorKind::Unsupported);

    let Some(registry) = Registry::plain() else { return };
    let place = Place::new();
    let client = place.client();
    for name in ["x/one:1", "x/one:2", "two:1"] {
        Image::new(80, 10).push(&client, &named(&registry.host, name));
    }
    assert_eq!(client.repositories(&registry.host).unwrap(), ["two", "x/one"]);
    assert_eq!(client.tags(&registry.host, "x/one").unwrap(), ["1", "2"]);
    let found = client.search(&registry.host, "on", 10).unwrap();
    assert_eq!(found.iter().map(|found| found.name.as_str()).collect::<Vec<_>>(), ["x/one"]);
}

#[test]
fn an_unknown_tag_names_its_neighbours() {
    let Some(registry) = Registry::plain() else { return };
    let place = Place::new();
    let client = place.client();
    for tag in ["bookworm", "bookworm-slim", "trixie"] {
        Image::new(81, 10).push(&client, &named(&registry.host, &format!("debian:{tag}")));
    }
    let error = client.manifest(&named(&registry.host, "debian:bokworm")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.first_hint(), Some("did you mean bookworm?"));
    let text = told(&error);
    assert!(text.contains(&format!("get the manifest of {}/debian:bokworm", registry.host)), "{text}");
    assert!(text.contains("/v2/debian/manifests/bokworm: 404 not found: MANIFEST_UNKNOWN"), "{text}");
    let error = client.manifest(&named(&registry.host, "debian:zzzzzz")).unwrap_err();
    assert_eq!(error.first_hint(), Some("there is a tag trixie, for one"));
    let error = client.manifest(&named(&registry.host, "fedora:40")).unwrap_err();
    assert_eq!((error.kind(), error.first_hint()), (ErrorKind::NotFound, None));
}

#[test]
fn manifests_are_deleted_and_tags_where_that_can_be() {
    let Some(registry) = Registry::plain() else { return };
    let place = Place::new();
    let client = place.client();
    let (image, reference) = (Image::new(82, 10), named(&registry.host, "app:1"));
    image.push(&client, &reference);
    let error = client.delete_tag(&reference).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(error.first_hint().unwrap().contains("by their digest"));
    client.delete_manifest(&reference, &image.document.digest).unwrap();
    assert_eq!(client.head(&reference).unwrap(), None);
    let error = client.delete_manifest(&reference, &image.document.digest).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let other = Scripted::start(|seen, _| match seen.line().as_str() {
        "DELETE /v2/app/manifests/1" => Reply::new(202, ""),
        _ => Reply::new(200, ""),
    });
    client.delete_tag(&named(&other.host, "app:1")).unwrap();
}

#[test]
fn a_registry_that_knows_no_subjects_has_a_tag_for_them() {
    let Some(registry) = Registry::plain() else { return };
    let place = Place::new();
    let client = place.client();
    let (image, reference) = (Image::new(83, 10), named(&registry.host, "app:1"));
    image.push(&client, &reference);
    assert_eq!(client.referrers(&reference, &image.document.digest).unwrap(), []);
    let mut digests = Vec::new();
    for name in ["one", "two", "two"] {
        let empty = Descriptor::of(media_type::EMPTY, b"{}");
        client.push_blob(&reference, &empty, b"{}".as_slice(), &[]).unwrap();
        let mut manifest = Manifest::new(empty.clone(), vec![empty]);
        manifest.artifact_type = Some("application/vnd.example.signature".to_owned());
        manifest.subject = Some(image.document.descriptor());
        manifest.annotations.insert("name".to_owned(), name.to_owned());
        let document = Document::of_manifest(manifest);
        let to = named(&registry.host, "app").with_digest(document.digest.clone());
        client.push_manifest(&to, &document).unwrap();
        digests.push(document.digest);
    }
    let found = client.referrers(&reference, &image.document.digest).unwrap();
    assert_eq!(found.iter().map(|found| found.digest.clone()).collect::<Vec<_>>(), digests[..2]);
    assert_eq!(found[0].artifact_type.as_deref(), Some("application/vnd.example.signature"));
    assert_eq!(found[1].annotation("name"), Some("two"));
}
