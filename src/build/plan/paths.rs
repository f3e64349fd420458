//! Paths of a tree as text: nothing is looked up, so that `..` goes to what stands before it.

/// Returns the absolute path that `path` is for whoever is in `directory`, without `.`, `..` and needless slashes.
pub(super) fn absolute(directory: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let directory = if path.starts_with('/') { "" } else { directory };
    for part in directory.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Returns where `COPY` copies to: absolute, and with a `/` at its end where a directory was meant.
pub(super) fn destination(directory: &str, typed: &str) -> String {
    let is_directory = typed.is_empty() || typed == "." || typed.ends_with('/') || typed.ends_with("/.");
    let mut path = absolute(directory, typed);
    if is_directory && path != "/" {
        path.push('/');
    }
    path
}

/// Returns a source of `COPY`, relative to the root of what is copied from; what leads out of it ends there.
pub(super) fn source(typed: &str) -> String {
    match absolute("/", typed).trim_start_matches('/') {
        "" => ".".to_owned(),
        path => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_absolute_and_stay_inside() {
        for (directory, path, expected) in [
            ("/", "a", "/a"),
            ("/srv", "a/../b", "/srv/b"),
            ("/srv", "/a//b/.", "/a/b"),
            ("/srv", "../../..", "/"),
            ("", "a", "/a"),
            ("/a", "", "/a"),
        ] {
            assert_eq!(absolute(directory, path), expected, "{directory} {path}");
        }
    }

    #[test]
    fn a_destination_says_whether_it_is_a_directory() {
        for (typed, expected) in [
            (".", "/w/"),
            ("", "/w/"),
            ("./", "/w/"),
            ("a", "/w/a"),
            ("a/", "/w/a/"),
            ("/x/.", "/x/"),
            ("/", "/"),
        ] {
            assert_eq!(destination("/w", typed), expected, "{typed}");
        }
    }

    #[test]
    fn a_source_never_leads_out() {
        for (typed, expected) in
            [("../../etc", "etc"), ("/", "."), (".", "."), ("a/b/", "a/b"), ("/a/*.c", "a/*.c"), ("..", ".")]
        {
            assert_eq!(source(typed), expected, "{typed}");
        }
    }
}
