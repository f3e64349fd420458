//! The [distribution specification](https://github.com/opencontainers/distribution-spec/blob/main/spec.md) case by case: pull, push, content
//! discovery, content management.

use rootling::image::{Algorithm, Digest};
use serde_json::json;

use super::server::{CONFIG, INDEX, LAYER, MANIFEST, Server, config, descriptor, digest_of, image, noise};
use crate::environment::Environment;

fn started() -> (Environment, Server) {
    let environment = Environment::new();
    let server = Server::start(&environment, &["--allow-push"]);
    (environment, server)
}

// ---------------------------------------------------------------- pull

#[test]
fn the_base_says_that_a_registry_is_here() {
    let (_environment, server) = started();
    let reply = server.get("/v2/");
    assert_eq!(reply.status, 200);
    assert_eq!(reply.line("Docker-Distribution-Api-Version"), Some("registry/2.0"));
    assert_eq!(server.get("/v1/").status, 404);
}

#[test]
fn blobs_are_read_whole_and_in_part() {
    let (_environment, server) = started();
    let blob = noise(4000, 1);
    let digest = server.push_blob("a/b", &blob);
    let path = format!("/v2/a/b/blobs/{digest}");

    let reply = server.get(&path);
    assert_eq!((reply.status, reply.body.as_slice()), (200, blob.as_slice()));
    assert_eq!(reply.line("Docker-Content-Digest"), Some(digest.to_string().as_str()));
    let reply = server.head(&path);
    assert_eq!((reply.status, reply.line("Content-Length"), reply.body.len()), (200, Some("4000"), 0));

    for (asked, first, last) in
        [("500-1499", 500, 1499), ("500-", 500, 3999), ("-500", 3500, 3999), ("3000-9000", 3000, 3999)]
    {
        let reply = server.ask("GET", &path, &[("Range", &format!("bytes={asked}"))], b"");
        assert_eq!(reply.status, 206, "{asked}");
        assert_eq!(reply.line("Content-Range"), Some(format!("bytes {first}-{last}/4000").as_str()));
        assert_eq!(reply.body, blob[first..=last]);
    }
    for asked in ["500-0", "5000-10000"] {
        let reply = server.ask("GET", &path, &[("Range", &format!("bytes={asked}"))], b"");
        assert_eq!(reply.status, 416, "{asked}");
        assert_eq!(reply.line("Content-Range"), Some("bytes */4000"));
    }
    let known = format!("\"{digest}\"");
    assert_eq!(server.ask("GET", &path, &[("If-None-Match", &known)], b"").status, 304);
}

#[test]
fn what_is_not_there_is_said_in_the_words_of_the_specification() {
    let (_environment, server) = started();
    server.push_blob("a", b"x");
    let other = Digest::sha256_of(b"other");
    for (path, status, code) in [
        (format!("/v2/a/blobs/{other}"), 404, "BLOB_UNKNOWN"),
        (format!("/v2/a/manifests/{other}"), 404, "MANIFEST_UNKNOWN"),
        ("/v2/a/manifests/none".to_owned(), 404, "MANIFEST_UNKNOWN"),
        ("/v2/none/tags/list".to_owned(), 404, "NAME_UNKNOWN"),
        ("/v2/A/tags/list".to_owned(), 400, "NAME_INVALID"),
        ("/v2/a/manifests/sha256:baddigeststring".to_owned(), 400, "DIGEST_INVALID"),
        ("/v2/a/blobs/sha256:short".to_owned(), 400, "DIGEST_INVALID"),
        ("/v2/a/blobs/uploads/nothing".to_owned(), 404, "BLOB_UPLOAD_UNKNOWN"),
    ] {
        let reply = server.get(&path);
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{path}");
        if !path.contains("uploads") {
            let reply = server.head(&path);
            assert_eq!((reply.status, reply.body.len()), (status, 0), "HEAD {path}");
        }
    }
}

// ---------------------------------------------------------------- push

