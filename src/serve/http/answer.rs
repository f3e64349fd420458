//! What is sent back.

use std::fs::File;
use std::io::{self, Write};

use super::head::Method;
use super::wire::Wire;

/// The body of an answer.
#[derive(Debug)]
pub enum Content {
    /// None.
    Empty,
    /// These bytes.
    Bytes(Vec<u8>),
    /// So many bytes of a file, from where it stands.
    File(File, u64),
    /// So many bytes, which are not sent: only for answers to `HEAD`.
    Elsewhere(u64),
}

impl Content {
    /// Returns how many bytes it has.
    pub fn length(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, length) | Self::Elsewhere(length) => *length,
        }
    }
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body.
    pub content: Content,
    lines: Vec<(&'static str, String)>,
}

impl Answer {
    /// Returns an answer without a body.
    pub fn new(status: u16) -> Self {
        Self { status, lines: Vec::new(), content: Content::Empty }
    }

    /// Returns an answer that is a JSON document.
    pub fn json(status: u16, media_type: &str, value: &impl serde::Serialize) -> Self {
        let bytes = serde_json::to_vec(value).expect("what we send has text for keys");
        Self::new(status).line("Content-Type", media_type).with(Content::Bytes(bytes))
    }

    /// Adds a line. A value with control characters, which could begin another line, is left out.
    #[must_use]
    pub fn line(mut self, name: &'static str, value: impl Into<String>) -> Self {
        let value = value.into();
        if !value.chars().any(char::is_control) {
            self.lines.push((name, value));
        }
        self
    }

    /// Gives it a body.
    #[must_use]
    pub fn with(self, content: Content) -> Self {
        Self { content, ..self }
    }

    /// Sends it, and whether the connection is kept. Returns how many bytes of the body were sent.
    pub fn send(self, wire: &mut Wire, method: Option<Method>, keeps: bool) -> io::Result<u64> {
        let length = self.content.length();
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, phrase(self.status));
        for (name, value) in &self.lines {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        // Neither of these has a body, nor may it say how long one would be (RFC 9110, 8.6).
        if !matches!(self.status, 204 | 304) {
            head.push_str(&format!("Content-Length: {length}\r\n"));
        }
        let printer = jiff::fmt::rfc2822::DateTimePrinter::new();
        if let Ok(date) = printer.timestamp_to_rfc9110_string(&jiff::Timestamp::now()) {
            head.push_str(&format!("Date: {date}\r\n"));
        }
        head.push_str(if keeps { "\r\n" } else { "Connection: close\r\n\r\n" });
        let mut head = head.into_bytes();
        let content = if method == Some(Method::Head) { Content::Empty } else { self.content };
        let sent = content.length();
        if let Content::Bytes(bytes) = &content {
            head.extend_from_slice(bytes);
        }
        wire.write_all(&head)?;
        if let Content::File(file, length) = content {
            wire.send_file(file, length)?;
        }
        wire.flush().map(|()| sent)
    }
}

fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Unknown",
    }
}
