//! Servers that fail on purpose: `Scripted` answers as the test says, `Cutting` stands before a real server and cuts connections.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request that came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    /// Names in small letters.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// What is answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Said in place of the body's length.
    length: Option<usize>,
    /// Bytes of the body after which the connection ends.
    cut: Option<usize>,
    /// Before the body.
    pause: Duration,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), ..Self::default() }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn length(self, length: usize) -> Self {
        Self { length: Some(length), ..self }
    }

    pub(crate) fn cut(self, after: usize) -> Self {
        Self { cut: Some(after), ..self }
    }

    pub(crate) fn pause(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// As registries refuse.
    pub(crate) fn error(status: u16, code: &str) -> Self {
        Self::new(status, format!(r#"{{"errors":[{{"code":"{code}","message":"so it is"}}]}}"#))
    }
}

/// A server of http that answers as told, one request for each connection.
pub(crate) struct Scripted {
    pub(crate) host: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    over: Arc<AtomicBool>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        stop(&self.over, &self.host);
    }
}

/// Wakes a server up, so that it sees that it is over.
fn stop(over: &AtomicBool, host: &str) {
    over.store(true, Ordering::SeqCst);
    drop(TcpStream::connect(host));
}

fn each_connection(over: Arc<AtomicBool>, with: impl Fn(TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let with = Arc::new(with);
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            if over.load(Ordering::SeqCst) {
                return;
            }
            let with = with.clone();
            std::thread::spawn(move || with(connection.unwrap()));
        }
    });
    host
}

impl Scripted {
    /// `script` is given each request and how many of the same method and path came before it.
    pub(crate) fn start(script: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Self {
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let over = Arc::new(AtomicBool::new(false));
        let all = seen.clone();
        let host = each_connection(over.clone(), move |connection| {
            if let Some(request) = receive(&connection) {
                let before = {
                    let mut all = all.lock().unwrap();
                    let before = all.iter().filter(|known| known.line() == request.line()).count();
                    all.push(request.clone());
                    before
                };
                send(connection, &request, &script(&request, before));
            }
        });
        Self { host, seen, over }
    }

    /// Every request so far, but for those that ask for the root.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().iter().filter(|seen| seen.path != "/v2/").cloned().collect()
    }

    pub(crate) fn all_seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Their methods and paths.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen().iter().map(Seen::line).collect()
    }
}

fn receive(connection: &TcpStream) -> Option<Seen> {
    let mut reader = BufReader::new(connection);
    // TLS is not spoken here.
    if reader.fill_buf().ok()?.first()? == &0x16 {
        return None;
    }
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Seen { method, path, headers, body })
}

/// The client may be gone: that is no failure of the server's.
fn send(mut connection: TcpStream, request: &Seen, reply: &Reply) {
    let mut head = format!("HTTP/1.1 {} X\r\nconnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", reply.length.unwrap_or(reply.body.len())));
    drop(connection.write_all(head.as_bytes()));
    std::thread::sleep(reply.pause);
    if request.method != "HEAD" {
        let end = reply.cut.unwrap_or(reply.body.len()).min(reply.body.len());
        drop(connection.write_all(&reply.body[..end]));
    }
    drop(connection.shutdown(Shutdown::Write));
}

/// Stands before a server and ends connections.
pub(crate) struct Cutting {
    pub(crate) host: String,
    /// Bytes of answers, of one connection, after which it ends.
    pub(crate) down: Arc<AtomicU64>,
    /// Bytes of requests, of one connection, after which it ends.
    pub(crate) up: Arc<AtomicU64>,
    /// Connections that are still to be cut so.
    pub(crate) cuts: Arc<AtomicU64>,
    pub(crate) connections: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Drop for Cutting {
    fn drop(&mut self) {
        stop(&self.over, &self.host);
    }
}

impl Cutting {
    pub(crate) fn before(server: &str) -> Self {
        let (down, up) = (Arc::new(AtomicU64::new(u64::MAX)), Arc::new(AtomicU64::new(u64::MAX)));
        let (connections, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let cuts = Arc::new(AtomicU64::new(u64::MAX));
        let left = cuts.clone();
        let server = server.to_owned();
        let limits = (down.clone(), up.clone(), connections.clone());
        let host = each_connection(over.clone(), move |client| {
            limits.2.fetch_add(1, Ordering::SeqCst);
            let server = TcpStream::connect(&server).unwrap();
            let (mut up, down) = (limits.1.load(Ordering::SeqCst), limits.0.load(Ordering::SeqCst));
            if left.load(Ordering::SeqCst) == 0 {
                up = u64::MAX;
            } else if up < u64::MAX {
                left.fetch_sub(1, Ordering::SeqCst);
            }
            let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let upwards = std::thread::spawn(move || copy(from, to, up));
            copy(server, client, down);
            upwards.join().unwrap();
        });
        Self { host, down, up, cuts, connections, over }
    }
}

/// Copies up to `limit` bytes, then ends both.
fn copy(mut from: TcpStream, mut to: TcpStream, limit: u64) {
    let mut left = limit;
    let mut buffer = [0; 4096];
    while let Ok(read) = from.read(&mut buffer) {
        let sent = left.min(read as u64);
        if read == 0 || to.write_all(&buffer[..usize::try_from(sent).unwrap()]).is_err() {
            break;
        }
        left -= sent;
        if left == 0 {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Both));
    drop(from.shutdown(Shutdown::Both));
}
