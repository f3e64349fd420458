//! What registries say when they refuse, made an error that a person can use.
//!
//! The bottom of each chain shows the request and the answer: `GET https://host/v2/a/manifests/x: 404 MANIFEST_UNKNOWN:
//! manifest unknown`. Callers add what was intended, once.

use rootling_backends::{Error, ErrorKind};
use serde::Deserialize;

use super::transport::{Failure, Fault, Method, Response};
use super::url::Url;

/// Bytes of an error's body that are read.
const LIMIT: u64 = 64 << 10;

/// Characters of one message that are shown.
const SHOWN: usize = 300;

/// What a registry said.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    /// Codes of the specification and the texts beside them.
    pub(super) codes: Vec<(String, String)>,
}

/// The forms that errors have: the distribution specification's, token servers', OAuth 2's.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Written {
    errors: Vec<Line>,
    error: serde_json::Value,
    error_description: String,
    details: serde_json::Value,
    message: serde_json::Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Line {
    code: serde_json::Value,
    message: serde_json::Value,
    detail: serde_json::Value,
}

impl Refusal {
    pub(super) fn read(response: &mut Response) -> Self {
        // Best effort: the status is known without the text.
        let body = response.read(LIMIT).ok().flatten().unwrap_or_default();
        Self { status: response.status, codes: codes(&body) }
    }

    pub(super) fn has(&self, code: &str) -> bool {
        self.codes.iter().any(|(known, _)| known == code)
    }

    fn kind(&self) -> ErrorKind {
        match self.status {
            401 | 403 => ErrorKind::PermissionDenied,
            404 | 410 => ErrorKind::NotFound,
            405 | 415 | 501 => ErrorKind::Unsupported,
            408 | 425 | 429 | 502..=504 => ErrorKind::Busy,
            400 | 411 | 413 | 416 | 422 => ErrorKind::InvalidInput,
            409 | 412 => ErrorKind::FailedPrecondition,
            _ => ErrorKind::Io,
        }
    }

    /// Returns the error; `host` is what a person would log in to.
    pub(super) fn error(&self, method: Method, url: &Url, host: &str) -> Error {
        let mut said: Vec<String> = Vec::new();
        for (code, message) in &self.codes {
            said.push(match (code.as_str(), message.as_str()) {
                (code, "") => code.to_owned(),
                ("", message) => message.to_owned(),
                (code, message) => format!("{code}: {message}"),
            });
        }
        let answer = format!("{} {}", self.status, reason(self.status));
        let answer = if said.is_empty() { answer } else { format!("{answer}: {}", said.join(", ")) };
        let error = Error::new(self.kind(), format!("{} {}: {answer}", method.as_str(), url.shown()));
        match (self.status, host) {
            (401 | 403, _) => error.hint(format!("if the name is right: rootling login {host}")),
            (429, "docker.io") => {
                error.hint("wait, or log in: the hub gives more to people it knows: rootling login docker.io")
            }
            (429, _) => error.hint("wait: the registry has had too many requests"),
            _ => error,
        }
    }
}

/// Returns the error of an exchange that had no answer.
pub(super) fn unanswered(failure: Failure, method: Method, url: Option<&Url>, host: &str) -> Error {
    let kind = match failure.fault {
        Fault::Timeout => ErrorKind::Busy,
        Fault::Setup | Fault::NotTls => ErrorKind::FailedPrecondition,
        Fault::Certificate => ErrorKind::PermissionDenied,
        Fault::Connect | Fault::Cut => ErrorKind::Io,
    };
    let shown = url.map_or_else(|| host.to_owned(), Url::shown);
    let error = Error::new(kind, format!("{} {shown}: {}", method.as_str(), failure.text));
    let authority = url.map_or(host, |url| &url.authority);
    match failure.fault {
        Fault::Certificate => error.hint(format!(
            "put the authority's certificate at /etc/containers/certs.d/{authority}/ca.crt, or call the registry insecure"
        )),
        Fault::NotTls => error.hint("it speaks plain http: call it insecure if you trust the way there"),
        Fault::Connect => error.hint(format!("is {authority} its name, and can it be reached from here?")),
        _ => error,
    }
}

/// Returns an error that stands for being called off.
pub(super) fn cancelled() -> Error {
    Error::new(ErrorKind::Busy, "it was called off")
}

fn codes(body: &[u8]) -> Vec<(String, String)> {
    if let Ok(written) = serde_json::from_slice::<Written>(body) {
        let mut codes: Vec<(String, String)> = Vec::new();
        for line in written.errors.iter().take(8) {
            let detail = text(&line.detail);
            let message = [text(&line.message), detail].into_iter().filter(|text| !text.is_empty());
            codes.push((text(&line.code), message.collect::<Vec<_>>().join(": ")));
        }
        if codes.is_empty() {
            let message = [&written.message, &written.details].into_iter().map(text);
            let message = message.chain([clean(&written.error_description)]).find(|text| !text.is_empty());
            codes.push((text(&written.error), message.unwrap_or_default()));
            codes.retain(|(code, message)| !code.is_empty() || !message.is_empty());
        }
        return codes;
    }
    let text = clean(&String::from_utf8_lossy(body));
    // Pages of proxies are for browsers.
    if text.is_empty() || text.starts_with('<') { Vec::new() } else { vec![(String::new(), text)] }
}

/// Returns a text; objects only if they are small.
fn text(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) => clean(text),
        serde_json::Value::Object(object) if object.is_empty() => String::new(),
        other => clean(&other.to_string()),
    }
}

/// Returns a text of somebody else's as one line that harms no terminal.
fn clean(text: &str) -> String {
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let words = printable.collect::<String>();
    words.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SHOWN).collect()
}

fn reason(status: u16) -> &'static str {
    match status {
        301..=308 => "redirect",
        400 => "bad request",
        401 => "unauthorized",
        403 => "forbidden",
        404 => "not found",
        405 => "method not allowed",
        408 => "request timeout",
        413 => "too large",
        416 => "range not satisfiable",
        429 => "too many requests",
        500 => "internal server error",
        502 => "bad gateway",
        503 => "service unavailable",
        504 => "gateway timeout",
        _ => "unexpected status",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(body: &str) -> String {
        let refusal = Refusal { status: 404, codes: codes(body.as_bytes()) };
        let url = Url::parse("https://h/v2/a?secret=1").unwrap();
        refusal.error(Method::Get, &url, "h").to_string()
    }

    #[test]
    fn what_was_said_is_shown() {
        let spec = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}},{"code":"DENIED"}]}"#;
        assert_eq!(
            said(spec),
            "GET https://h/v2/a: 404 not found: MANIFEST_UNKNOWN: manifest unknown: {\"Tag\":\"x\"}, DENIED"
        );
        assert_eq!(
            said(r#"{"details":"incorrect password"}"#),
            "GET https://h/v2/a: 404 not found: incorrect password"
        );
        assert_eq!(
            said(r#"{"error":"invalid_grant","error_description":"no"}"#),
            "GET https://h/v2/a: 404 not found: invalid_grant: no"
        );
        assert_eq!(said("page not found\n"), "GET https://h/v2/a: 404 not found: page not found");
        assert_eq!(said("<html>x"), "GET https://h/v2/a: 404 not found");
        assert_eq!(said("\u{1b}[2Jx\r\ny"), "GET https://h/v2/a: 404 not found: [2Jx y");
        assert_eq!(said(&"x".repeat(9999)).len(), "GET https://h/v2/a: 404 not found: ".len() + SHOWN);
    }

    proptest::proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60)) {
            drop(codes(&body));
        }
    }
}
