//! Contexts from archives, texts, files and servers of this machine.

use std::io::Write;
use std::net::TcpListener;

use super::*;
use crate::build::context::Selection;
use crate::layer;
use crate::registry::{Client, Settings};
use crate::sources::{Fetch, Location};

struct Ground {
    temp: tempfile::TempDir,
    store: Store,
}

fn ground() -> Ground {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::init(&temp.path().join("store"), None).unwrap();
    Ground { temp, store }
}

impl Ground {
    fn loading<T>(&self, work: impl FnOnce(&Loading<'_>) -> T) -> T {
        let make = || Ok(Client::new(Settings::of(&|_| None, 0)?));
        let (fetch, scratch) = (Fetch::new(&make), std::env::temp_dir());
        let means = Means {
            fetch: &fetch,
            scratch: &scratch,
            bind: |_, _| {},
            source_date_epoch: None,
            tell: &|_| {},
        };
        work(&Loading::new(&self.store, &means, None))
    }

    fn load(&self, text: &str, stdin: &[u8]) -> Result<Loaded> {
        self.loading(|loading| Place::parse(text).unwrap().load(loading, stdin))
    }

    /// What lies in the store's directory for what is thrown away.
    fn drafts(&self) -> usize {
        fs::read_dir(self.store.root().join("tmp")).unwrap().count()
    }
}

fn names(context: &Context) -> Vec<String> {
    let source = context.find(Path::new("")).unwrap().unwrap();
    let entries = context.list(&source, &Selection::default()).unwrap();
    entries.into_iter().skip(1).map(|entry| entry.path.display().to_string()).collect()
}

fn archive() -> Vec<u8> {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("d")).unwrap();
    fs::write(temp.path().join("Dockerfile"), "FROM scratch\n").unwrap();
    fs::write(temp.path().join("d/file"), "text").unwrap();
    std::os::unix::fs::symlink("/etc", temp.path().join("etc")).unwrap();
    let dir = Dir::open(temp.path()).unwrap();
    let (mut packed, mut bytes) = (Vec::new(), Vec::new());
    let changes = layer::whole_tree(&dir).unwrap();
    layer::create(&changes, &dir, &layer::CreateOptions::default(), &mut packed).unwrap();
    layer::decompress(&packed[..]).unwrap().1.read_to_end(&mut bytes).unwrap();
    bytes
}

fn packed(archive: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(archive).unwrap();
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(archive).unwrap();
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(archive).unwrap();
    vec![
        ("bzip2", bzip2.finish().unwrap()),
        ("plain", archive.to_vec()),
        ("gzip", gzip.finish().unwrap()),
        ("xz", xz.finish().unwrap()),
        ("zstd", zstd::encode_all(archive, 1).unwrap()),
    ]
}

#[test]
fn archives_are_unpacked_and_gone_with_the_context() {
    let ground = ground();
    let archive = archive();
    for (how, bytes) in packed(&archive) {
        let loaded = ground.load("-", &bytes).unwrap_or_else(|error| panic!("{how}: {error:?}"));
        assert_eq!(names(&loaded.context), ["Dockerfile", "d", "d/file", "etc"], "{how}");
        assert!(loaded.dockerfile.is_none());
        assert_eq!(loaded.context.read(Path::new("Dockerfile"), 100).unwrap().unwrap(), b"FROM scratch\n");
        assert!(loaded.context.read(Path::new("etc/passwd"), 1 << 20).is_err());
        assert_eq!(ground.drafts(), 1);
        drop(loaded);
        assert_eq!(ground.drafts(), 0);

        let path = ground.temp.path().join("context.tar");
        fs::write(&path, &bytes).unwrap();
        let text = path.display().to_string();
        let loaded = ground.load(&text, b"").unwrap();
        assert_eq!((names(&loaded.context).len(), loaded.context.label()), (4, text.as_str()));
    }
    let cut = &archive[..archive.len() / 2];
    assert!(ground.load("-", cut).is_err());
    assert_eq!(ground.drafts(), 0);
}