#[test]
fn blobs_are_pushed_in_every_way() {
    let (_environment, server) = started();
    for (number, algorithm) in [Algorithm::Sha256, Algorithm::Sha512].into_iter().enumerate() {
        let seed = 10 * number as u64;
        let read_back = |digest: &Digest, blob: &[u8]| {
            let reply = server.get(&format!("/v2/a/blobs/{digest}"));
            assert_eq!((reply.status, reply.body.as_slice()), (200, blob));
        };

        // One request.
        let blob = noise(3000, seed + 1);
        let digest = Digest::of(algorithm, &blob);
        let reply = server.ask("POST", &format!("/v2/a/blobs/uploads/?digest={digest}"), &[], &blob);
        assert_eq!(reply.status, 201);
        assert_eq!(reply.line("Location"), Some(format!("/v2/a/blobs/{digest}").as_str()));
        read_back(&digest, &blob);

        // Two.
        let blob = noise(3000, seed + 2);
        let digest = Digest::of(algorithm, &blob);
        let place = server.begin("a");
        assert_eq!(server.ask("PUT", &format!("{place}?digest={digest}"), &[], &blob).status, 201);
        read_back(&digest, &blob);

        // A stream in chunks of HTTP, of which nobody knows the length.
        let blob = noise(70_000, seed + 3);
        let digest = Digest::of(algorithm, &blob);
        let place = server.begin("a");
        let mut chunked = Vec::new();
        for piece in blob.chunks(9999) {
            chunked.extend_from_slice(format!("{:x};ext=1\r\n", piece.len()).as_bytes());
            chunked.extend_from_slice(piece);
            chunked.extend_from_slice(b"\r\n");
        }
        chunked.extend_from_slice(b"0\r\nTrailer: x\r\n\r\n");
        let reply = server.ask("PATCH", &place, &[("Transfer-Encoding", "chunked")], &chunked);
        assert_eq!((reply.status, reply.line("Range")), (202, Some("0-69999")));
        let reply = server.ask("PUT", &format!("{place}?digest={digest}"), &[], b"");
        assert_eq!(reply.status, 201);
        read_back(&digest, &blob);

        // Chunks of the specification, the last of them with the end.
        let blob = noise(3000, seed + 4);
        let digest = Digest::of(algorithm, &blob);
        let place = server.begin("a");
        let reply = server.ask("PATCH", &place, &[("Content-Range", "0-999")], &blob[..1000]);
        assert_eq!((reply.status, reply.line("Range")), (202, Some("0-999")));
        let reply = server.ask("PATCH", &place, &[("Content-Range", "1000-1999")], &blob[1000..2000]);
        assert_eq!((reply.status, reply.line("Range")), (202, Some("0-1999")));
        let last = [("Content-Range", "2000-2999")];
        let reply = server.ask("PUT", &format!("{place}?digest={digest}"), &last, &blob[2000..]);
        assert_eq!(reply.status, 201);
        read_back(&digest, &blob);

        // Nothing, and nearly nothing.
        for blob in [&b""[..], b"{}"] {
            let digest = Digest::of(algorithm, blob);
            let place = server.begin("a");
            assert_eq!(server.ask("PUT", &format!("{place}?digest={digest}"), &[], blob).status, 201);
            read_back(&digest, blob);
        }
    }
}

#[test]
fn chunks_come_in_order_and_an_upload_says_where_it_stands() {
    let (_environment, server) = started();
    let blob = noise(3000, 5);
    let place = server.begin("a");
    assert_eq!(server.ask("PATCH", &place, &[("Content-Range", "0-999")], &blob[..1000]).status, 202);
    for (range, piece) in [("2000-2999", 2000..3000), ("0-999", 0..1000), ("999-1999", 999..2000)] {
        let reply = server.ask("PATCH", &place, &[("Content-Range", range)], &blob[piece]);
        assert_eq!((reply.status, reply.line("Range")), (416, Some("0-999")), "{range}");
    }
    let reply = server.ask("PATCH", &place, &[("Content-Range", "1000-1999")], &blob[1000..1500]);
    assert_eq!((reply.status, reply.code().as_str()), (400, "SIZE_INVALID"));
    let reply = server.ask("PATCH", &place, &[("Content-Range", "x-y")], &blob[1000..1500]);
    assert_eq!((reply.status, reply.code().as_str()), (400, "BLOB_UPLOAD_INVALID"));
    let reply = server.get(&place);
    assert_eq!((reply.status, reply.line("Range")), (204, Some("0-999")));
    assert_eq!(reply.line("Location"), Some(place.as_str()));

    // It is this repository's alone.
    let elsewhere = place.replace("/v2/a/", "/v2/b/");
    assert_eq!(server.get(&elsewhere).status, 404);
    assert_eq!(server.delete(&place).status, 204);
    assert_eq!(server.get(&place).status, 404);
    assert_eq!(server.ask("PATCH", &place, &[], b"x").status, 404);
}

