//! Does what a build does with a store, one call after the other.
//!
//! ```text
//! stepper STORE step BASE KEY PATH=TEXT...     a step on a node (`-`: on nothing); prints its id, and `made` or `hit`
//! stepper STORE fail BASE KEY PATH=TEXT...     a step that fails
//! stepper STORE look KEY                       the id of a step, or `-`
//! stepper STORE alias KEY ID
//! stepper STORE adopt NODE OVER KEY
//! stepper STORE settle
//! stepper STORE built TOP NAME...
//! stepper STORE build BASE NAME COUNT WORD     so many steps, settled, then the image
//! stepper STORE note RECIPE [TEXT]
//! stepper STORE running                        a build runs until there is a line
//! stepper STORE cache ID HOW PATH=TEXT END     `shared`, `private` or `locked`, then `+success` to keep only what succeeded; END is
//!                                              `good`, `bad`, or `wait`, which waits for a line first; prints what PATH held
//! ```

#![expect(clippy::print_stdout, reason = "that is what it is for")]

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rootling::image::{Digest, ImageConfig};
use rootling::store::{
    Built, CacheSharing, CacheStart, CacheUse, Ephemeral, Failure, Name, Node, ObjectId, StepRecord, Store,
};
use rootling_backends::{Access, Context, Error, ErrorKind, Result};

fn main() -> Result<()> {
    rootling_backends::sys::clear_umask();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [store, rest @ ..] = arguments.as_slice() else { return Err(usage()) };
    let store = &Store::open(Path::new(store))?;
    match rest {
        ["step", base, key, files @ ..] => {
            let (node, made) = step(store, find(store, base)?.as_ref(), key, files)?;
            println!("{} {}", node.id, if made { "made" } else { "hit" });
        }
        ["fail", base, key, files @ ..] => println!("{}", fail(store, base, key, files)?.id),
        ["look", key] => {
            let found = store.step(&digest(key))?;
            println!("{}", found.map_or("-".to_owned(), |node| node.id.to_string()));
        }
        ["alias", key, id] => store.note_alias(&digest(key), &store.node(&ObjectId::parse(id)?)?)?,
        ["adopt", node, over, key] => {
            let node = find(store, node)?.ok_or_else(usage)?;
            let step = record(key, 1);
            let adopted =
                store.adopt_step(&node, find(store, over)?.as_ref(), step, node.record.config.clone())?;
            println!("{}", adopted.id);
        }
        ["settle"] => store.settle_steps()?,
        ["built", top, names @ ..] => println!("{}", built(store, find(store, top)?.as_ref(), names)?.id),
        ["build", base, name, count, word] => build(store, base, name, count, word)?,
        ["cache", id, how, file, end] => cache(store, id, how, file, end)?,
        ["running"] => {
            let _running = store.begin_build()?;
            println!("running");
            wait()?;
        }
        ["note", recipe] => {
            let note = store.read_recipe_note(recipe)?.unwrap_or_default();
            println!("{}", String::from_utf8_lossy(&note));
        }
        ["note", recipe, text] => store.write_recipe_note(recipe, text.as_bytes())?,
        _ => return Err(usage()),
    }
    Ok(())
}

fn usage() -> Error {
    Error::new(ErrorKind::InvalidInput, "see the head of stepper.rs")
}

fn find(store: &Store, text: &str) -> Result<Option<Node>> {
    if text == "-" {
        return Ok(None);
    }
    match ObjectId::parse(text).and_then(|id| store.node(&id)) {
        Ok(node) => Ok(Some(node)),
        Err(_) => store.named(&Name::parse(text)?),
    }
}

fn digest(key: &str) -> Digest {
    Digest::sha256_of(key.as_bytes())
}

fn record(key: &str, number: u32) -> StepRecord {
    StepRecord {
        key: digest(key),
        recipe: Some("/srv/Dockerfile".to_owned()),
        stage: "build".to_owned(),
        number,
        shown: format!("RUN make {key}"),
        fields: vec![("args".to_owned(), format!("make {key}"))],
        flags: BTreeMap::new(),
        failure: None,
        adopted: false,
        took_ms: 1,
    }
}

fn config() -> ImageConfig {
    ImageConfig { env: vec!["STEP=yes".to_owned()], working_dir: "/srv".to_owned(), ..ImageConfig::default() }
}

fn write(store: &Store, fork: &Ephemeral, files: &[&str]) -> Result<()> {
    let mount = fork.mount(store, Access::ReadWrite, true)?.open(Access::ReadWrite)?;
    let root = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
    for file in files {
        let (path, text) = file.split_once('=').ok_or_else(usage)?;
        let path = root.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).context(|| format!("mkdir({parent:?})"))?;
        }
        fs::write(&path, text).context(|| format!("write({path:?})"))?;
    }
    Ok(())
}

fn step(store: &Store, base: Option<&Node>, key: &str, files: &[&str]) -> Result<(Node, bool)> {
    if let Some(node) = store.step(&digest(key))? {
        return Ok((node, false));
    }
    let fork = store.step_fork(base, None)?;
    write(store, &fork, files)?;
    Ok((store.commit_step(fork, record(key, 1), config())?, true))
}

fn fail(store: &Store, base: &str, key: &str, files: &[&str]) -> Result<Node> {
    let fork = store.step_fork(find(store, base)?.as_ref(), None)?;
    write(store, &fork, files)?;
    let flags = BTreeMap::from([("tmpfs".to_owned(), vec!["/scratch".to_owned()])]);
    let step = StepRecord { failure: Some(Failure::Code(2)), flags, ..record(key, 7) };
    store.commit_failed(fork, step, config())
}

fn wait() -> Result<()> {
    std::io::stdin().read_line(&mut String::new()).context(|| "read(0)").map(drop)
}

fn cache(store: &Store, id: &str, how: &str, file: &str, end: &str) -> Result<()> {
    let (sharing, on_success) = match how.strip_suffix("+success") {
        Some(how) => (how, true),
        None => (how, false),
    };
    let sharing = match sharing {
        "shared" => CacheSharing::Shared,
        "private" => CacheSharing::Private,
        _ => CacheSharing::Locked,
    };
    let start = CacheStart { content: None, uid: 12, gid: 34, mode: 0o1750 };
    let cache = store.take_cache(id, CacheUse { sharing, on_success }, start, &|| Ok(()))?;
    let (path, text) = file.split_once('=').ok_or_else(usage)?;
    let path = cache.dir().join(path);
    let found = fs::read_to_string(&path).unwrap_or_default();
    fs::write(&path, text).context(|| format!("write({path:?})"))?;
    println!("{found}");
    if end == "wait" {
        wait()?;
    }
    store.end_cache(cache, end != "bad")
}

fn built(store: &Store, top: Option<&Node>, names: &[&str]) -> Result<Node> {
    let names = names.iter().map(|name| Name::parse(name)).collect::<Result<Vec<_>>>()?;
    let steps = top.map(|top| top.id.clone()).into_iter().collect();
    store.publish_built(top, &names, config(), Built { steps, ..Built::default() })
}

fn build(store: &Store, base: &str, name: &str, count: &str, word: &str) -> Result<()> {
    let mut at = find(store, base)?;
    let count: u32 = count.parse().map_err(|_| usage())?;
    let mut made = 0;
    for number in 0..count {
        let file = format!("step-{number}={word}");
        let (node, is_new) = step(store, at.as_ref(), &format!("{base} {word} {number}"), &[&file])?;
        made += u32::from(is_new);
        at = Some(node);
    }
    store.settle_steps()?;
    println!("{} {made}", built(store, at.as_ref(), &[name])?.id);
    Ok(())
}
