//! What goes wrong on the way: cuts at every place, servers that are busy, slow or wrong, uploads that break off.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rootling::image::{DOCUMENT_MAX, Descriptor};
use rootling::registry::{Client, Ended, Progress};
use rootling::transfer::{Repository, Sibling, Sink as _};
use rootling_backends::ErrorKind;

use super::faulty::{Cutting, Reply, Scripted};
use super::server::Registry;
use super::{Image, Place, Told, named, noise, read, told};

#[test]
fn a_pull_that_is_cut_again_and_again_ends_with_the_right_bytes() {
    let Some(registry) = Registry::plain() else { return };
    let place = Place::new();
    let image = Image::new(30, 20_000);
    image.push(&place.client(), &named(&registry.host, "a:1"));
    let (descriptor, bytes) = image.layer();
    let cutting = Cutting::before(&registry.host);
    let reference = named(&cutting.host, "a:1");
    // Headers are about 500 bytes: from cuts behind one byte of the body to cuts behind nearly all of it.
    for limit in (900..21_000).step_by(613) {
        cutting.down.store(limit, Ordering::SeqCst);
        let client = place.client();
        assert_eq!(client.manifest(&reference).unwrap(), image.document, "cut after {limit}");
        assert_eq!(&read(&client, &reference, descriptor).unwrap(), bytes, "cut after {limit}");
        let path = place.path("file");
        fs::write(&path, &bytes[..usize::try_from(limit).unwrap().min(bytes.len())]).unwrap();
        let file = fs::File::options().read(true).write(true).open(&path).unwrap();
        client.blob_into(&reference, descriptor, &file).unwrap();
        assert_eq!(&fs::read(&path).unwrap(), bytes, "cut after {limit}");
    }
    assert!(cutting.connections.load(Ordering::SeqCst) > 300, "it was cut indeed");
    // Where nothing comes through, it ends.
    cutting.down.store(40, Ordering::SeqCst);
    let error = place.client().manifest(&reference).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
}

/// A registry of one blob, without ranges.
fn one_blob(bytes: Vec<u8>, first: impl Fn(Reply, usize) -> Reply + Send + Sync + 'static) -> Scripted {
    Scripted::start(move |seen, before| match seen.path.starts_with("/v2/a/blobs/") {
        true => first(Reply::new(200, bytes.clone()), before),
        false => Reply::new(200, ""),
    })
}

#[test]
fn a_server_without_ranges_is_read_from_the_start_again() {
    let bytes = noise(31, 300_000);
    let descriptor = Descriptor::of("x", &bytes);
    let server = one_blob(bytes.clone(), |reply, before| match before {
        0 => reply.cut(200_000),
        // Nearer to the start: nothing new comes, which is counted, and passes.
        1 => reply.cut(100_000),
        2 => reply.cut(250_000),
        _ => reply,
    });
    let place = Place::new();
    assert_eq!(read(&place.client(), &named(&server.host, "a:1"), &descriptor).unwrap(), bytes);
    let ranges: Vec<String> = server.seen().iter().map(|seen| seen.header("range").to_owned()).collect();
    assert_eq!(ranges, ["", "bytes=200000-", "bytes=200000-", "bytes=250000-"]);
}