#[test]
fn bytes_of_another_digest_are_refused() {
    let (_environment, server) = started();
    let digest = Digest::sha256_of(b"right");
    let reply = server.ask("POST", &format!("/v2/a/blobs/uploads/?digest={digest}"), &[], b"wrong");
    assert_eq!((reply.status, reply.code().as_str()), (400, "DIGEST_INVALID"));
    for wanted in [digest.to_string(), Digest::of(Algorithm::Sha512, b"right").to_string()] {
        let place = server.begin("a");
        let reply = server.ask("PUT", &format!("{place}?digest={wanted}"), &[], b"wrong");
        assert_eq!((reply.status, reply.code().as_str()), (400, "DIGEST_INVALID"));
        assert_eq!(server.get(&format!("/v2/a/blobs/{wanted}")).status, 404);
    }
    for wrong in ["", "?digest=md5:00", "?digest=sha256:00", "?digest=../../etc/passwd"] {
        let place = server.begin("a");
        let reply = server.ask("PUT", &format!("{place}{wrong}"), &[], b"x");
        assert_eq!((reply.status, reply.code().as_str()), (400, "DIGEST_INVALID"), "{wrong}");
    }
}

#[test]
fn a_blob_is_taken_from_another_repository() {
    let (_environment, server) = started();
    let digest = server.push_blob("from", b"shared");
    let mount =
        |from: &str| server.ask("POST", &format!("/v2/to/blobs/uploads/?mount={digest}{from}"), &[], b"");
    assert_eq!(server.get(&format!("/v2/to/blobs/{digest}")).status, 404);
    for other in ["", "&from=none", "&from=.."] {
        let reply = mount(other);
        assert_eq!(reply.status, 202, "{other}");
        assert!(reply.line("Location").unwrap().starts_with("/v2/to/blobs/uploads/"));
    }
    let reply = mount("&from=from");
    assert_eq!(reply.status, 201);
    assert_eq!(reply.line("Location"), Some(format!("/v2/to/blobs/{digest}").as_str()));
    assert_eq!(server.get(&format!("/v2/to/blobs/{digest}")).body, b"shared");
}

#[test]
fn manifests_come_back_as_they_were() {
    let (_environment, server) = started();
    let layer = noise(1000, 6);
    server.push_blob("a", &layer);
    server.push_blob("a", &config(&layer));
    // Spaces and unknown fields are part of what has the digest.
    let text = format!(" {} ", image(&layer).to_string().replacen('{', "{ \"unknown\": [1],", 1));
    let digest = Digest::sha256_of(text.as_bytes());
    let typed = [("Content-Type", MANIFEST)];
    let reply = server.ask("PUT", "/v2/a/manifests/v1", &typed, text.as_bytes());
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(reply.line("Docker-Content-Digest"), Some(digest.to_string().as_str()));
    let reply =
        server.ask("PUT", &format!("/v2/a/manifests/{digest}?tag=v2&tag=v3"), &typed, text.as_bytes());
    assert_eq!((reply.status, reply.line("OCI-Tag")), (201, Some("v2")));
    for reference in ["v1", "v2", "v3", digest.to_string().as_str()] {
        let reply = server.get(&format!("/v2/a/manifests/{reference}"));
        assert_eq!((reply.status, reply.body.as_slice()), (200, text.as_bytes()), "{reference}");
        assert_eq!(reply.line("Content-Type"), Some(MANIFEST));
        assert_eq!(reply.line("Docker-Content-Digest"), Some(digest.to_string().as_str()));
        let length = text.len().to_string();
        let reply = server.head(&format!("/v2/a/manifests/{reference}"));
        assert_eq!((reply.status, reply.line("Content-Length")), (200, Some(length.as_str())));
    }
    let other = Digest::of(Algorithm::Sha512, text.as_bytes());
    let reply = server.ask("PUT", &format!("/v2/a/manifests/{other}"), &typed, text.as_bytes());
    assert_eq!(reply.status, 201);
    assert_eq!(server.get(&format!("/v2/a/manifests/{other}")).body, text.as_bytes());
}