#[test]
fn a_text_is_a_dockerfile_without_files() {
    let ground = ground();
    for text in ["FROM scratch\n", "# é\nFROM x", &format!("{}é\n", "a".repeat(511))] {
        let loaded = ground.load("-", text.as_bytes()).unwrap();
        assert_eq!(loaded.dockerfile.as_deref(), Some(text.as_bytes()));
        assert!(names(&loaded.context).is_empty());
    }
    let path = ground.temp.path().join("Dockerfile");
    fs::write(&path, "FROM x").unwrap();
    let loaded = ground.load(&path.display().to_string(), b"").unwrap();
    assert_eq!(loaded.dockerfile.as_deref(), Some(&b"FROM x"[..]));
    let long = vec![b'#'; usize::try_from(DOCKERFILE_LIMIT).unwrap() + 1];
    for (bytes, kind) in [
        (&b""[..], ErrorKind::InvalidInput),
        (b"7z\xbc\xaf\x27\x1c\0", ErrorKind::Unsupported),
        (b"\0\x01\x02\xff", ErrorKind::Unsupported),
        (&long, ErrorKind::InvalidInput),
    ] {
        assert_eq!(ground.load("-", bytes).unwrap_err().kind(), kind);
    }
    drop(loaded);
    assert_eq!(ground.drafts(), 0);
}

#[test]
fn a_pipe_has_an_archive_as_a_file_has() {
    let ground = ground();
    let path = ground.temp.path().join("pipe");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let writer = path.clone();
    let writing = std::thread::spawn(move || fs::write(writer, archive()).unwrap());
    let loaded = ground.load(&path.display().to_string(), b"").unwrap();
    writing.join().unwrap();
    assert_eq!(names(&loaded.context).len(), 4);
}

#[test]
fn a_directory_is_read_where_it_is() {
    let ground = ground();
    let path = ground.temp.path().join("context");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("a"), "").unwrap();
    let loaded = ground.load(&path.display().to_string(), b"").unwrap();
    fs::write(path.join("b"), "").unwrap();
    assert_eq!((names(&loaded.context), ground.drafts()), (vec!["a".to_owned(), "b".to_owned()], 0));
    let missing = ground.temp.path().join("missing").display().to_string();
    assert_eq!(ground.load(&missing, b"").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn named_contexts_have_their_own_ignore_file() {
    let ground = ground();
    let path = ground.temp.path().join("context");
    fs::create_dir(&path).unwrap();
    for (name, text) in [("a", ""), ("b", ""), (".dockerignore", "a\n.*")] {
        fs::write(path.join(name), text).unwrap();
    }
    let context = ground.loading(|loading| Place::Path(path.clone()).load_named("src", loading)).unwrap();
    assert_eq!((names(&context), context.label()), (vec!["b".to_owned()], "src"));
    let file = ground.temp.path().join("text");
    fs::write(&file, "just a text").unwrap();
    let context = ground.loading(|loading| Place::Path(file.clone()).load_named("src", loading)).unwrap();
    assert_eq!(names(&context), ["context"]);
    let image = ground.loading(|loading| Place::Image("x".to_owned()).load_named("src", loading));
    assert_eq!(image.unwrap_err().kind(), ErrorKind::InvalidInput);
}

/// Answers each request with the same bytes.
fn serve(bytes: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            drop(stream.read(&mut request));
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", bytes.len());
            drop(stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&bytes)));
        }
    });
    format!("http://{address}/context")
}

#[test]
fn files_of_servers_are_archives_or_dockerfiles() {
    let ground = ground();
    let loaded = ground.load(&serve(archive()), b"").unwrap();
    assert_eq!(names(&loaded.context).len(), 4);
    let loaded = ground.load(&serve(b"FROM scratch".to_vec()), b"").unwrap();
    assert_eq!(loaded.dockerfile.as_deref(), Some(&b"FROM scratch"[..]));
    let location = Location::parse("http://192.0.2.1/x").unwrap().unwrap();
    let error = ground.loading(|loading| Place::Web(location.clone()).load(loading, &b""[..])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
}
