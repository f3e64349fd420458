//! What becomes of names: by registries.conf, by hosts.toml, by both.

use std::path::Path;

use super::*;

fn hosts(text: &str) -> Hosts {
    Hosts { registries: Registries::parse(text).unwrap(), ..Hosts::default() }
}

/// `authority base repository`, with what is special.
fn shown(endpoints: &[Endpoint]) -> Vec<String> {
    let mut all = Vec::new();
    for endpoint in endpoints {
        let mut text = format!("{}{}/{}", endpoint.authority, endpoint.base, endpoint.repository);
        for (is, word) in [(endpoint.insecure, " insecure"), (endpoint.is_mirror, " mirror")] {
            text.push_str(if is { word } else { "" });
        }
        if let Some(namespace) = &endpoint.namespace {
            text.push_str(&format!(" for {namespace}"));
        }
        all.push(text);
    }
    all
}

fn endpoints(hosts: &Hosts, name: &str, purpose: Purpose) -> Vec<String> {
    let (host, repository) = name.split_once('/').unwrap();
    shown(&hosts.endpoints(host, repository, purpose).unwrap())
}

#[test]
fn without_files_a_host_is_itself() {
    let hosts = Hosts::default();
    assert_eq!(
        endpoints(&hosts, "docker.io/library/alpine", Purpose::Tag),
        ["registry-1.docker.io/v2/library/alpine"]
    );
    assert_eq!(endpoints(&hosts, "ghcr.io/a/b", Purpose::Origin), ["ghcr.io/v2/a/b"]);
    let insecure = Hosts { insecure: vec!["r:5000".to_owned()], ..Hosts::default() };
    assert_eq!(endpoints(&insecure, "r:5000/a", Purpose::Tag), ["r:5000/v2/a insecure"]);
}

#[test]
fn prefixes_locations_and_mirrors_are_as_podman_has_them() {
    let hosts = hosts(
        r#"
        unqualified-search-registries = ["docker.io"]
        [[registry]]
        location = "docker.io"
        [[registry.mirror]]
        location = "mirror.example/hub/"
        [[registry.mirror]]
        location = "tags.example"
        pull-from-mirror = "tag-only"
        [[registry.mirror]]
        location = "digests.example"
        insecure = true
        pull-from-mirror = "digest-only"
        [[registry]]
        prefix = "docker.io/library"
        location = "official.example/x"
        [[registry]]
        prefix = "*.internal"
        insecure = true
        "#,
    );
    assert_eq!(
        endpoints(&hosts, "docker.io/user/app", Purpose::Tag),
        [
            "mirror.example/v2/hub/user/app mirror",
            "tags.example/v2/user/app mirror",
            "registry-1.docker.io/v2/user/app"
        ]
    );
    assert_eq!(
        endpoints(&hosts, "docker.io/user/app", Purpose::Digest),
        [
            "mirror.example/v2/hub/user/app mirror",
            "digests.example/v2/user/app insecure mirror",
            "registry-1.docker.io/v2/user/app"
        ]
    );
    assert_eq!(
        endpoints(&hosts, "docker.io/user/app", Purpose::Origin),
        ["registry-1.docker.io/v2/user/app"]
    );
    assert_eq!(endpoints(&hosts, "docker.io/library/a", Purpose::Tag), ["official.example/v2/x/a"]);
    assert_eq!(
        endpoints(&hosts, "docker.io/libraryx/a", Purpose::Origin),
        ["registry-1.docker.io/v2/libraryx/a"]
    );
    assert_eq!(endpoints(&hosts, "a.b.internal/x", Purpose::Tag), ["a.b.internal/v2/x insecure"]);
    assert_eq!(endpoints(&hosts, "internal/x", Purpose::Tag), ["internal/v2/x"]);
}

#[test]
fn aliases_are_for_names_without_a_host() {
    let hosts = hosts("[aliases]\n\"fedora\" = \"registry.fedoraproject.org/fedora\"\n");
    assert_eq!(hosts.qualify("fedora:40"), "registry.fedoraproject.org/fedora:40");
    assert_eq!(hosts.qualify("fedora"), "registry.fedoraproject.org/fedora");
    assert_eq!(hosts.qualify("fedora@sha256:ab"), "registry.fedoraproject.org/fedora@sha256:ab");
    assert_eq!(hosts.qualify("quay.io/fedora"), "quay.io/fedora");
    assert_eq!(hosts.qualify("localhost:5000/x"), "localhost:5000/x");
}

