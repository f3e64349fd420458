//! Files of credentials: what is found in them, what is written, and what helpers are told.

use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;

use super::*;

fn file(text: &str) -> Contents {
    Contents::parse(text.as_bytes()).unwrap()
}

fn password(username: &str, password: &str) -> Credential {
    Credential::Password { username: username.to_owned(), password: password.to_owned() }
}

#[test]
fn the_longest_key_that_fits_counts() {
    let auth = |user: &str| format!(r#"{{"auth":"{}"}}"#, STANDARD.encode(format!("{user}:secret")));
    let contents = file(&format!(
        r#"{{"auths":{{"r.example":{},"r.example/team":{},"r.example/team/app":{},"https://index.docker.io/v1/":{},"https://old.example/v2/":{},"r.example/teams":{}}}}}"#,
        auth("host"),
        auth("team"),
        auth("app"),
        auth("hub"),
        auth("old"),
        auth("teams"),
    ));
    let user = |host: &str, repository: &str| match contents.find(host, repository, &[]).unwrap() {
        Some(Credential::Password { username, .. }) => username,
        other => format!("{other:?}"),
    };
    assert_eq!(user("r.example", "team/app"), "app");
    assert_eq!(user("r.example", "team/app/part"), "app");
    assert_eq!(user("r.example", "team/application"), "team");
    assert_eq!(user("r.example", "other"), "host");
    assert_eq!(user("r.example", ""), "host");
    assert_eq!(user("docker.io", "library/alpine"), "hub");
    assert_eq!(user("old.example", "x"), "old");
    assert_eq!(user("r.example:5000", "team/app"), "None");
    assert_eq!(user("xr.example", "team"), "None");
}

#[test]
fn every_form_of_an_entry_is_read() {
    let contents = file(
        r#"{"auths":{
            "a":{"auth":"YWxpY2U6d29uOmRlcg=="},
            "b":{"username":"bob","password":"builder"},
            "c":{"identitytoken":"id","auth":"eDp5"},
            "d":{"registrytoken":"raw"},
            "e":{},
            "f":{"auth":"bm8gY29sb24="}
        },"HttpHeaders":{"X":"y"}}"#,
    );
    assert_eq!(contents.find("a", "", &[]).unwrap(), Some(password("alice", "won:der")));
    assert_eq!(contents.find("b", "", &[]).unwrap(), Some(password("bob", "builder")));
    assert_eq!(contents.find("c", "", &[]).unwrap(), Some(Credential::Identity("id".to_owned())));
    assert_eq!(contents.find("d", "", &[]).unwrap(), Some(Credential::Bearer("raw".to_owned())));
    assert_eq!(contents.find("e", "", &[]).unwrap(), None);
    let error = contents.find("f", "", &[]).unwrap_err();
    assert!(!format!("{error:?}").contains("bm8"), "secrets are not told: {error:?}");
}

