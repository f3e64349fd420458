//! Asks the kernel whether a table of nftables is there, without a program: every box asks.

use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use rootling_backends::{Context, Result};

/// NFNL_SUBSYS_NFTABLES (linux/netfilter/nfnetlink.h) and NFT_MSG_NEWTABLE, NFT_MSG_GETTABLE (nf_tables.h).
const SUBSYSTEM: u16 = 10 << 8;
const NEW_TABLE: u16 = SUBSYSTEM;
const GET_TABLE: u16 = SUBSYSTEM | 1;

/// Is there a table of the family `ip` with this name? After `nft flush ruleset` there is none.
pub(super) fn exists(name: &str) -> Result<bool> {
    let kind = SockProtocol::NetlinkNetFilter;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, kind)
        .context(|| "socket(AF_NETLINK, NETLINK_NETFILTER)")?;
    let call = || format!("ask for the table ip {name}");
    send(socket.as_raw_fd(), &request(name), MsgFlags::empty()).context(call)?;
    let mut answer = [0; 4096];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()).context(call)?;
    // struct nlmsghdr (linux/netlink.h): length, then the type; anything but the table is an error, mostly ENOENT.
    Ok(length >= 6 && u16::from_ne_bytes([answer[4], answer[5]]) == NEW_TABLE)
}

/// struct nlmsghdr, struct nfgenmsg, and one attribute NFTA_TABLE_NAME with a string.
fn request(name: &str) -> Vec<u8> {
    const NLM_F_REQUEST: u16 = 1;
    const AF_INET: u8 = 2;
    const NFTA_TABLE_NAME: u16 = 1;
    // The length counts the attribute's own header of four and the final zero, not the padding.
    let attribute = u16::try_from(name.len() + 5).unwrap_or(u16::MAX);
    let mut body = vec![AF_INET, 0, 0, 0];
    body.extend(attribute.to_ne_bytes());
    body.extend(NFTA_TABLE_NAME.to_ne_bytes());
    body.extend(name.as_bytes());
    body.push(0);
    body.resize(body.len().next_multiple_of(4), 0);
    let length = u32::try_from(body.len() + 16).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(body.len() + 16);
    message.extend(length.to_ne_bytes());
    message.extend(GET_TABLE.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    // A sequence number and a port of ours: there is one question and one answer.
    message.extend([0; 8]);
    message.extend(body);
    message
}

#[cfg(test)]
mod tests {
    use super::request;

    #[test]
    fn a_request_is_padded_and_says_its_length() {
        let message = request("rootling");
        assert_eq!(message.len(), 36);
        assert_eq!(message[..4], 36_u32.to_ne_bytes());
        assert_eq!(message[20..22], 13_u16.to_ne_bytes());
        assert_eq!(&message[24..33], b"rootling\0");
    }
}