#[test]
fn later_files_have_the_last_word() {
    let directory = tempfile::TempDir::new().unwrap();
    let own = directory.path().join("containers");
    std::fs::create_dir_all(own.join("registries.conf.d")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(own.join(name), text).unwrap();
    write(
        "registries.conf",
        "[[registry]]\nlocation = \"one.test\"\nblocked = true\n[aliases]\n\"a\" = \"one.test/a\"\n",
    );
    write(
        "registries.conf.d/20.conf",
        "[[registry]]\nlocation = \"one.test\"\n[aliases]\n\"a\" = \"\"\n\"b\" = \"one.test/b\"\n",
    );
    write("registries.conf.d/10.conf", "[aliases]\n\"b\" = \"two.test/b\"\n");
    write("registries.conf.d/notes", "not read");
    let registries = Registries::read(None, Some(directory.path())).unwrap();
    assert_eq!(registries.sources("one.test/x", Purpose::Tag).unwrap().len(), 1, "not blocked any more");
    assert_eq!((registries.alias("a"), registries.alias("b")), (None, Some("one.test/b")));
    write("registries.conf.d/30.conf", "[[registry]\n");
    let error = Registries::read(None, Some(directory.path())).unwrap_err();
    assert!(format!("{error:?}").contains("30.conf"), "{error:?}");
}

#[test]
fn nonsense_is_refused() {
    for text in [
        "[[registry]]\n",
        "[[registry]]\nlocation = \"https://x\"\n",
        "[[registry]]\nprefix = \"*.x\"\nlocation = \"y\"\n",
        "[[registry]]\nlocation = \"x\"\n[[registry.mirror]]\n",
        "[[registry]]\nlocation = \"x\"\n[[registry.mirror]]\nlocation = \"y\"\npull-from-mirror = \"never\"\n",
        "[[registry]]\nlocation = 7\n",
    ] {
        assert_eq!(Registries::parse(text).unwrap_err().kind(), ErrorKind::InvalidInput, "{text}");
    }
    let strange = hosts("[[registry]]\nprefix = \"a\"\nlocation = \"b c/d\"\n");
    assert_eq!(strange.endpoints("a", "x", Purpose::Tag).unwrap_err().kind(), ErrorKind::InvalidInput);
}

fn origin() -> Endpoint {
    Endpoint {
        host: "docker.io".to_owned(),
        authority: "registry-1.docker.io".to_owned(),
        base: "/v2".to_owned(),
        repository: "library/a".to_owned(),
        ..Endpoint::default()
    }
}

fn read(text: &str, purpose: Purpose) -> Vec<Endpoint> {
    certs::parse(text, Path::new("/etc/x"), origin(), purpose).unwrap()
}

#[test]
fn hosts_toml_is_as_containerd_has_it() {
    let text = r#"
        server = "https://registry-1.docker.io"
        ca = "own.pem"

        [host."https://zebra.example"]
        capabilities = ["pull", "resolve"]
        ca = ["one.crt", "/abs/two.crt"]
        client = [["c.cert", "c.key"]]

        [host."http://alpha.example:5000"]
        capabilities = ["pull"]
        skip_verify = true

        [host."https://deep.example/v2/hub"]
        override_path = true
        [host."https://deep.example/v2/hub".header]
        X-Team = "blue"

        [host."https://writable.example/v2"]
        capabilities = ["push"]
    "#;
    let for_tags = read(text, Purpose::Tag);
    assert_eq!(
        shown(&for_tags),
        [
            "zebra.example/v2/library/a mirror for docker.io",
            "deep.example/v2/hub/library/a mirror for docker.io",
            "registry-1.docker.io/v2/library/a"
        ],
        "in the order of the file"
    );
    let zebra = &for_tags[0];
    assert_eq!(zebra.trust.authorities, [Path::new("/etc/x/one.crt"), Path::new("/abs/two.crt")]);
    assert_eq!(zebra.trust.client, Some(("/etc/x/c.cert".into(), "/etc/x/c.key".into())));
    assert_eq!(for_tags[1].headers, [("x-team".to_owned(), "blue".to_owned())]);
    assert_eq!(for_tags[2].trust.authorities, [Path::new("/etc/x/own.pem")]);
    assert_eq!((for_tags[2].host.as_str(), zebra.host.as_str()), ("docker.io", "zebra.example"));
    let for_digests = read(text, Purpose::Digest);
    assert_eq!(shown(&for_digests)[1], "alpha.example:5000/v2/library/a insecure mirror for docker.io");
    assert_eq!(for_digests[1].secure, Some(false));
    assert_eq!(
        shown(&read(text, Purpose::Origin)),
        ["writable.example/v2/library/a mirror for docker.io", "registry-1.docker.io/v2/library/a"]
    );
    assert_eq!(shown(&read("", Purpose::Tag)), ["registry-1.docker.io/v2/library/a"]);
    let other = read("server = \"https://else.example\"", Purpose::Tag);
    assert_eq!((other[0].authority.as_str(), other[0].host.as_str()), ("else.example", "docker.io"));
    for wrong in ["host = 7", "[host.\"ftp://x\"]", "[host.\"https://x\"]\nca = 7", "server = \"a b\""] {
        assert!(certs::parse(wrong, Path::new("/"), origin(), Purpose::Tag).is_err(), "{wrong}");
    }
}

#[test]
fn certificates_lie_by_host() {
    let directory = tempfile::TempDir::new().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("r.test:5000/b.crt", "");
    write("r.test:5000/a.crt", "");
    write("r.test:5000/client.cert", "");
    write("r.test_6000_/c.crt", "");
    write("_default/hosts.toml", "[host.\"https://cache.test\"]\n");
    write("docker.io/hub.crt", "");
    let certificates = CertificateDirectories::in_directories(vec![directory.path().to_owned()]);
    let error = certificates.trust("r.test:5000").unwrap_err();
    assert!(error.to_string().contains("client.key"), "{error:?}");
    write("r.test:5000/client.key", "");
    let trust = certificates.trust("r.test:5000").unwrap();
    assert_eq!(trust.authorities.len(), 2);
    assert!(trust.authorities[0].ends_with("a.crt") && trust.client.is_some());
    assert_eq!(certificates.trust("r.test:6000").unwrap().authorities.len(), 1);
    assert_eq!(certificates.trust("r.test").unwrap(), Trust::default());
    let hosts = Hosts { certificates, ..Hosts::default() };
    let found = hosts.endpoints("docker.io", "library/a", Purpose::Tag).unwrap();
    assert_eq!(
        shown(&found),
        ["cache.test/v2/library/a mirror for docker.io", "registry-1.docker.io/v2/library/a"]
    );
    assert_eq!(found[1].trust.authorities.len(), 1);
    assert_eq!(
        found[0].trust.authorities.len(),
        0,
        "what is believed of one host is not believed of another"
    );
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "(?s)(\\[|\\]|=|\"|\n|registry|mirror|host|location|prefix|https://|\\*\\.|a|.){0,40}") {
        drop(Registries::parse(&text));
        drop(certs::parse(&text, Path::new("/"), origin(), Purpose::Tag));
    }

    #[test]
    fn a_rewritten_name_keeps_what_follows_the_prefix(prefix in "[a-z]{1,4}(/[a-z]{1,3}){0,2}", rest in "(/[a-z]{1,3}){0,3}", other in "[a-z]{0,3}") {
        let hosts = hosts(&format!("[[registry]]\nprefix = \"{prefix}\"\nlocation = \"new.test/x\"\n"));
        let sources = hosts.registries.sources(&format!("{prefix}{rest}"), Purpose::Tag).unwrap();
        proptest::prop_assert_eq!(&sources[0].name, &format!("new.test/x{rest}"));
        if !other.is_empty() {
            let name = format!("{prefix}{other}");
            proptest::prop_assert_eq!(&hosts.registries.sources(&name, Purpose::Tag).unwrap()[0].name, &name);
        }
    }
}
