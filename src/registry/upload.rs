//! One blob on its way to a registry: whole, and where that fails in pieces, from where the registry has it.

use std::io::{self, Read};

use rootling_backends::{Error, ErrorKind, Result};

use crate::image::{Descriptor, Digest};

use super::client::{Call, Client, To, Trouble};
use super::hosts::Endpoint;
use super::push::{Content, agrees, push_to};
use super::transport::{Method, Response};
use super::url::Url;

/// An upload as the registry knows it.
pub(super) struct Started {
    pub(super) location: Url,
    /// Bytes that a piece must have, except the last.
    least: u64,
}

impl Started {
    pub(super) fn read(answer: &Response, endpoint: &Endpoint, client: &Client) -> Result<Self> {
        let least = answer.header("oci-chunk-min-length").and_then(|text| text.trim().parse().ok());
        let location = client.location(endpoint, answer)?;
        Ok(Self { location, least: least.unwrap_or(0) })
    }
}

/// A blob on its way.
pub(super) struct Upload<'a, C: ?Sized> {
    client: &'a Client,
    endpoint: &'a Endpoint,
    descriptor: &'a Descriptor,
    content: &'a C,
    started: Started,
    /// Bytes that the registry has.
    offset: u64,
    /// The most that it ever had: what it forgets and takes again is no progress.
    most: u64,
    chunk: u64,
    /// All in one request.
    whole: bool,
    /// Failures since the registry last had more than ever.
    failed: u32,
    /// It was begun anew once because the registry had other bytes than were sent.
    spoiled: bool,
}

impl<'a, C: Content + ?Sized> Upload<'a, C> {
    pub(super) fn new(
        client: &'a Client,
        endpoint: &'a Endpoint,
        descriptor: &'a Descriptor,
        content: &'a C,
        started: Started,
    ) -> Self {
        let chunk = client.settings.chunk.max(started.least).max(1);
        let (offset, most, failed) = (0, 0, 0);
        Self {
            client,
            endpoint,
            descriptor,
            content,
            started,
            offset,
            most,
            chunk,
            whole: true,
            failed,
            spoiled: false,
        }
    }
}

