//! The store that every crash begins with, and what is known of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::store::Store;
use crate::support::tree::{TreeValue, dir, file, link, sparse, symlink, tree};

/// A program that exits with 0, in the fewest bytes: there is no shell in these trees.
///
/// ELF header and one program header, then `mov eax, 60; xor edi, edi; syscall`.
#[cfg(target_arch = "x86_64")]
pub(crate) fn program() -> Option<Vec<u8>> {
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let half = |elf: &mut Vec<u8>, value: u16| elf.extend_from_slice(&value.to_le_bytes());
    let word = |elf: &mut Vec<u8>, value: u32| elf.extend_from_slice(&value.to_le_bytes());
    let long = |elf: &mut Vec<u8>, value: u64| elf.extend_from_slice(&value.to_le_bytes());
    let (base, header, size) = (0x40_0000_u64, 120_u64, 129_u64);
    half(&mut elf, 2); // ET_EXEC
    half(&mut elf, 62); // EM_X86_64
    word(&mut elf, 1);
    [base + header, 64, 0].into_iter().for_each(|value| long(&mut elf, value)); // entry, program headers, sections
    word(&mut elf, 0);
    [64, 56, 1, 0, 0, 0].into_iter().for_each(|value| half(&mut elf, value));
    word(&mut elf, 1); // PT_LOAD
    word(&mut elf, 5); // readable, executable
    [0, base, base, size, size, 0x1000].into_iter().for_each(|value| long(&mut elf, value));
    elf.extend_from_slice(&[0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05]);
    Some(elf)
}

/// Other machines skip what runs a program.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn program() -> Option<Vec<u8>> {
    None
}

/// Returns what is imported.
pub(crate) fn source() -> TreeValue {
    tree! {
        "etc" => dir(), "etc/passwd" => file("root:x:0:0::/:/true\n"), "etc/link" => symlink("passwd"),
        "bin" => dir(), "bin/a" => file([7; 20_000]).mode(0o755), "bin/b" => link("bin/a"),
        "true" => file(program().unwrap_or_default()).mode(0o755),
        "tmp" => dir().mode(0o1777), "sparse" => sparse(1 << 20, &[(300_000, b"data")]),
        "proc" => dir(), "sys" => dir(), "dev" => dir(), "run" => dir(),
    }
}

/// Returns what the box `work` and the tree `one` hold.
pub(crate) fn changed() -> TreeValue {
    let mut value = source();
    value.remove_name(Path::new("etc/link"));
    value.insert("etc/passwd", file("changed\n"));
    value.insert("new", file("new").mode(0o600));
    value
}

/// Makes the changes that [`changed`] shows.
pub(crate) fn change(root: &Path) {
    std::fs::remove_file(root.join("etc/link")).unwrap();
    std::fs::write(root.join("etc/passwd"), "changed\n").unwrap();
    std::fs::write(root.join("new"), "new").unwrap();
    std::fs::set_permissions(root.join("new"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

/// What was acknowledged: name and content.
pub(crate) type Known = BTreeMap<String, TreeValue>;

/// Writes the tree that is imported to a directory.
pub(crate) fn write_source(at: &Path) -> PathBuf {
    std::fs::create_dir_all(at).unwrap();
    source().make(at);
    at.to_owned()
}

/// Fills a fresh store: trees `base`, `one` and `spare`, boxes `work` (with changes after its commit) and `victim`.
pub(crate) fn fill(store: &Store, source_dir: &Path) -> Known {
    std::fs::create_dir_all(store.root.parent().expect("a store lies in a directory")).unwrap();
    store.run(&["init"]);
    let from = format!("dir:{}", source_dir.display());
    store.run(&["import", &from, "base"]);
    store.run(&["import", &from, "spare"]);
    store.run(&["create", "base", "work"]);
    store.in_tree("work", change);
    store.run(&["commit", "work", "one"]);
    store.in_tree("work", |root| std::fs::write(root.join("later"), "later").unwrap());
    store.run(&["create", "base", "victim"]);
    let mut work = changed();
    work.insert("later", file("later").mode(0o666));
    [("base", source()), ("spare", source()), ("one", changed()), ("work", work), ("victim", source())]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
}

/// Asserts that the store holds exactly these names with exactly this content, and that fsck agrees.
#[track_caller]
pub(crate) fn assert_holds(store: &Store, known: &Known, when: &str) {
    store.assert_clean(when);
    assert_eq!(store.names(), known.keys().cloned().collect::<BTreeSet<_>>(), "{when}: names");
    for (name, value) in known {
        store.assert_tree(name, value, when);
    }
}
