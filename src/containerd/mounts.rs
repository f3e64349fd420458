//! How a client mounts a tree: what it calls mount(2) with, in a mount namespace of its own.
//!
//! The client is containerd, and what is behind it: it splits options at commas and `lowerdir` at colons, shortens long ones by
//! changing into the directory that the layers have in common, and hands them to mount(2) of any kernel it runs on. So paths go as
//! they are, and options are those that every kernel since 4.19 knows.

use std::path::Path;

use rootling_backends::{Access, Error, ErrorKind, Mount, Overlay, Result};

use super::api::types;

/// Returns the mounts that show a tree, to be done one after the other.
///
/// What only reads is read-only by itself, whatever the client adds. A tree that mount(2) cannot show is an error of kind
/// `Unsupported`, and a path that options cannot carry one of kind `FailedPrecondition`.
pub(super) fn described(mount: &Mount, access: Access) -> Result<Vec<types::Mount>> {
    let mount = match mount {
        Mount::Bind { source } => bind(source, access)?,
        Mount::Overlay(overlay) => stacked(overlay, access)?,
        Mount::FuseOverlay(_) => {
            let message = format!("{mount} is a program's, which no mount(2) can start");
            return Err(Error::new(ErrorKind::Unsupported, message).hint("serve with --backend copy"));
        }
    };
    Ok(vec![mount])
}

fn bind(source: &Path, access: Access) -> Result<types::Mount> {
    let flags = ["rbind", flag(access)].map(str::to_owned);
    Ok(filled("bind", text(source)?, flags.into()))
}

fn stacked(overlay: &Overlay, access: Access) -> Result<types::Mount> {
    // One layer alone is no overlay to the kernel, and needs none.
    if let (None, [only]) = (&overlay.upper, overlay.lowers.as_slice()) {
        return bind(only, Access::ReadOnly);
    }
    // Explicit, because the kernel's defaults are a build option. Without redirects there are no copies of metadata alone either
    // (kernel documentation, filesystems/overlayfs.rst, "Metadata only copy up"); to say so would be an option that buildkit does not know.
    let mut options = vec!["index=off".to_owned()];
    options.push(if overlay.userxattr { "userxattr" } else { "redirect_dir=nofollow" }.to_owned());
    match &overlay.upper {
        Some(upper) => {
            options.push(format!("workdir={}", plain(&upper.work)?));
            options.push(format!("upperdir={}", plain(&upper.dir)?));
            if access == Access::ReadOnly {
                options.push(flag(access).to_owned());
            }
        }
        None => options.push(flag(Access::ReadOnly).to_owned()),
    }
    let lowers: Vec<&str> = overlay.lowers.iter().map(|lower| plain(lower)).collect::<Result<_>>()?;
    options.push(format!("lowerdir={}", lowers.join(":")));
    Ok(filled("overlay", "overlay", options))
}

fn filled(r#type: &str, source: &str, options: Vec<String>) -> types::Mount {
    types::Mount { r#type: r#type.to_owned(), source: source.to_owned(), target: String::new(), options }
}

fn flag(access: Access) -> &'static str {
    match access {
        Access::ReadOnly => "ro",
        Access::ReadWrite => "rw",
    }
}

/// Returns a path as it is sent.
pub(super) fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| {
        Error::new(ErrorKind::FailedPrecondition, format!("{path:?} is not UTF-8, and cannot be sent"))
            .hint("give the store by way of a symbolic link")
    })
}

/// Returns a path that can stand in an option. containerd looks for commas and colons and knows no escapes.
pub(super) fn plain(path: &Path) -> Result<&str> {
    let text = text(path)?;
    match text.chars().find(|c| matches!(c, ',' | ':' | '\\' | '"') || c.is_control()) {
        None => Ok(text),
        Some(sign) => {
            let message = format!("{path:?} has {sign:?} in it, which options of mount(2) cannot carry");
            Err(Error::new(ErrorKind::FailedPrecondition, message)
                .hint("give the store by way of a symbolic link"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rootling_backends::Upper;

    use super::*;

    fn overlay(lowers: &[&str], upper: Option<&str>) -> Mount {
        let upper =
            upper.map(|at| Upper { dir: format!("{at}/fs").into(), work: format!("{at}/work").into() });
        let lowers = lowers.iter().map(PathBuf::from).collect();
        Mount::Overlay(Overlay { lowers, upper, volatile: true, userxattr: false })
    }

    fn said(mount: &Mount, access: Access) -> String {
        let mounts = described(mount, access).unwrap();
        let [mount] = mounts.as_slice() else { panic!("one mount") };
        format!("{} {} {}", mount.r#type, mount.source, mount.options.join(","))
    }

    #[test]
    fn a_tree_is_bound_or_stacked() {
        let bind = Mount::Bind { source: "/s/o/a/fs".into() };
        assert_eq!(said(&bind, Access::ReadWrite), "bind /s/o/a/fs rbind,rw");
        assert_eq!(said(&bind, Access::ReadOnly), "bind /s/o/a/fs rbind,ro");
        assert_eq!(
            said(&overlay(&["/s/o/b/fs", "/s/o/a/fs"], Some("/s/o/c")), Access::ReadWrite),
            "overlay overlay index=off,redirect_dir=nofollow,workdir=/s/o/c/work,upperdir=/s/o/c/fs,lowerdir=/s/o/b/fs:/s/o/a/fs"
        );
        assert_eq!(
            said(&overlay(&["/s/o/b/fs", "/s/o/a/fs"], None), Access::ReadWrite),
            "overlay overlay index=off,redirect_dir=nofollow,ro,lowerdir=/s/o/b/fs:/s/o/a/fs"
        );
        assert_eq!(said(&overlay(&["/s/o/a/fs"], None), Access::ReadOnly), "bind /s/o/a/fs rbind,ro");
    }

    #[test]
    fn what_options_cannot_carry_is_refused() {
        for path in ["/a,b", "/a:b", "/a\\b", "/a\"b", "/a\nb"] {
            let error = described(&overlay(&[path, "/c"], None), Access::ReadOnly).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{path}");
            // No option, no trouble.
            assert!(described(&Mount::Bind { source: path.into() }, Access::ReadOnly).is_ok());
        }
    }
}
