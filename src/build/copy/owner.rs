//! Whose the files are that a build makes: `--chown` and `USER`, by the tree's own account files.

use rootling_backends::{Dir, Result};

use crate::runner;

/// Returns user and group of `USER[:GROUP]`, names or numbers; `tree` is the tree as it was before the step.
///
/// A number alone is the group's, too, listed or not; a name alone has the group that it is listed with.
pub(super) fn resolve(text: &str, tree: &Dir) -> Result<(u32, u32)> {
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    let user = if user.is_empty() { "0" } else { user };
    let is_number = user.bytes().all(|byte| byte.is_ascii_digit());
    let request = match (group, is_number) {
        ("", true) => format!("{user}:{user}"),
        ("", false) => user.to_owned(),
        _ => format!("{user}:{group}"),
    };
    let account = runner::resolve(tree, &request).map_err(|error| {
        error.hint("names are those of the image's /etc/passwd and /etc/group: numbers need not be listed")
    })?;
    Ok((account.user.uid, account.user.gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_trees_and_numbers_need_no_list() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("etc")).unwrap();
        std::fs::write(temp.path().join("etc/passwd"), "me:x:1000:1001::/:\n").unwrap();
        std::fs::write(temp.path().join("etc/group"), "audio:x:29:\n").unwrap();
        let tree = Dir::open(temp.path()).unwrap();
        for (text, ids) in [
            ("me", (1000, 1001)),
            ("1000", (1000, 1000)),
            ("7", (7, 7)),
            ("me:audio", (1000, 29)),
            ("7:audio", (7, 29)),
            (":29", (0, 29)),
            ("me:", (1000, 1001)),
            ("root", (0, 0)),
        ] {
            assert_eq!(resolve(text, &tree).unwrap(), ids, "{text}");
        }
        for text in ["nobody", "me:nogroup", "4294967295"] {
            assert!(resolve(text, &tree).is_err(), "{text}");
        }
    }
}
