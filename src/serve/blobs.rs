//! Blobs: read as a whole or in part (end-2), removed (end-10).

use std::io::{Seek, SeekFrom};

use rootling_backends::Context as _;

use super::http::{Answer, Content, Head, Method};
use super::mirror::Mirror;
use super::shelf::Shelf;
use super::trouble::{Answered, Code, failed_there, refuse};
use super::{DIGEST, digest};

/// Sends a blob, or the range of it that is asked for.
pub(super) fn get(shelf: &Shelf<'_>, mirror: Option<&Mirror>, name: &str, head: &Head) -> Answered {
    let digest = digest(name)?;
    let (mut size, mut is_here) = (shelf.blob(&digest)?, true);
    if let (None, Some(mirror)) = (size, mirror) {
        (size, is_here) = (mirror.size_of(shelf, &digest)?, false);
        if let (Some(size), Method::Get) = (size, head.method) {
            mirror.fetch_blob(shelf, &digest, size).or_else(|error| failed_there(&error))?;
            is_here = true;
        }
    }
    let Some(size) = size else { return unknown(name) };
    let answer = |status| {
        Answer::new(status)
            .line(DIGEST, digest.to_string())
            .line("ETag", format!("\"{digest}\""))
            .line("Accept-Ranges", "bytes")
            .line("Cache-Control", "max-age=31536000, immutable")
    };
    if is_known(head, &digest.to_string()) {
        return Ok(answer(304));
    }
    let answer = |status| answer(status).line("Content-Type", "application/octet-stream");
    if !is_here {
        // Only its length was asked for.
        return Ok(answer(200).with(Content::Elsewhere(size)));
    }
    let mut file = shelf.store.open_blob(&digest)?;
    match range(head.line("range"), size) {
        Asked::All => Ok(answer(200).with(Content::File(file, size))),
        Asked::Part(first, last) => {
            file.seek(SeekFrom::Start(first)).context(|| "lseek(blob)")?;
            let part = Content::File(file, last - first + 1);
            Ok(answer(206).line("Content-Range", format!("bytes {first}-{last}/{size}")).with(part))
        }
        Asked::Nothing => {
            let said = super::trouble::says(416, Code::SizeInvalid, format!("the blob has {size} bytes"));
            Ok(said.line("Content-Range", format!("bytes */{size}")))
        }
    }
}

/// Removes a blob from a repository, unless a manifest needs it.
pub(super) fn delete(shelf: &Shelf<'_>, name: &str) -> Answered {
    let digest = digest(name)?;
    if let Some(manifest) = shelf.pushed.manifest_that_needs(&digest)? {
        return refuse(403, Code::Denied, format!("manifest {manifest} needs the blob: delete that first"));
    }
    if shelf.pushed.remove_blob(&digest)? {
        return Ok(Answer::new(202));
    }
    match shelf.has_in_images(&digest)? {
        true => refuse(403, Code::Denied, "an image needs the blob: delete that first"),
        false => unknown(name),
    }
}

fn unknown(name: &str) -> Answered {
    refuse(404, Code::BlobUnknown, format!("the repository has no blob {name}"))
}

/// Has the client what it asks for already?
pub(super) fn is_known(head: &Head, digest: &str) -> bool {
    let known = head.line("if-none-match").unwrap_or_default();
    known.split(',').any(|tag| tag.trim().trim_start_matches("W/").trim_matches('"') == digest)
}

/// What a `Range` asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    All,
    /// The first and the last byte.
    Part(u64, u64),
    /// What is not there.
    Nothing,
}

/// Reads a `Range` ([RFC 9110, 14.2](https://www.rfc-editor.org/rfc/rfc9110#section-14.2)). Several at once, and what is malformed, may be
/// ignored, and is.
fn range(asked: Option<&str>, size: u64) -> Asked {
    let Some((first, last)) = asked.and_then(|asked| asked.strip_prefix("bytes=")?.split_once('-')) else {
        return Asked::All;
    };
    let number =
        |text: &str| text.parse::<u64>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let (first, last) = match (first, last) {
        ("", last) => match number(last) {
            Some(0) => return Asked::Nothing,
            Some(length) => (size.saturating_sub(length), u64::MAX),
            None => return Asked::All,
        },
        (first, "") => match number(first) {
            Some(first) => (first, u64::MAX),
            None => return Asked::All,
        },
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) => (first, last),
            _ => return Asked::All,
        },
    };
    if first >= size || first > last { Asked::Nothing } else { Asked::Part(first, last.min(size - 1)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_what_of_it_is_there() {
        let of_ten = |asked| range(Some(asked), 10);
        assert_eq!(range(None, 10), Asked::All);
        assert_eq!(of_ten("bytes=0-0"), Asked::Part(0, 0));
        assert_eq!(of_ten("bytes=5-"), Asked::Part(5, 9));
        assert_eq!(of_ten("bytes=-3"), Asked::Part(7, 9));
        assert_eq!(of_ten("bytes=-30"), Asked::Part(0, 9));
        assert_eq!(of_ten("bytes=5-99999999999999999"), Asked::Part(5, 9));
        for asked in ["bytes=10-", "bytes=5-4", "bytes=-0"] {
            assert_eq!(of_ten(asked), Asked::Nothing, "{asked}");
        }
        for asked in ["bytes=1-2,4-5", "lines=1-2", "bytes=a-b", "bytes=", "bytes=-", "bytes=+1-2"] {
            assert_eq!(of_ten(asked), Asked::All, "{asked}");
        }
        assert_eq!(range(Some("bytes=0-"), 0), Asked::Nothing);
    }
}
