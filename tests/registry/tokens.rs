//! Tokens: a server that gives them, as docker-registry believes, and what a client does with them.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rootling::registry::{Client, Credential, Ended};
use rootling_backends::ErrorKind;
use serde_json::json;

use super::faulty::{Cutting, Reply, Scripted, Seen};
use super::server::{Registry, openssl};
use super::{Image, Place, named, told};

/// Gives alice all, by password or identity token, and everybody what is public.
pub(crate) struct TokenServer {
    pub(crate) host: String,
    server: Scripted,
    /// Seconds that tokens are said to be good.
    life: Arc<AtomicU64>,
}

impl TokenServer {
    /// Leaves the certificate of its key as `token.crt`.
    pub(super) fn start(directory: &Path) -> Self {
        openssl(
            directory,
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tokens -keyout token.secret -out token.crt",
        );
        openssl(directory, "x509 -in token.crt -outform DER -out token.der");
        let certificate = STANDARD.encode(std::fs::read(directory.join("token.der")).unwrap());
        let secret = directory.join("token.secret");
        let life = Arc::new(AtomicU64::new(300));
        let said = life.clone();
        let server = Scripted::start(move |seen, _| {
            let fields = fields(seen);
            let field =
                |name: &str| fields.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value);
            let alice = format!("Basic {}", STANDARD.encode("alice:wonderland"));
            let is_alice = match (seen.method.as_str(), seen.header("authorization")) {
                ("GET", "") => false,
                ("GET", header) if header == alice => true,
                ("POST", "") if field("refresh_token") == "identity of alice" => true,
                _ => return Reply::new(401, r#"{"details":"incorrect username or password"}"#),
            };
            if field("service") != "test registry" {
                return Reply::new(400, "which service?");
            }
            let scopes = fields.iter().filter(|(name, _)| name == "scope");
            let scopes = scopes.flat_map(|(_, value)| value.split(' ')).filter(|scope| !scope.is_empty());
            let access: Vec<serde_json::Value> = scopes.map(|scope| access(scope, is_alice)).collect();
            let token = token(&secret, &certificate, &access);
            Reply::new(200, json!({ "token": token, "expires_in": said.load(Ordering::SeqCst) }).to_string())
        });
        Self { host: server.host.clone(), server, life }
    }

    fn scopes(&self) -> Vec<String> {
        let scope = |seen: &Seen| {
            let scopes = fields(seen).into_iter().filter(|(name, _)| name == "scope").map(|(_, value)| value);
            scopes.collect::<Vec<_>>().join(" ")
        };
        self.server.seen().iter().map(scope).collect()
    }
}

/// The query and the form.
fn fields(seen: &Seen) -> Vec<(String, String)> {
    let query = seen.path.split_once('?').map_or("", |(_, query)| query);
    let form = String::from_utf8(seen.body.clone()).unwrap();
    let pairs = query.split('&').chain(form.split('&')).filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), unescaped(value))).collect()
}

fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut parts = text.split('%');
    bytes.extend(parts.next().unwrap().bytes());
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend(part[2..].bytes());
    }
    String::from_utf8(bytes).unwrap()
}

fn access(scope: &str, is_alice: bool) -> serde_json::Value {
    let parts: Vec<&str> = scope.split(':').collect();
    let [kind, name, actions] = parts[..] else { panic!("scope {scope:?}") };
    let may = |action: &&str| is_alice || (name.starts_with("public/") && *action == "pull");
    let actions: Vec<&str> = actions.split(',').filter(may).collect();
    json!({ "type": kind, "name": name, "actions": actions })
}

/// Signs as <https://distribution.github.io/distribution/spec/auth/jwt/> says.
fn token(secret: &Path, certificate: &str, access: &[serde_json::Value]) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let header = json!({ "typ": "JWT", "alg": "RS256", "x5c": [certificate] }).to_string();
    let claims = json!({
        "iss": "test", "sub": "alice", "aud": "test registry", "jti": now.to_string(),
        "exp": now + 3600, "nbf": now - 60, "iat": now - 60, "access": access,
    });
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let signed = format!("{}.{}", encode(header.as_bytes()), encode(claims.to_string().as_bytes()));
    let mut child = Command::new("openssl")
        .args(["dgst", "-sha256", "-sign"])
        .arg(secret)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), signed.as_bytes()).unwrap();
    let signature = child.wait_with_output().unwrap().stdout;
    format!("{signed}.{}", encode(&signature))
}