#[test]
fn wrong_bytes_and_lengths_are_refused() {
    let bytes = noise(32, 10_000);
    let descriptor = Descriptor::of("x", &bytes);
    let place = Place::new();
    let fault = |server: &Scripted| {
        let error = read(&place.client(), &named(&server.host, "a:1"), &descriptor).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
        assert!(told(&error).contains(&format!("get blob {} of {}/a", descriptor.digest, server.host)));
        told(&error)
    };
    let other = noise(33, 10_000);
    assert!(fault(&one_blob(other.clone(), |reply, _| reply)).contains("the bytes that came have sha256:"));
    assert!(fault(&one_blob(noise(32, 10_001), |reply, _| reply)).contains("10001 are offered"));
    assert!(fault(&one_blob(noise(32, 9_999), |reply, _| reply)).contains("9999 are offered"));
    // The length is right, but less comes, however often it is asked for.
    let server = one_blob(noise(32, 9_999), |reply, _| reply.length(10_000));
    let error = read(&place.client(), &named(&server.host, "a:1"), &descriptor).unwrap_err();
    assert!(told(&error).contains("the connection was cut"), "{}", told(&error));
    let file = place.path("file");
    let server = one_blob(other, |reply, _| reply);
    let open = fs::File::options().read(true).write(true).create(true).truncate(true).open(&file).unwrap();
    let error = place.client().blob_into(&named(&server.host, "a:1"), &descriptor, &open).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn a_file_that_began_wrong_is_begun_again_once() {
    let bytes = noise(34, 10_000);
    let descriptor = Descriptor::of("x", &bytes);
    let (server, place) = (one_blob(bytes.clone(), |reply, _| reply), Place::new());
    let path = place.path("file");
    fs::write(&path, noise(35, 5000)).unwrap();
    let file = fs::File::options().read(true).write(true).open(&path).unwrap();
    place.client().blob_into(&named(&server.host, "a:1"), &descriptor, &file).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert_eq!(server.seen().len(), 2);
}

#[test]
fn manifests_are_compared_and_have_a_limit() {
    let image = Image::new(36, 10);
    let manifest = image.document.bytes.clone();
    let other = Image::new(37, 10).document.digest;
    let media_type = image.document.media_type.clone();
    let server = Scripted::start(move |seen, _| match seen.path.as_str() {
        "/v2/a/manifests/lies" => Reply::new(200, manifest.clone())
            .header("content-type", media_type.clone())
            .header("docker-content-digest", other.to_string()),
        "/v2/a/manifests/huge" => Reply::new(200, vec![b' '; usize::try_from(DOCUMENT_MAX).unwrap() + 1]),
        "/v2/a/manifests/page" => Reply::new(200, "<html>"),
        _ => Reply::new(200, manifest.clone()),
    });
    let client = Place::new().client();
    let get = |tag: &str| client.manifest(&named(&server.host, &format!("a:{tag}")));
    assert_eq!(get("honest").unwrap(), image.document);
    assert_eq!(get("lies").unwrap_err().kind(), ErrorKind::Corrupt);
    let huge = get("huge").unwrap_err();
    assert!(told(&huge).contains("more than 4194304 bytes"), "{}", told(&huge));
    assert_eq!(get("page").unwrap_err().kind(), ErrorKind::InvalidInput);
    let wrong = named(&server.host, "a").with_digest(Image::new(38, 10).document.digest);
    assert_eq!(client.manifest(&wrong).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn threads_ask_a_host_once_what_it_speaks() {
    let slowly = |reply| {
        std::thread::sleep(Duration::from_millis(300));
        reply
    };
    let roots = |server: &Scripted| server.all_seen().iter().filter(|seen| seen.path == "/v2/").count();
    let at_once = |client: &Client, server: &Scripted| -> Vec<bool> {
        let reference = named(&server.host, "a:1");
        let digest = Descriptor::of("x", b"x").digest;
        std::thread::scope(|scope| {
            let asked = || client.has_blob(&reference, &digest).is_ok();
            let threads: Vec<_> = (0..6).map(|_| scope.spawn(asked)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    };
    let server = Scripted::start(move |seen, _| match seen.path.as_str() {
        "/v2/" => slowly(Reply::new(200, "")),
        _ => Reply::new(200, ""),
    });
    assert_eq!(at_once(&Place::new().client(), &server), [true; 6]);
    assert_eq!(roots(&server), 1, "the others wait for the first");
    assert_eq!(server.seen().len(), 6);

    // Who waited for one that failed has failed too; who comes later asks again.
    let server = Scripted::start(move |seen, before| match (seen.path.as_str(), before) {
        ("/v2/", 0) => slowly(Reply::new(401, "").header("www-authenticate", "Strange")),
        _ => Reply::new(200, ""),
    });
    let client = Place::new().client();
    assert_eq!(at_once(&client, &server), [false; 6]);
    assert_eq!(roots(&server), 1);
    assert_eq!(at_once(&client, &server), [true; 6]);
    assert_eq!(roots(&server), 2);
}

#[test]
fn a_busy_server_is_given_the_time_it_asks_for() {
    let image = Image::new(39, 10);
    let manifest = image.document.bytes.clone();
    let server = Scripted::start(move |seen, before| match (seen.path.as_str(), before) {
        ("/v2/", 0) => Reply::new(503, ""),
        ("/v2/a/manifests/1", 0) => Reply::error(429, "TOOMANYREQUESTS").header("retry-after", "1"),
        ("/v2/a/manifests/1", 1) => Reply::new(500, "oh"),
        ("/v2/a/manifests/long", _) => Reply::error(429, "TOOMANYREQUESTS").header("retry-after", "3600"),
        ("/v2/a/manifests/never", _) => Reply::new(502, "<html>"),
        _ => Reply::new(200, manifest.clone())
            .header("ratelimit-limit", "100;w=21600")
            .header("ratelimit-remaining", "76;w=21600"),
    });
    let (place, heard) = (Place::new(), Arc::new(Told::default()));
    let mut settings = place.settings();
    settings.progress = heard.clone();
    let client = Client::new(settings);
    let begun = Instant::now();
    assert_eq!(client.manifest(&named(&server.host, "a:1")).unwrap(), image.document);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(*heard.0.lock().unwrap(), ["waiting: status 429", "waiting: status 500"]);
    let rate = client.rate_limit(&server.host).unwrap();
    assert_eq!((rate.limit, rate.remaining, rate.window_seconds), (100, 76, Some(21600)));

    // An hour is too long.
    let error = client.manifest(&named(&server.host, "a:long")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(told(&error).contains("429 too many requests: TOOMANYREQUESTS: so it is"), "{}", told(&error));
    assert!(error.first_hint().is_some());
    let error = client.manifest(&named(&server.host, "a:never")).unwrap_err();
    assert!(told(&error).contains("502 bad gateway"), "{}", told(&error));
    assert_eq!(server.lines().iter().filter(|line| line.ends_with("/never")).count(), 4, "four tries");
}

#[test]
fn a_server_that_falls_silent_is_left() {
    let bytes = noise(40, 1000);
    let descriptor = Descriptor::of("x", &bytes);
    let server = one_blob(bytes.clone(), |reply, before| match before {
        0 => reply.pause(Duration::from_secs(5)),
        _ => reply,
    });
    let mut settings = Place::new().settings();
    settings.timeouts.idle = Duration::from_millis(200);
    let begun = Instant::now();
    assert_eq!(read(&Client::new(settings), &named(&server.host, "a:1"), &descriptor).unwrap(), bytes);
    assert!(begun.elapsed() < Duration::from_secs(4));
}

/// Calls all off at the first byte.
struct CallOff(Arc<std::sync::atomic::AtomicBool>);

impl Progress for CallOff {
    fn moved(&self, _: &rootling::image::Digest, _: u64) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn what_is_called_off_ends_and_goes_on_later() {
    let Some(registry) = Registry::plain() else { return };
    let place = Place::new();
    let image = Image::new(41, 3_000_000);
    let reference = named(&registry.host, "a:1");
    let (descriptor, bytes) = image.layer();
    let hasty = || {
        let mut settings = place.settings();
        settings.progress = Arc::new(CallOff(settings.cancel.clone()));
        Client::new(settings)
    };
    let error = hasty().push_blob(&reference, descriptor, bytes.as_slice(), &[]).unwrap_err();
    assert!(told(&error).contains("it was called off"), "{}", told(&error));
    image.push(&place.client(), &reference);
    let path = place.path("file");
    let file = fs::File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    let error = hasty().blob_into(&reference, descriptor, &file).unwrap_err();
    assert!(told(&error).contains("it was called off"), "{}", told(&error));
    let held = fs::metadata(&path).unwrap().len();
    assert!(held > 0 && held < descriptor.size, "{held}");
    place.client().blob_into(&reference, descriptor, &file).unwrap();
    assert_eq!(&fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_push_that_is_cut_again_and_again_arrives() {
    let Some(registry) = Registry::plain() else { return };
    let place = Place::new();
    let cutting = Cutting::before(&registry.host);
    for (number, limit) in [300_u64, 1500, 5000, 40_000, 150_000].into_iter().enumerate() {
        let image = Image::new(50 + number as u64, 200_000);
        let reference = named(&cutting.host, &format!("cut{number}:1"));
        let mut settings = place.settings();
        settings.chunk = 30_000;
        settings.patience.tries = 8;
        let client = Client::new(settings);
        // This registry gives up an upload that breaks off within a piece, so that it has to end some time.
        cutting.up.store(limit, Ordering::SeqCst);
        cutting.cuts.store(4, Ordering::SeqCst);
        image.push(&client, &reference);
        assert_eq!(cutting.cuts.load(Ordering::SeqCst), 0, "it was cut indeed");
        let (descriptor, bytes) = image.layer();
        assert_eq!(&read(&client, &reference, descriptor).unwrap(), bytes, "cut after {limit}");
    }
    // What never comes through ends, although pieces do.
    let image = Image::new(59, 200_000);
    let (descriptor, bytes) = image.layer();
    let mut settings = place.settings();
    settings.chunk = 30_000;
    cutting.up.store(40_000, Ordering::SeqCst);
    cutting.cuts.store(u64::MAX, Ordering::SeqCst);
    let reference = named(&cutting.host, "never:1");
    let error = Client::new(settings).push_blob(&reference, descriptor, bytes.as_slice(), &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
}

/// An upload as the specification has it, with what may be told of it.
#[derive(Default)]
struct Uploads {
    bytes: Vec<u8>,
    /// Requests that sent bytes.
    sent: Vec<String>,
    done: BTreeSet<String>,
}

/// A registry that takes uploads; `fails` says which requests do not come through: how much of the body was kept, and the answer.
fn uploads(
    fails: impl Fn(&str, usize) -> Option<(usize, Reply)> + Send + Sync + 'static,
) -> (Scripted, Arc<Mutex<Uploads>>) {
    let state: Arc<Mutex<Uploads>> = Arc::default();
    let shared = state.clone();
    let server = Scripted::start(move |seen, _| {
        let mut state = shared.lock().unwrap();
        let location = "/v2/a/blobs/uploads/1?state=x";
        let range = |length: usize| format!("0-{}", length.saturating_sub(1));
        match seen.method.as_str() {
            "HEAD" => Reply::new(404, ""),
            "POST" => {
                state.bytes.clear();
                Reply::new(202, "").header("location", location).header("oci-chunk-min-length", "1000")
            }
            "PATCH" | "PUT" if !seen.body.is_empty() => {
                let number = state.sent.len();
                state
                    .sent
                    .push(format!("{} {}", seen.method, seen.header("content-range")).trim().to_owned());
                if let Some((kept, reply)) = fails(&seen.method, number) {
                    state.bytes.extend(&seen.body[..kept]);
                    return reply;
                }
                state.bytes.extend(&seen.body);
                if seen.method == "PUT" {
                    state.done.insert(seen.path.clone());
                    return Reply::new(201, "");
                }
                Reply::new(202, "").header("location", location).header("range", range(state.bytes.len()))
            }
            "PUT" => {
                state.done.insert(seen.path.clone());
                Reply::new(201, "")
            }
            "GET" if seen.path == location => {
                Reply::new(204, "").header("location", location).header("range", range(state.bytes.len()))
            }
            _ => Reply::new(200, ""),
        }
    });
    (server, state)
}

#[test]
fn an_upload_goes_on_where_the_registry_has_it() {
    let bytes = noise(60, 10_000);
    let descriptor = Descriptor::of("x", &bytes);
    let place = Place::new();
    let push = |server: &Scripted, chunk: u64| {
        let mut settings = place.settings();
        settings.chunk = chunk;
        Client::new(settings).push_blob(&named(&server.host, "a:1"), &descriptor, bytes.as_slice(), &[])
    };
    // The one request breaks off; the rest goes in pieces.
    let (server, state) = uploads(|_, number| (number == 0).then(|| (2500, Reply::new(503, ""))));
    assert_eq!(push(&server, 4000).unwrap(), Ended::Transferred);
    let state = state.lock().unwrap();
    assert_eq!(state.sent, ["PUT", "PATCH 2500-6499", "PATCH 6500-9999"]);
    assert_eq!(state.bytes, bytes);
    assert_eq!(state.done.len(), 1);
    assert!(state.done.iter().all(|path| path.contains("state=x&digest=sha256%3A")), "{:?}", state.done);

    // It takes nothing in one piece, and no piece of more than its limit; but none may be less than its least.
    let (server, state) = uploads(|method, number| match (method, number) {
        ("PUT", _) => Some((0, Reply::error(405, "UNSUPPORTED"))),
        ("PATCH", 1) => Some((0, Reply::new(413, ""))),
        ("PATCH", 4) => Some((700, Reply::new(500, ""))),
        _ => None,
    });
    assert_eq!(push(&server, 8000).unwrap(), Ended::Transferred);
    let state = state.lock().unwrap();
    assert_eq!(
        state.sent,
        ["PUT", "PATCH 0-7999", "PATCH 0-3999", "PATCH 4000-7999", "PATCH 8000-9999", "PATCH 8700-9999"]
    );
    assert_eq!(state.bytes, bytes);

    let (server, _) = uploads(|_, _| Some((0, Reply::error(403, "DENIED"))));
    let error = push(&server, 8000).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(told(&error).contains(&format!("push blob {} to {}/a", descriptor.digest, server.host)));
    assert!(told(&error).contains("403 forbidden: DENIED: so it is"), "{}", told(&error));
    // Pieces of at least what it wants.
    let (server, state) = uploads(|method, _| (method == "PUT").then(|| (0, Reply::new(411, ""))));
    push(&server, 1).unwrap();
    assert_eq!(state.lock().unwrap().sent.len(), 11);
}

#[test]
fn a_registry_that_takes_all_and_has_nothing_is_left() {
    let server = Scripted::start(|seen, _| match seen.method.as_str() {
        "POST" => Reply::new(202, "").header("location", "/up"),
        "PATCH" => Reply::new(202, "").header("location", "/up").header("range", "0-0"),
        "PUT" => Reply::error(405, "UNSUPPORTED"),
        "HEAD" => Reply::new(404, ""),
        _ => Reply::new(200, ""),
    });
    let descriptor = Descriptor::of("x", b"hello");
    let reference = named(&server.host, "a:1");
    let error =
        Place::new().client().push_blob(&reference, &descriptor, b"hello".as_slice(), &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
    assert!(told(&error).contains("has none of it"), "{}", told(&error));
    assert_eq!(server.lines().iter().filter(|line| line.starts_with("PATCH")).count(), 3);
}

#[test]
fn only_who_may_have_a_blob_is_asked_for_it() {
    let server = Scripted::start(|seen, _| match seen.method.as_str() {
        "POST" => Reply::new(202, "").header("location", "/up"),
        "PUT" => Reply::new(201, ""),
        "HEAD" => Reply::new(404, ""),
        _ => Reply::new(200, ""),
    });
    let (made, pulled) = (b"made here".to_vec(), b"pulled".to_vec());
    let descriptor = |bytes: &[u8]| Descriptor::of("x", bytes);
    let sibling =
        |path: &str, blobs| Sibling { path: path.to_owned(), blobs: Some(BTreeSet::from_iter(blobs)) };
    let siblings = vec![sibling("base", vec![descriptor(&pulled).digest]), sibling("other", vec![])];
    let client = Place::new().client();
    let repository = Repository::new(&client, named(&server.host, "a:1")).with_siblings(siblings);
    repository.put_blob(&descriptor(&made), &made).unwrap();
    repository.put_blob(&descriptor(&pulled), &pulled).unwrap();
    let escaped = descriptor(&pulled).digest.to_string().replace(':', "%3A");
    let posts: Vec<String> = server.lines().into_iter().filter(|line| line.starts_with("POST")).collect();
    let mount = format!("POST /v2/a/blobs/uploads/?mount={escaped}&from=base");
    assert_eq!(posts, ["POST /v2/a/blobs/uploads/", &mount]);
}

#[test]
fn what_cannot_be_read_is_no_failure_of_the_network() {
    struct Damaged;
    impl rootling::registry::Content for Damaged {
        fn open_at(&self, _: u64) -> rootling_backends::Result<Box<dyn std::io::Read + '_>> {
            Ok(Box::new(std::fs::File::open("/proc/self/mem").unwrap()))
        }
    }
    let (server, _) = uploads(|_, _| None);
    let descriptor = Descriptor::of("x", &noise(61, 10));
    let place = Place::new();
    let error =
        place.client().push_blob(&named(&server.host, "a:1"), &descriptor, &Damaged, &[]).unwrap_err();
    assert!(told(&error).contains("read what is to be sent"), "{}", told(&error));
    assert_eq!(server.lines().iter().filter(|line| line.starts_with("PUT")).count(), 0);
}
