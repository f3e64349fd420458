//! Which endpoint a path means. Nothing in a path is decoded: no name, tag or digest has anything to encode, so `%2e%2e` is no way out.

/// What a path names; the parts are as they came and may be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route<'p> {
    /// end-1: is there a registry?
    Base,
    /// Its repositories.
    Catalog,
    /// end-8: the tags of a repository.
    Tags(&'p str),
    /// end-3, 7, 9: a manifest by tag or digest.
    Manifest(&'p str, &'p str),
    /// end-2, 10: a blob.
    Blob(&'p str, &'p str),
    /// end-4, 11: the uploads of a repository.
    Uploads(&'p str),
    /// end-5, 6, 13, 14: one of them.
    Upload(&'p str, &'p str),
    /// end-12: what is about a manifest.
    Referrers(&'p str, &'p str),
}

impl<'p> Route<'p> {
    /// Reads a path; `None` where it is no endpoint.
    pub(super) fn of(path: &'p str) -> Option<Self> {
        let rest = path.strip_prefix("/v2")?;
        if rest.is_empty() || rest == "/" {
            return Some(Self::Base);
        }
        let rest = rest.strip_prefix('/')?;
        if rest == "_catalog" {
            return Some(Self::Catalog);
        }
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return Some(Self::Tags(name));
        }
        if let Some(name) =
            rest.strip_suffix("/blobs/uploads/").or_else(|| rest.strip_suffix("/blobs/uploads"))
        {
            return Some(Self::Uploads(name));
        }
        let (before, last) = rest.rsplit_once('/')?;
        if let Some(name) = before.strip_suffix("/blobs/uploads") {
            return Some(Self::Upload(name, last));
        }
        let (name, kind) = before.rsplit_once('/')?;
        match kind {
            "manifests" => Some(Self::Manifest(name, last)),
            "blobs" => Some(Self::Blob(name, last)),
            "referrers" => Some(Self::Referrers(name, last)),
            _ => None,
        }
    }

    /// Returns the repository that it is about.
    pub(super) fn repository(self) -> Option<&'p str> {
        match self {
            Self::Base | Self::Catalog => None,
            Self::Tags(name)
            | Self::Manifest(name, _)
            | Self::Blob(name, _)
            | Self::Uploads(name)
            | Self::Upload(name, _)
            | Self::Referrers(name, _) => Some(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_is_found() {
        assert_eq!(Route::of("/v2/"), Some(Route::Base));
        assert_eq!(Route::of("/v2/_catalog"), Some(Route::Catalog));
        assert_eq!(Route::of("/v2/a/b/tags/list"), Some(Route::Tags("a/b")));
        assert_eq!(Route::of("/v2/a/b/manifests/1.0"), Some(Route::Manifest("a/b", "1.0")));
        assert_eq!(Route::of("/v2/a/blobs/sha256:0"), Some(Route::Blob("a", "sha256:0")));
        assert_eq!(Route::of("/v2/a/blobs/uploads/"), Some(Route::Uploads("a")));
        assert_eq!(Route::of("/v2/a/blobs/uploads/x"), Some(Route::Upload("a", "x")));
        assert_eq!(Route::of("/v2/a/referrers/sha256:0"), Some(Route::Referrers("a", "sha256:0")));
        // A repository may be called as an endpoint is.
        assert_eq!(
            Route::of("/v2/manifests/manifests/manifests"),
            Some(Route::Manifest("manifests", "manifests"))
        );
        for path in ["/", "/v1/", "/v2x", "/v2/a", "/v2/a/b", "/v2/a/manifests", "/v2/manifests/x"] {
            assert_eq!(Route::of(path), None, "{path}");
        }
    }
}