fn alice() -> Credential {
    Credential::Password { username: "alice".to_owned(), password: "wonderland".to_owned() }
}

#[test]
fn one_token_serves_all_requests_of_a_scope() {
    let Some(registry) = Registry::with_tokens() else { return };
    let place = Place::new();
    let tokens = registry.tokens.as_ref().unwrap();
    let before = Cutting::before(&registry.host);
    place.credentials().store(&before.host, &alice()).unwrap();
    let client = place.client();
    let reference = named(&before.host, "team/app:1");
    let image = Image::new(20, 5000);
    image.push(&client, &reference);
    assert_eq!(tokens.scopes(), ["repository:team/app:pull,push"]);
    assert_eq!(client.manifest(&reference).unwrap(), image.document);
    let (descriptor, bytes) = image.layer();
    assert_eq!(&super::read(&client, &reference, descriptor).unwrap(), bytes);
    assert_eq!(tokens.scopes()[1..], ["repository:team/app:pull"]);
    let asked = &tokens.server.seen()[0];
    assert!(
        asked.path.contains("service=test%20registry") && asked.path.contains("account=alice"),
        "{asked:?}"
    );

    let other = named(&before.host, "other/app:1");
    let ended = client.push_blob(&other, descriptor, bytes.as_slice(), &["team/app"]).unwrap();
    assert_eq!(ended, Ended::Mounted("team/app".to_owned()), "a mount asks for both scopes");
}

#[test]
fn a_token_that_ends_soon_is_asked_for_again() {
    let Some(registry) = Registry::with_tokens() else { return };
    let place = Place::new();
    let tokens = registry.tokens.as_ref().unwrap();
    tokens.life.store(1, Ordering::SeqCst);
    place.credentials().store(&registry.host, &alice()).unwrap();
    let client = place.client();
    let reference = named(&registry.host, "team/app:1");
    Image::new(21, 100).push(&client, &reference);
    let asked = tokens.scopes().len();
    std::thread::sleep(Duration::from_millis(1100));
    client.has_blob(&reference, &Image::new(21, 100).layer().0.digest).unwrap();
    client.has_blob(&reference, &Image::new(21, 100).layer().0.digest).unwrap();
    assert_eq!(tokens.scopes().len(), asked + 1);
}

