//! The head of a request: from bytes to what is asked.

use crate::registry::unescaped;

/// Bytes in the largest head.
pub const HEAD_MAX: usize = 16 << 10;

/// Most lines of a head.
pub const LINES_MAX: usize = 64;

/// Why a request is answered with an error and the connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The status that says so.
    pub status: u16,
    /// The reason, for people.
    pub why: &'static str,
}

impl Refusal {
    pub(crate) const fn new(status: u16, why: &'static str) -> Self {
        Self { status, why }
    }
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Send the content.
    Get,
    /// Say what would be said of the content.
    Head,
    /// Begin an upload.
    Post,
    /// Go on with one.
    Patch,
    /// End one, or take a manifest.
    Put,
    /// Remove something.
    Delete,
}

impl Method {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PATCH" => Self::Patch,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            _ => return None,
        })
    }

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Patch => "PATCH",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }

    /// Does it change nothing?
    pub fn only_reads(self) -> bool {
        matches!(self, Self::Get | Self::Head)
    }
}

/// Where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// After so many bytes; 0 where there is none.
    Sized(u64),
    /// After an empty chunk.
    Chunked,
}

/// The head of a request, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// What is to be done.
    pub method: Method,
    /// To what: the path as it came, without the query. It begins with `/`, and nothing in it is decoded.
    pub path: String,
    /// The query, decoded, in its order.
    pub query: Vec<(String, String)>,
    /// Where the body ends.
    pub framing: Framing,
    /// Does the client wait for a word before it sends the body?
    pub expects_continue: bool,
    /// May another request follow on the connection?
    pub keeps: bool,
    lines: Lines,
}

/// Names in lower case, and values.
type Lines = Vec<(String, String)>;

fn values<'a>(lines: &'a [(String, String)], name: &'a str) -> impl Iterator<Item = &'a str> {
    lines.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
}

impl Head {
    /// Returns a line's value by its name in lower case; `None` where it did not come, or several times.
    pub fn line(&self, name: &str) -> Option<&str> {
        let mut found = self.lines.iter().filter(|(known, _)| known == name);
        let first = found.next()?;
        found.next().is_none().then_some(first.1.as_str())
    }

    /// Returns the first value of a name in the query.
    pub fn asked<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.all_asked(name).next()
    }

    /// Returns all values of a name in the query.
    pub fn all_asked<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        values(&self.query, name)
    }

    /// Reads a head: all bytes up to and with the empty line.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        // httparse takes a bare line feed for the end of a line; others that the request came through may not.
        let is_bare = |at: usize| bytes[at] == b'\n' && (at == 0 || bytes[at - 1] != b'\r');
        if (0..bytes.len()).any(is_bare) {
            return Err(Refusal::new(400, "a line ends in a bare line feed"));
        }
        let mut headers = [httparse::EMPTY_HEADER; LINES_MAX];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(bytes) {
            Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
            Ok(_) => return Err(Refusal::new(400, "the head has no end, or more than one")),
            Err(httparse::Error::TooManyHeaders) => {
                return Err(Refusal::new(431, "the head has too many lines"));
            }
            Err(httparse::Error::Version) => {
                return Err(Refusal::new(505, "only HTTP/1.0 and HTTP/1.1 are spoken"));
            }
            Err(_) => return Err(Refusal::new(400, "the head is malformed")),
        }
        let method = Method::parse(request.method.unwrap_or_default());
        let method = method.ok_or(Refusal::new(405, "the method is not known"))?;
        let (path, query) = split_target(request.path.unwrap_or_default())?;
        let is_1_1 = request.version == Some(1);
        let mut lines = Lines::with_capacity(request.headers.len());
        for header in request.headers.iter() {
            let value = std::str::from_utf8(header.value);
            let value = value.map_err(|_| Refusal::new(400, "a line is no text"))?;
            lines.push((header.name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()));
        }
        let framing = framing(&lines, is_1_1)?;
        match values(&lines, "host").count() {
            1 => {}
            0 if !is_1_1 => {}
            _ => return Err(Refusal::new(400, "there is not one Host")),
        }
        let expected: Vec<&str> = values(&lines, "expect").collect();
        let expects_continue = match expected.as_slice() {
            [] => false,
            [one] if one.eq_ignore_ascii_case("100-continue") => is_1_1,
            _ => return Err(Refusal::new(417, "only 100-continue can be expected")),
        };
        let says = |word: &str| {
            let mut said = values(&lines, "connection").flat_map(|value| value.split(','));
            said.any(|said| said.trim().eq_ignore_ascii_case(word))
        };
        let keeps = if is_1_1 { !says("close") } else { says("keep-alive") };
        Ok(Self { method, path, query, framing, expects_continue, keeps, lines })
    }
}