#[test]
fn damage_is_told_without_what_it_says() {
    let error = Contents::parse(br#"{"auths":{"a":{"auth":"c2VjcmV0"},}"#).unwrap_err();
    assert!(
        format!("{error:?}").contains("line 1, column") && !format!("{error:?}").contains("c2Vj"),
        "{error:?}"
    );
}

#[test]
fn files_are_asked_in_their_order_and_one_that_was_named_alone() {
    let variable = |name: &str| match name {
        "HOME" => Some("/home/x".to_owned()),
        "XDG_RUNTIME_DIR" => Some("/run/user/7".to_owned()),
        _ => None,
    };
    let files = Credentials::of(&variable, 7).files;
    let expected = [
        "/run/user/7/containers/auth.json",
        "/home/x/.config/containers/auth.json",
        "/home/x/.docker/config.json",
    ];
    assert_eq!(files, expected.map(PathBuf::from));
    let none = Credentials::of(&|_| None, 7).files;
    assert_eq!(none, [PathBuf::from("/run/containers/7/auth.json")]);
    let named = |name: &str| (name == "REGISTRY_AUTH_FILE").then(|| "/x.json".to_owned());
    assert_eq!(Credentials::of(&named, 7).files, [PathBuf::from("/x.json")]);
    let docker = |name: &str| (name == "DOCKER_CONFIG").then(|| "/d".to_owned());
    assert_eq!(Credentials::of(&docker, 7).files[1], PathBuf::from("/d/config.json"));
}

#[test]
fn what_is_stored_is_found_and_all_else_stays() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("below/auth.json");
    let credentials = Credentials::in_files(vec![path.clone()]);
    assert_eq!(credentials.find("r.example", "x").unwrap(), None);
    credentials.store("r.example", &password("alice", "one")).unwrap();
    let mut kept: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    kept["other"] = json!({ "deep": [1, 2] });
    kept["auths"]["https://r.example/v1/"] = json!({ "auth": "eDp5" });
    fs::write(&path, kept.to_string()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();

    credentials.store("r.example", &password("alice", "two")).unwrap();
    credentials.store("docker.io", &password("hub", "three")).unwrap();
    credentials.store("r.example/team", &Credential::Identity("four".to_owned())).unwrap();
    assert_eq!(credentials.find("r.example", "x").unwrap(), Some(password("alice", "two")));
    assert_eq!(
        credentials.find("r.example", "team/x").unwrap(),
        Some(Credential::Identity("four".to_owned()))
    );
    assert_eq!(credentials.find("docker.io", "library/x").unwrap(), Some(password("hub", "three")));
    let kept: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(kept["other"], json!({ "deep": [1, 2] }));
    let keys: Vec<&String> = kept["auths"].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["https://index.docker.io/v1/", "r.example", "r.example/team"], "one entry for each");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    let listed = credentials.list().unwrap();
    assert_eq!(listed["docker.io"].as_deref(), Some("hub"));
    assert_eq!(listed["r.example/team"], None);

    assert_eq!(credentials.erase("r.example").unwrap(), std::slice::from_ref(&path));
    assert_eq!(credentials.erase("r.example").unwrap(), [] as [PathBuf; 0]);
    assert_eq!(credentials.find("r.example", "x").unwrap(), None);
    assert_eq!(credentials.erase("docker.io").unwrap(), [path]);
}

#[test]
fn a_link_is_followed_and_stays() {
    let directory = TempDir::new().unwrap();
    let (real, link) = (directory.path().join("real.json"), directory.path().join("auth.json"));
    fs::write(&real, "").unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    Credentials::in_files(vec![link.clone()]).store("a", &password("x", "y")).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(Contents::read(&real).unwrap().unwrap().find("a", "", &[]).unwrap().is_some());
}

#[test]
fn what_is_no_file_of_credentials_is_not_overwritten() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("auth.json");
    for text in ["[]", "{", r#"{"auths":[]}"#, "not mine"] {
        fs::write(&path, text).unwrap();
        let credentials = Credentials::in_files(vec![path.clone()]);
        assert!(credentials.store("a", &password("x", "y")).is_err(), "{text}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn two_at_once_lose_nothing() {
    let directory = TempDir::new().unwrap();
    let credentials = Credentials::in_files(vec![directory.path().join("auth.json")]);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let credentials = &credentials;
            scope.spawn(move || {
                credentials.store(&format!("r{number}.example"), &password("x", "y")).unwrap()
            });
        }
    });
    assert_eq!(credentials.list().unwrap().len(), 8);
}

#[test]
fn names_of_helpers_are_words() {
    for name in ["", "../evil", "a/b", "a b", "a;b"] {
        assert!(Helper::new(name, &[]).is_err(), "{name:?}");
    }
    let error = file(r#"{"credHelpers":{"r.example":"certainly-not-installed"}}"#)
        .find("r.example", "", &[])
        .unwrap_err();
    assert!(error.first_hint().unwrap().contains("docker-credential-certainly-not-installed"), "{error:?}");
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "(?s)([{}\\[\\]\",:]|auths|auth|credHelpers|credsStore|a|.){0,40}") {
        if let Ok(contents) = Contents::parse(text.as_bytes()) {
            proptest::prop_assert!(contents.auths.len() <= text.len());
            drop(contents.auths.values().map(Entry::credential).collect::<Vec<_>>());
        }
    }

    #[test]
    fn any_key_and_secret_come_back(host in "[a-z]{1,8}(\\.[a-z]{1,8})?(:[1-9][0-9]{1,3})?", name in "[^:\\x00]{1,12}", secret in "[^\\x00]{1,12}") {
        let directory = TempDir::new().unwrap();
        let credentials = Credentials::in_files(vec![directory.path().join("auth.json")]);
        let credential = password(&name, &secret);
        credentials.store(&host, &credential).unwrap();
        proptest::prop_assert_eq!(credentials.find(&host, "any/thing").unwrap(), Some(credential));
    }
}