#[test]
fn who_is_nobody_reads_what_is_public_and_is_told_how_to_be_somebody() {
    let Some(registry) = Registry::with_tokens() else { return };
    let place = Place::new();
    let (public, private) = (named(&registry.host, "public/app:1"), named(&registry.host, "team/app:1"));
    let image = Image::new(22, 100);
    {
        let mut settings = place.settings();
        settings.given = Some(alice());
        let client = Client::new(settings);
        assert!(client.log_in(&registry.host).unwrap());
        image.push(&client, &public);
        image.push(&client, &private);
    }
    let nobody = place.client();
    assert_eq!(nobody.manifest(&public).unwrap(), image.document);
    let error = nobody.manifest(&private).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(told(&error).contains("UNAUTHORIZED"), "{}", told(&error));
    assert!(told(&error).contains(&format!("rootling login {}", registry.host)), "{}", told(&error));
    let (descriptor, bytes) = image.layer();
    let elsewhere = named(&registry.host, "public/other:1");
    let error = nobody.push_blob(&elsewhere, descriptor, bytes.as_slice(), &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
}

#[test]
fn identity_tokens_are_exchanged() {
    let Some(registry) = Registry::with_tokens() else { return };
    let place = Place::new();
    let identity = Credential::Identity("identity of alice".to_owned());
    place.credentials().store(&registry.host, &identity).unwrap();
    Image::new(23, 100).push(&place.client(), &named(&registry.host, "team/app:1"));
    let tokens = registry.tokens.as_ref().unwrap();
    assert!(tokens.server.seen().iter().all(|seen| seen.method == "POST"));
    place.credentials().store(&registry.host, &Credential::Identity("stolen".to_owned())).unwrap();
    let error = place.client().manifest(&named(&registry.host, "team/app:1")).unwrap_err();
    assert!(told(&error).contains("401 unauthorized: incorrect username or password"), "{}", told(&error));
    assert!(!told(&error).contains("stolen"));
}

#[test]
fn nothing_that_lets_in_leaves_its_host() {
    // Another host, where blobs lie; a registry whose blobs lead there.
    let store = Scripted::start(|_, _| Reply::new(200, "hello"));
    let elsewhere = store.host.clone();
    let registry = Scripted::start(move |seen, _| match seen.path.as_str() {
        "/v2/" => Reply::new(401, "").header("www-authenticate", "Basic realm=x"),
        _ => Reply::new(307, "").header("location", format!("http://{elsewhere}/signed?key=1")),
    });
    let place = Place::new();
    place.credentials().store(&registry.host, &alice()).unwrap();
    let descriptor = rootling::image::Descriptor::of("text/plain", b"hello");
    let reference = named(&registry.host, "a:1");
    assert_eq!(super::read(&place.client(), &reference, &descriptor).unwrap(), b"hello");
    assert!(registry.seen()[0].header("authorization").starts_with("Basic "));
    assert_eq!(registry.all_seen()[0].header("authorization"), "", "the root is asked as nobody");
    assert_eq!(store.seen().len(), 1);
    assert_eq!(store.seen()[0].header("authorization"), "");
    assert_eq!(store.seen()[0].path, "/signed?key=1");
}

#[test]
fn foreign_layers_are_asked_for_as_nobody() {
    let store = Scripted::start(|seen, _| {
        assert_eq!(seen.header("authorization"), "");
        // As one that would have it shown something: CVE-2020-15157.
        if seen.path == "/first" {
            return Reply::new(401, "").header("www-authenticate", "Basic realm=x");
        }
        Reply::new(200, "hello")
    });
    let registry = Scripted::start(|seen, _| match seen.path.as_str() {
        "/v2/" => Reply::new(401, "").header("www-authenticate", "Basic realm=x"),
        _ => Reply::error(404, "BLOB_UNKNOWN"),
    });
    let place = Place::new();
    for host in [&registry.host, &store.host] {
        place.credentials().store(host, &alice()).unwrap();
    }
    let mut descriptor = rootling::image::Descriptor::of("text/plain", b"hello");
    descriptor.urls = vec![format!("http://{}/first", store.host), format!("http://{}/second", store.host)];
    let reference = named(&registry.host, "a:1");
    assert_eq!(super::read(&place.client(), &reference, &descriptor).unwrap(), b"hello");
    assert_eq!(store.lines(), ["GET /first", "GET /second"]);
}

#[test]
fn whom_a_registry_leads_to_has_no_say_in_where_credentials_go() {
    let thief = Scripted::start(|_, _| Reply::new(200, r#"{"token":"x"}"#));
    let realm = format!("Bearer realm=\"http://{}/token\"", thief.host);
    let store = Scripted::start(move |_, _| Reply::new(401, "").header("www-authenticate", realm.clone()));
    let elsewhere = store.host.clone();
    let registry = Scripted::start(move |seen, _| match seen.path.as_str() {
        "/v2/" => Reply::new(401, "").header("www-authenticate", "Basic realm=x"),
        _ => Reply::new(307, "").header("location", format!("http://{elsewhere}/signed")),
    });
    let place = Place::new();
    place.credentials().store(&registry.host, &alice()).unwrap();
    let client = place.client();
    let reference = named(&registry.host, "a:1");
    for _ in 0..2 {
        assert_eq!(client.manifest(&reference).unwrap_err().kind(), ErrorKind::PermissionDenied);
    }
    assert_eq!(thief.all_seen().len(), 0);
    assert!(registry.seen().iter().all(|seen| seen.header("authorization").starts_with("Basic ")));
}

#[test]
fn a_registry_in_the_clear_leads_nobody_elsewhere_in_the_clear() {
    let registry = Scripted::start(|_, _| {
        Reply::new(401, "").header("www-authenticate", "Bearer realm=\"http://tokens.invalid/token\"")
    });
    let place = Place::new();
    place.credentials().store(&registry.host, &alice()).unwrap();
    let error = place.client().manifest(&named(&registry.host, "a:1")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
    assert!(error.first_hint().unwrap().contains("call tokens.invalid insecure"), "{error:?}");
}

#[test]
fn an_upload_may_go_to_another_host_without_what_lets_in() {
    let store = Scripted::start(|_, _| Reply::new(201, ""));
    let elsewhere = store.host.clone();
    let registry = Scripted::start(move |seen, _| match seen.method.as_str() {
        "GET" => Reply::new(401, "").header("www-authenticate", "Basic realm=x"),
        "POST" => Reply::new(202, "").header("location", format!("http://{elsewhere}/up?key=1")),
        _ => Reply::new(404, ""),
    });
    let place = Place::new();
    place.credentials().store(&registry.host, &alice()).unwrap();
    let descriptor = rootling::image::Descriptor::of("text/plain", b"hello");
    let reference = named(&registry.host, "a:1");
    place.client().push_blob(&reference, &descriptor, b"hello".as_slice(), &[]).unwrap();
    let seen = &store.seen()[0];
    assert!(seen.path.starts_with("/up?key=1&digest=sha256%3A"), "{}", seen.path);
    assert_eq!((seen.header("authorization"), seen.body.as_slice()), ("", b"hello".as_slice()));
}

#[test]
fn a_helper_is_asked_once_for_many_requests() {
    let registry = Scripted::start(|seen, _| match seen.header("authorization") {
        "" => Reply::new(401, "").header("www-authenticate", "Basic realm=x"),
        _ => Reply::new(200, ""),
    });
    let place = Place::new();
    let script = place.path("docker-credential-counting");
    let calls = place.path("calls");
    let known = r#"{"Username":"alice","Secret":"wonderland"}"#;
    let text = format!("#!/bin/sh\ncat >/dev/null; echo $1 >>{}; echo '{known}'\n", calls.display());
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let auth = format!(r#"{{"credHelpers":{{"{}":"counting"}}}}"#, registry.host);
    std::fs::write(place.path("auth.json"), auth).unwrap();
    let mut settings = place.settings();
    settings.credentials = place.credentials().with_helpers_in(vec![place.path("")]);
    let client = Client::new(settings);
    for seed in 0..5 {
        let image = Image::new(seed, 10);
        assert!(client.has_blob(&named(&registry.host, "a:1"), &image.layer().0.digest).unwrap());
    }
    assert_eq!(registry.seen().len(), 5);
    assert_eq!(std::fs::read_to_string(calls).unwrap(), "get\n");
}

#[test]
fn a_helper_keeps_what_the_file_does_not() {
    let Some(registry) = Registry::with_tokens() else { return };
    let place = Place::new();
    let script = place.path("docker-credential-fixture");
    let text = format!(
        "#!/bin/sh\ncd {}\ncase $1 in\nstore) cat >kept ;;\nget) cat >/dev/null; [ -e kept ] && cat kept || {{ echo credentials not found in native keychain; exit 1; }} ;;\nerase) rm kept ;;\nesac\n",
        place.path("").display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(
        place.path("auth.json"),
        format!(r#"{{"credHelpers":{{"{}":"fixture"}}}}"#, registry.host),
    )
    .unwrap();
    let credentials = place.credentials().with_helpers_in(vec![place.path("")]);
    assert_eq!(credentials.find(&registry.host, "x").unwrap(), None);
    credentials.store(&registry.host, &alice()).unwrap();
    let kept = std::fs::read_to_string(place.path("kept")).unwrap();
    assert!(kept.contains("\"Username\":\"alice\"") && kept.contains("wonderland"), "{kept}");
    assert!(!std::fs::read_to_string(place.path("auth.json")).unwrap().contains("auths"));
    assert_eq!(credentials.find(&registry.host, "x").unwrap(), Some(alice()));
    let mut settings = place.settings();
    settings.credentials = credentials.clone();
    Image::new(24, 10).push(&Client::new(settings), &named(&registry.host, "team/app:1"));
    assert_eq!(credentials.erase(&registry.host).unwrap(), [place.path("auth.json")]);
    assert_eq!(credentials.find(&registry.host, "x").unwrap(), None);
    assert_eq!(credentials.erase(&registry.host).unwrap(), [] as [std::path::PathBuf; 0]);
}