#[test]
fn manifests_that_are_wrong_or_lack_something_are_refused() {
    let (_environment, server) = started();
    let layer = noise(1000, 7);
    let manifest = image(&layer);
    let put = |reference: &str, media_type: &str, body: &[u8]| {
        let reply =
            server.ask("PUT", &format!("/v2/a/manifests/{reference}"), &[("Content-Type", media_type)], body);
        (reply.status, reply.code())
    };
    let code = |status: u16, code: &str| (status, code.to_owned());
    assert_eq!(put("x", MANIFEST, manifest.to_string().as_bytes()), code(400, "MANIFEST_BLOB_UNKNOWN"));
    server.push_blob("a", &layer);
    assert_eq!(put("x", MANIFEST, manifest.to_string().as_bytes()), code(400, "MANIFEST_BLOB_UNKNOWN"));
    server.push_blob("a", &config(&layer));
    let index =
        json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(MANIFEST, b"none")] });
    assert_eq!(put("x", INDEX, index.to_string().as_bytes()), code(400, "MANIFEST_BLOB_UNKNOWN"));
    assert_eq!(put("x", INDEX, manifest.to_string().as_bytes()), code(400, "MANIFEST_INVALID"));
    assert_eq!(put("x", MANIFEST, b"{}"), code(400, "MANIFEST_INVALID"));
    assert_eq!(put("x", MANIFEST, b"no json"), code(400, "MANIFEST_INVALID"));
    assert_eq!(put("x", MANIFEST, b""), code(400, "MANIFEST_INVALID"));
    assert_eq!(put(".x", MANIFEST, manifest.to_string().as_bytes()), code(400, "TAG_INVALID"));
    assert_eq!(put("sha256:baddigeststring", MANIFEST, b"{}"), code(400, "DIGEST_INVALID"));
    let other = Digest::sha256_of(b"other").to_string();
    assert_eq!(put(&other, MANIFEST, manifest.to_string().as_bytes()), code(400, "DIGEST_INVALID"));
    let mut wrong = manifest.clone();
    wrong["layers"][0]["size"] = json!(999);
    assert_eq!(put("x", MANIFEST, wrong.to_string().as_bytes()), code(400, "MANIFEST_INVALID"));
    let large = vec![b' '; (4 << 20) + 1];
    assert_eq!(put("x", MANIFEST, &large), code(413, "MANIFEST_INVALID"));
    assert_eq!(server.get("/v2/a/manifests/x").status, 404);

    // Just small enough, and with what others serve.
    let mut good = manifest;
    good["annotations"] = json!({ "large": "A".repeat(4_000_000) });
    let mut foreign =
        descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", b"elsewhere");
    foreign["urls"] = json!(["https://example.com/layer"]);
    good["layers"].as_array_mut().unwrap().push(foreign);
    assert_eq!(server.push_manifest("a", "x", &good).status, 201);
}

#[test]
fn indexes_and_artifacts_are_kept() {
    let (_environment, server) = started();
    let image = server.push_image("a", "one", &noise(100, 8));
    let child = descriptor(MANIFEST, image.to_string().as_bytes());
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [child] });
    assert_eq!(server.push_manifest("a", "index", &index).status, 201);
    let nested = descriptor(INDEX, index.to_string().as_bytes());
    let nested = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [nested] });
    assert_eq!(server.push_manifest("a", "nested", &nested).status, 201);
    let empty = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] });
    assert_eq!(server.push_manifest("a", "empty", &empty).status, 201);
    server.push_blob("a", b"{}");
    let config = descriptor("application/vnd.oci.empty.v1+json", b"{}");
    let artifact = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/x", "config": config, "layers": [config] });
    assert_eq!(server.push_manifest("a", "artifact", &artifact).status, 201);
    for (tag, document) in
        [("index", &index), ("nested", &nested), ("empty", &empty), ("artifact", &artifact)]
    {
        assert_eq!(server.get(&format!("/v2/a/manifests/{tag}")).body, document.to_string().as_bytes());
    }
}

