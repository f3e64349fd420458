//! The addresses of the boxes: one range that is nobody else's, and a lock for each address in it.
//!
//! ```text
//! /run/rootling/net/NETNS/         NETNS is the inode of the network namespace that the bridge is in
//!     addresses                    flocked while the bridge is made; byte N locked while the Nth address is in use;
//!                                  holds the number that was given last, in text
//!     17.nft  18.iptables          the 17th and the 18th box have rules of the firewall, made by that tool
//! ```
//!
//! The locks are open file description locks (fcntl(2)): they end with the process that holds them, however it ends. A file
//! of rules whose byte is free is of a box whose process was killed: the next box removes the rules.

use std::fs::{self, File, OpenOptions};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rootling_backends::{Context, Error, ErrorKind, Result};

/// Bits of the network's part: 1021 boxes, and a bridge takes 1024 ports (`BR_PORT_BITS`, net/bridge/br_private.h).
pub(super) const PREFIX: u8 = 22;

/// The number of the last address that is not the broadcast one.
const LAST: u16 = 1022;

/// A range of 1024 addresses; the first that can be used is the bridge's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    network: u32,
}

impl Range {
    /// The range that an address is in.
    pub(super) fn of(address: Ipv4Addr) -> Self {
        Self { network: address.to_bits() & mask(PREFIX) }
    }

    /// The first of our ranges that touches none of `taken`: networks and the lengths of their prefixes.
    ///
    /// Always the same on the same host, so that it is kept over a restart without being written down.
    pub(super) fn choose(taken: &[(Ipv4Addr, u8)]) -> Option<Self> {
        let candidates = (200..=254).map(|second| Self::of(Ipv4Addr::new(10, second, 236, 0)));
        let more = (16..=31).map(|second| Self::of(Ipv4Addr::new(172, second, 236, 0)));
        candidates.chain(more).find(|range| {
            taken.iter().all(|(network, prefix)| {
                let shared = mask(PREFIX.min(*prefix));
                network.to_bits() & shared != range.network & shared
            })
        })
    }

    /// The bridge's address, which is the boxes' gateway.
    pub(super) fn gateway(self) -> Ipv4Addr {
        self.address(1)
    }

    /// The address with this number.
    pub(super) fn address(self, number: u16) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network | u32::from(number))
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{PREFIX}", Ipv4Addr::from_bits(self.network))
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

/// Networks named in what `ip route show` prints; defaults are left out, they collide with nothing.
pub(super) fn networks(routes: &str) -> Vec<(Ipv4Addr, u8)> {
    // The destination is the first word, or the second behind a type such as `local` or `unreachable`.
    let destination = |line: &str| {
        line.split_whitespace().take(2).find_map(|word| {
            let (address, prefix) = word.split_once('/').unwrap_or((word, "32"));
            Some((address.parse().ok()?, prefix.parse().ok().filter(|prefix| *prefix <= 32)?))
        })
    };
    routes.lines().filter_map(destination).collect()
}

/// The directory of this network namespace, made where it is missing.
#[derive(Debug)]
pub(super) struct State {
    pub(super) directory: PathBuf,
    addresses: File,
}

impl State {
    /// Opens it; root only.
    pub(super) fn open() -> Result<Self> {
        let netns = "/proc/thread-self/ns/net";
        let inode = fs::metadata(netns).context(|| format!("stat({netns})"))?.ino();
        let directory = PathBuf::from(format!("/run/rootling/net/{inode}"));
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.context(|| format!("mkdir({directory:?})"))?;
        let path = directory.join("addresses");
        let options = OpenOptions::new().read(true).write(true).create(true).mode(0o600).to_owned();
        let addresses = options.open(&path).context(|| format!("open({path:?}, O_CREAT)"))?;
        Ok(Self { directory, addresses })
    }

    /// Keeps others from making the bridge until the result is dropped.
    pub(super) fn lock(&self) -> Result<Locked<'_>> {
        self.addresses.lock().context(|| format!("flock({:?})", self.directory))?;
        Ok(Locked(&self.addresses))
    }

    /// Takes an address that nobody has: the one after the last, so that a box that is still being taken down meets
    /// nobody with its address.
    pub(super) fn take(self, is_free: impl Fn(u16) -> bool) -> Result<Taken> {
        let mut text = [0; 8];
        // Best effort: without a number it begins at the beginning.
        let length = self.addresses.read_at(&mut text, 0).unwrap_or(0);
        let last: u16 = String::from_utf8_lossy(&text[..length]).trim().parse().unwrap_or(1);
        let after = |offset: u16| 2 + (last.saturating_sub(1) + offset) % (LAST - 1);
        for number in (0..LAST - 1).map(after) {
            if is_free(number) && self.try_lock(number)? {
                // Best effort: as above.
                drop(self.addresses.write_at(format!("{number:<8}").as_bytes(), 0));
                return Ok(Taken { state: self, number });
            }
        }
        Err(Error::new(ErrorKind::Busy, format!("all {} addresses for boxes are in use", LAST - 1))
            .hint("end a box, or use --net host or none"))
    }

    /// Takes a number if nobody has it.
    pub(super) fn try_lock(&self, number: u16) -> Result<bool> {
        match self.set_lock(number, libc::F_WRLCK) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            Err(errno) => Err(Error::call(format!("fcntl({:?}, F_OFD_SETLK)", self.directory), errno)),
        }
    }

    /// Gives a number back.
    pub(super) fn unlock(&self, number: u16) {
        // Best effort: it goes with the descriptor at the latest.
        self.set_lock(number, libc::F_UNLCK).ok();
    }

    fn set_lock(&self, number: u16, kind: libc::c_int) -> nix::Result<libc::c_int> {
        let lock = libc::flock {
            l_type: libc::c_short::try_from(kind).unwrap_or_default(),
            l_whence: libc::c_short::try_from(libc::SEEK_SET).unwrap_or_default(),
            l_start: number.into(),
            l_len: 1,
            l_pid: 0,
        };
        fcntl(&self.addresses, FcntlArg::F_OFD_SETLK(&lock))
    }
}

/// The bridge is ours to make.
#[derive(Debug)]
pub(super) struct Locked<'a>(&'a File);

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // Best effort: it goes with the descriptor at the latest.
        drop(self.0.unlock());
    }
}

/// An address that is ours until this is dropped or the process ends.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) state: State,
    pub(super) number: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_touches_no_route_is_chosen() {
        let routes = "default via 10.200.237.1 dev eth0\n10.200.237.0/24 dev eth0 proto kernel\n\
            unreachable 10.201.0.0/16\nlocal 10.202.239.255 dev tun0 table local\nbroadcast 10.0.0.255 dev x\n";
        let range = Range::choose(&networks(routes)).unwrap();
        assert_eq!(range.to_string(), "10.203.236.0/22");
        assert_eq!(range.gateway(), Ipv4Addr::new(10, 203, 236, 1));
        assert_eq!(range.address(LAST), Ipv4Addr::new(10, 203, 239, 254));
        assert_eq!(Range::of(range.address(700)), range);
        assert_eq!(Range::choose(&networks("10.0.0.0/8 dev a")).unwrap().to_string(), "172.16.236.0/22");
        assert_eq!(
            Range::choose(&networks("0.0.0.0/1 dev a\n128.0.0.0/1 dev a")),
            None,
            "a VPN that takes all"
        );
    }
}
