//! HTTP/1.1 as a registry needs it: one request after the other on a connection, bodies streamed, blocking.
//!
//! Why our own: the command line is blocking, so no async stack; `tiny_http` has no limit on threads, on what a head may hold, or on time,
//! does not let a body be refused before it is sent, and its TLS is years behind. `httparse` reads the lines, what they mean is here:
//!
//! | part | what it is for |
//! |---|---|
//! | [`head`] | the bytes of a request's head -> what is asked, or why it is refused. Opens nothing: it is fuzzed |
//! | [`wire`] | a connection: bytes with a limit in time, plain or TLS |
//! | [`tls`] | what a server shows of itself |
//! | [`body`] | a request's body, of a length that was told or in chunks |
//! | [`answer`] | what is sent back |
//!
//! Whatever two programs could read in two ways is refused and ends the connection: a length and chunks at once, two lengths, lines that
//! end in a bare line feed, folded lines ([RFC 9112, 11.2](https://www.rfc-editor.org/rfc/rfc9112#section-11.2)).

pub mod answer;
pub mod body;
pub mod head;
pub mod tls;
pub mod wire;

pub use answer::{Answer, Content};
pub use body::Body;
pub use head::{Framing, Head, Method, Refusal};
pub use tls::Tls;
pub use wire::Wire;