// ---------------------------------------------------------------- discovery

#[test]
fn lists_are_sorted_and_come_in_parts() {
    let (_environment, server) = started();
    let image = server.push_image("b/tags", "v10", &noise(100, 9));
    for tag in ["v9", "V1", "latest", "_x"] {
        assert_eq!(server.push_manifest("b/tags", tag, &image).status, 201);
    }
    server.push_blob("a", b"x");
    let sorted = json!(["V1", "_x", "latest", "v10", "v9"]);
    assert_eq!(server.get("/v2/b/tags/tags/list").json(), json!({ "name": "b/tags", "tags": sorted }));
    let reply = server.get("/v2/b/tags/tags/list?n=2");
    assert_eq!(reply.json()["tags"], json!(["V1", "_x"]));
    assert_eq!(reply.line("Link"), Some("</v2/b/tags/tags/list?n=2&last=_x>; rel=\"next\""));
    let reply = server.get("/v2/b/tags/tags/list?n=2&last=_x");
    assert_eq!(reply.json()["tags"], json!(["latest", "v10"]));
    let reply = server.get("/v2/b/tags/tags/list?n=2&last=v10");
    assert_eq!((reply.json()["tags"].clone(), reply.line("Link")), (json!(["v9"]), None));
    assert_eq!(server.get("/v2/b/tags/tags/list?last=m").json()["tags"], json!(["v10", "v9"]));
    assert_eq!(server.get("/v2/b/tags/tags/list?n=0").json()["tags"], json!([]));
    assert_eq!(server.get("/v2/b/tags/tags/list?n=x").status, 400);
    assert_eq!(server.get("/v2/_catalog").json(), json!({ "repositories": ["a", "b/tags"] }));
    let reply = server.get("/v2/_catalog?n=1");
    assert_eq!((reply.json()["repositories"].clone(), reply.line("Link").is_some()), (json!(["a"]), true));
}

#[test]
fn referrers_of_a_manifest_are_listed() {
    let (_environment, server) = started();
    let image = server.push_image("a", "v1", &noise(100, 11));
    let subject = descriptor(MANIFEST, image.to_string().as_bytes());
    let path = format!("/v2/a/referrers/{}", digest_of(&image));
    let reply = server.get(&path);
    assert_eq!((reply.status, reply.line("Content-Type")), (200, Some(INDEX)));
    assert_eq!(reply.json()["manifests"], json!([]));

    server.push_blob("a", b"{}");
    let empty = descriptor("application/vnd.oci.empty.v1+json", b"{}");
    let artifact = |kind: &str| {
        json!({ "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind, "config": empty, "layers": [empty],
            "subject": subject, "annotations": { "kind": kind } })
    };
    let (signature, bill) = (artifact("application/signature"), artifact("application/bill+json"));
    for document in [&signature, &bill] {
        let reply = server.push_manifest("a", &digest_of(document).to_string(), document);
        let subject = digest_of(&image).to_string();
        assert_eq!((reply.status, reply.line("OCI-Subject")), (201, Some(subject.as_str())));
    }
    // Without a type of its own it has its configuration's.
    let mut plain = image.clone();
    plain["subject"] = subject;
    assert_eq!(server.push_manifest("a", "plain", &plain).status, 201);

    let types = |reply: super::server::Reply| {
        let listed = reply.json()["manifests"].as_array().unwrap().clone();
        let mut types: Vec<_> =
            listed.iter().map(|one| one["artifactType"].as_str().unwrap().to_owned()).collect();
        types.sort();
        types
    };
    let all = server.get(&path);
    let found = all.json()["manifests"].as_array().unwrap().clone();
    let listed = found.iter().find(|one| one["artifactType"] == "application/signature").unwrap();
    assert_eq!(listed["digest"], digest_of(&signature).to_string());
    assert_eq!(listed["size"], signature.to_string().len());
    assert_eq!(listed["annotations"]["kind"], "application/signature");
    assert_eq!(types(all), ["application/bill+json", "application/signature", CONFIG]);
    let reply = server.get(&format!("{path}?artifactType=application/bill+json"));
    assert_eq!(reply.line("OCI-Filters-Applied"), Some("artifactType"));
    assert_eq!(types(reply), ["application/bill+json"]);

    assert_eq!(server.delete(&format!("/v2/a/manifests/{}", digest_of(&bill))).status, 202);
    assert_eq!(types(server.get(&path)), ["application/signature", CONFIG]);
    assert_eq!(server.get("/v2/a/referrers/none").status, 400);
    // What is about something that never comes.
    let mut early = signature;
    early["subject"]["digest"] = json!(Digest::sha256_of(b"never"));
    assert_eq!(server.push_manifest("a", "early", &early).status, 201);
}