fn split_target(target: &str) -> Result<(String, Lines), Refusal> {
    // What comes through a proxy may have a host in it (RFC 9112, 3.2.2).
    let target = match target.strip_prefix("http://").or_else(|| target.strip_prefix("https://")) {
        Some(rest) => rest.find('/').map_or("/", |slash| &rest[slash..]),
        None => target,
    };
    if !target.starts_with('/') || target.contains('#') {
        return Err(Refusal::new(400, "the target is no path"));
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decoded(name)?, decoded(value)?))
    });
    Ok((path.to_owned(), pairs.collect::<Result<_, Refusal>>()?))
}

/// Decodes a word of a query: `%2F`. A plus stays one: media types have it, and clients do not always encode it.
fn decoded(text: &str) -> Result<String, Refusal> {
    let bytes = unescaped(text).and_then(|bytes| String::from_utf8(bytes).ok());
    bytes.ok_or(Refusal::new(400, "the query is malformed"))
}

/// Finds out where the body ends ([RFC 9112, 6.3](https://www.rfc-editor.org/rfc/rfc9112#section-6.3)); nothing is guessed.
fn framing(lines: &[(String, String)], is_1_1: bool) -> Result<Framing, Refusal> {
    let lengths: Vec<&str> = values(lines, "content-length").collect();
    let codings: Vec<&str> = values(lines, "transfer-encoding").collect();
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok(Framing::Sized(0)),
        ([length], []) => {
            let is_number = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
            let length = length.parse().ok().filter(|_| is_number);
            length.map(Framing::Sized).ok_or(Refusal::new(400, "the Content-Length is no number"))
        }
        ([], [coding]) if is_1_1 && coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
        ([], [_]) if is_1_1 => Err(Refusal::new(501, "only chunked is known as a Transfer-Encoding")),
        _ => Err(Refusal::new(400, "the length of the body is told in more than one way")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &str) -> Result<Head, Refusal> {
        Head::parse(head.replace('\n', "\r\n").as_bytes())
    }

    #[test]
    fn a_request_is_understood() {
        let head = parse(
            "PUT /v2/a/b?digest=sha256%3Aab&tag=x&tag=y HTTP/1.1\nHost: h\nContent-Length: 12\nExpect: 100-Continue\n\n",
        );
        let head = head.unwrap();
        assert_eq!((head.method, head.path.as_str()), (Method::Put, "/v2/a/b"));
        assert_eq!(head.framing, Framing::Sized(12));
        assert_eq!(head.asked("digest"), Some("sha256:ab"));
        assert_eq!(head.all_asked("tag").collect::<Vec<_>>(), ["x", "y"]);
        assert!(head.expects_continue && head.keeps);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for lines in [
            "Content-Length: 1\nTransfer-Encoding: chunked",
            "Content-Length: 1\nContent-Length: 1",
            "Content-Length: 1, 1",
            "Content-Length: +1",
            "Content-Length: -1",
            "Content-Length: ",
            "Content-Length: 99999999999999999999999",
            "Transfer-Encoding: chunked\nTransfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding : chunked",
            "Transfer-Encoding: \u{b}chunked",
            "X: a\n b: c",
            "Host: other",
        ] {
            let refusal = parse(&format!("POST / HTTP/1.1\nHost: h\n{lines}\n\n"));
            assert!(refusal.is_err(), "{lines:?}: {refusal:?}");
        }
        assert!(parse("POST / HTTP/1.0\nTransfer-Encoding: chunked\n\n").is_err());
        assert!(Head::parse(b"GET / HTTP/1.1\nHost: h\r\n\r\n").is_err());
    }

    #[test]
    fn no_host_no_path_no_version_are_refused() {
        assert_eq!(parse("GET / HTTP/1.1\n\n").unwrap_err().status, 400);
        assert_eq!(parse("GET v2 HTTP/1.1\nHost: h\n\n").unwrap_err().status, 400);
        assert_eq!(parse("BREW / HTTP/1.1\nHost: h\n\n").unwrap_err().status, 405);
        assert!(parse("GET / HTTP/2.0\nHost: h\n\n").is_err());
        let many = "X: y\n".repeat(LINES_MAX + 1);
        assert_eq!(parse(&format!("GET / HTTP/1.1\n{many}\n")).unwrap_err().status, 431);
    }
}