impl<C: Content + ?Sized> Upload<'_, C> {
    /// Sends all of it, however often that takes.
    pub(super) fn run(&mut self) -> Result<()> {
        loop {
            let step = if self.whole {
                self.send_all()
            } else if self.offset < self.descriptor.size {
                self.send_chunk()
            } else {
                self.close()
            };
            match step {
                Ok(true) => return Ok(()),
                Ok(false) if self.offset > self.most => (self.most, self.failed) = (self.offset, 0),
                Ok(false) => {}
                Err(trouble) => self.recover(trouble)?,
            }
        }
    }

    fn send_all(&mut self) -> Result<bool, Trouble> {
        let address = self.finishing();
        let answer = self.send(Method::Put, &address, 0, self.descriptor.size)?;
        agrees(&answer, &self.descriptor.digest).map_err(Trouble::Final)?;
        Ok(true)
    }

    fn send_chunk(&mut self) -> Result<bool, Trouble> {
        let length = self.chunk.min(self.descriptor.size - self.offset);
        let address = self.started.location.clone();
        let answer = self.send(Method::Patch, &address, self.offset, length)?;
        self.started.location = self.client.location(self.endpoint, &answer).map_err(Trouble::Final)?;
        let sent = self.offset + length;
        self.offset = answer.header("range").and_then(held).filter(|held| *held <= sent).unwrap_or(sent);
        if self.offset < sent {
            self.client.settings.progress.resumed(&self.descriptor.digest, self.offset);
        }
        if self.offset + length <= sent {
            self.took_nothing()?;
        }
        Ok(false)
    }

    /// Counts a piece that was taken, but of which nothing is there.
    fn took_nothing(&mut self) -> Result<(), Trouble> {
        self.failed += 1;
        if self.failed < self.client.settings.patience.tries.max(2) {
            return Ok(());
        }
        let message = format!("{} takes what is sent and has none of it", self.endpoint.authority);
        Err(Trouble::Final(Error::new(ErrorKind::Io, message)))
    }

    fn close(&mut self) -> Result<bool, Trouble> {
        let address = self.finishing();
        let call = Call::new(Method::Put, To::Address(&address), push_to(self.endpoint));
        let answer = self.client.once(self.endpoint, &call, None)?;
        agrees(&answer, &self.descriptor.digest).map_err(Trouble::Final)?;
        Ok(true)
    }

    fn finishing(&self) -> Url {
        self.started.location.clone().with("digest", &self.descriptor.digest.to_string())
    }

    fn send(&self, method: Method, address: &Url, from: u64, length: u64) -> Result<Response, Trouble> {
        let content = self.content.open_at(from).map_err(Trouble::Final)?;
        let mut counted =
            Counted { client: self.client, digest: &self.descriptor.digest, content, failed: None };
        let mut call = Call::new(method, To::Address(address), push_to(self.endpoint));
        call = call.header("content-type", "application/octet-stream");
        if method == Method::Patch {
            call = call.header("content-range", format!("{from}-{}", from + length - 1));
        }
        let sent = self.client.once(self.endpoint, &call, Some((&mut counted, length)));
        match counted.failed {
            // What was to be sent could not be read: that is no matter of the network.
            Some(error) => Err(Trouble::Final(error)),
            None => sent,
        }
    }

    /// Decides how to go on after a failure, and waits where that helps.
    fn recover(&mut self, trouble: Trouble) -> Result<()> {
        self.failed += 1;
        let digest = &self.descriptor.digest;
        let Trouble::Refused(refusal, ..) = &trouble else {
            return self.after_cut(trouble);
        };
        let last_try = self.failed >= self.client.settings.patience.tries.max(2);
        match refusal.status {
            // The token ended on the way: the next request brings another.
            401 if self.failed == 1 => self.resume(),
            413 if !last_try && (self.whole || self.chunk / 2 > self.started.least) => {
                self.chunk =
                    if self.whole { self.chunk.min(self.descriptor.size / 2) } else { self.chunk / 2 }.max(1);
                self.anew()
            }
            // Some take no upload in one piece.
            400 | 405 | 411 | 415 | 501 if self.whole && !refusal.has("DIGEST_INVALID") => self.anew(),
            // What is there is not what was sent: once more, from the beginning.
            400 if refusal.has("DIGEST_INVALID") && !self.spoiled && !self.whole => {
                self.spoiled = true;
                self.anew()
            }
            404 | 416 if !last_try => {
                log::debug!("upload of {digest}: {}", refusal.status);
                self.resume()
            }
            _ => self.after_cut(trouble),
        }
    }

    fn after_cut(&mut self, trouble: Trouble) -> Result<()> {
        self.client.check()?;
        if !self.client.wait(&self.endpoint.host, self.failed, &trouble)? {
            let method = if self.whole { Method::Put } else { Method::Patch };
            return Err(self.client.final_error(trouble, method, &self.endpoint.host));
        }
        self.resume()
    }

    /// Asks how far the upload came; begins another where it is gone.
    fn resume(&mut self) -> Result<()> {
        let call = Call::new(Method::Get, To::Address(&self.started.location), push_to(self.endpoint));
        let call = call.answers(&[400, 404, 405, 416]);
        let answer = self.client.send(self.endpoint, &call)?;
        let held = answer.header("range").and_then(held).filter(|held| *held <= self.descriptor.size);
        let Some(held) = held.filter(|_| answer.status < 300) else { return self.anew() };
        if answer.header("location").is_some() {
            self.started.location = self.client.location(self.endpoint, &answer)?;
        }
        // In pieces, the next cut costs no more than one of them.
        self.whole &= held == 0 && self.descriptor.size <= self.chunk;
        self.offset = held;
        self.client.settings.progress.resumed(&self.descriptor.digest, held);
        Ok(())
    }

    fn anew(&mut self) -> Result<()> {
        let answer = self.client.begin(self.endpoint, None)?;
        self.started = Started::read(&answer, self.endpoint, self.client)?;
        self.chunk = self.chunk.max(self.started.least);
        self.whole = false;
        self.offset = 0;
        self.client.settings.progress.resumed(&self.descriptor.digest, 0);
        Ok(())
    }
}

/// Counts what is sent, and ends it when all was called off.
struct Counted<'a> {
    client: &'a Client,
    digest: &'a Digest,
    content: Box<dyn Read + 'a>,
    failed: Option<Error>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Err(error) = self.client.check() {
            self.failed = Some(error);
            return Err(io::ErrorKind::Other.into());
        }
        match self.content.read(buffer) {
            Ok(read) => {
                self.client.settings.progress.moved(self.digest, read as u64);
                Ok(read)
            }
            Err(error) => {
                self.failed = Some(match error.downcast::<Error>() {
                    Ok(ours) => ours,
                    Err(error) => Error::io("read what is to be sent", error),
                });
                Err(io::ErrorKind::Other.into())
            }
        }
    }
}

/// Reads `0-99` as 100 bytes. `0-0` is how some write that there is nothing: the one byte is sent again.
fn held(range: &str) -> Option<u64> {
    let (start, end) = range.trim().trim_start_matches("bytes=").split_once('-')?;
    let (start, end): (u64, u64) = (start.parse().ok()?, end.parse().ok()?);
    match (start, end) {
        (0, 0) => Some(0),
        (0, end) => end.checked_add(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_uploads_are_read() {
        assert_eq!(held("0-99"), Some(100));
        assert_eq!(held("bytes=0-99"), Some(100));
        assert_eq!(held("0-0"), Some(0));
        for strange in ["", "5-9", "x-y", "0-18446744073709551615", "0"] {
            assert_eq!(held(strange), None, "{strange:?}");
        }
    }
}