// ---------------------------------------------------------------- management

#[test]
fn what_is_deleted_is_gone() {
    let (environment, server) = started();
    let layer = noise(1000, 12);
    let image = server.push_image("a", "one", &layer);
    assert_eq!(server.push_manifest("a", "two", &image).status, 201);
    assert_eq!(server.push_manifest("a", "three", &image).status, 201);
    assert_eq!(server.delete("/v2/a/manifests/one").status, 202);
    assert_eq!(server.get("/v2/a/manifests/one").status, 404);
    assert_eq!(server.delete("/v2/a/manifests/one").status, 404);
    assert_eq!(server.get("/v2/a/manifests/two").status, 200);

    let blob = format!("/v2/a/blobs/{}", Digest::sha256_of(&layer));
    let reply = server.delete(&blob);
    assert_eq!((reply.status, reply.code().as_str()), (403, "DENIED"));
    let digest = digest_of(&image);
    assert_eq!(server.delete(&format!("/v2/a/manifests/{digest}")).status, 202);
    for reference in ["two", "three", digest.to_string().as_str()] {
        assert_eq!(server.get(&format!("/v2/a/manifests/{reference}")).status, 404);
    }
    assert_eq!(server.get("/v2/a/tags/list").json()["tags"], json!([]));
    assert_eq!(server.delete(&blob).status, 202);
    assert_eq!(server.get(&blob).status, 404);
    assert_eq!(server.delete(&blob).status, 404);

    // The bytes go with the sweep, the configuration stays for another week.
    environment.ok(["prune"]);
    let blobs = std::fs::read_dir(environment.store().join("blobs/sha256")).unwrap();
    let left: Vec<_> = blobs.map(|blob| blob.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(left, [Digest::sha256_of(&config(&layer)).hex()]);
    let reply = server.push_manifest("a", "again", &image);
    assert_eq!((reply.status, reply.code().as_str()), (400, "MANIFEST_BLOB_UNKNOWN"));
}

#[test]
fn what_has_a_tag_survives_the_sweep() {
    let (environment, server) = started();
    let layer = noise(1000, 13);
    let image = server.push_image("a", "one", &layer);
    environment.ok(["prune"]);
    assert_eq!(server.get("/v2/a/manifests/one").body, image.to_string().as_bytes());
    assert_eq!(server.get(&format!("/v2/a/blobs/{}", Digest::sha256_of(&layer))).body, layer);
    assert_eq!(descriptor(LAYER, &layer), image["layers"][0]);
    assert_eq!(environment.run(["fsck", "--verify"]).code, 0);
}

#[test]
fn a_reader_cannot_write() {
    let environment = Environment::new();
    for (arguments, status, code) in [(&["--read-only"][..], 405, "UNSUPPORTED"), (&[], 403, "DENIED")] {
        let server = Server::start(&environment, arguments);
        assert_eq!(server.get("/v2/").status, 200);
        for (method, path) in
            [("POST", "/v2/a/blobs/uploads/"), ("PUT", "/v2/a/manifests/x"), ("DELETE", "/v2/a/manifests/x")]
        {
            let reply = server.ask(method, path, &[], b"");
            assert_eq!((reply.status, reply.code().as_str()), (status, code), "{method} {path}");
        }
    }
    let server = Server::start(&environment, &["--allow-push"]);
    let origin = [("Origin", "http://evil.example")];
    assert_eq!(server.ask("POST", "/v2/a/blobs/uploads/", &origin, b"").status, 403);
}
