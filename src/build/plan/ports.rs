//! `EXPOSE`: ports, and ranges of them.

use rootling_backends::{Error, ErrorKind, Result};

/// Returns what `[[IP:]PORT:]PORT[-PORT][/PROTOCOL]` exposes: `80/tcp`, one for each port of a range.
///
/// What is said of the host means nothing in an image, and is only checked.
pub(super) fn exposed(text: &str) -> Result<Vec<String>> {
    let invalid = |why: String| {
        Error::new(ErrorKind::InvalidInput, format!("{text:?} is no port: {why}"))
            .hint("write PORT, FIRST-LAST, or either with /udp behind it")
    };
    let (host, container) = match text.rsplit_once(':') {
        Some((host, container)) => (Some(host), container),
        None => (None, text),
    };
    let (ports, protocol) = container.split_once('/').unwrap_or((container, ""));
    let protocol = match protocol.to_ascii_lowercase() {
        protocol if protocol.is_empty() => "tcp".to_owned(),
        protocol if ["tcp", "udp", "sctp"].contains(&protocol.as_str()) => protocol,
        other => return Err(invalid(format!("{other:?} is neither tcp, udp nor sctp"))),
    };
    let (first, last) = range(ports).map_err(invalid)?;
    if let Some(host) = host {
        check_host(host, last - first).map_err(invalid)?;
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn check_host(text: &str, count: u16) -> std::result::Result<(), String> {
    let (address, ports) = match text.rsplit_once(':') {
        Some((address, ports)) => (Some(address), ports),
        None => (None, text),
    };
    if let Some(address) = address {
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        if !bare.is_empty() && bare.parse::<std::net::IpAddr>().is_err() {
            return Err(format!("{bare:?} is no address"));
        }
    }
    if ports.is_empty() {
        return Ok(());
    }
    let (first, last) = range(ports)?;
    if count > 0 && last - first != count {
        return Err(format!("{ports} are not as many ports"));
    }
    Ok(())
}

fn range(text: &str) -> std::result::Result<(u16, u16), String> {
    let port = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let port = is_number.then(|| text.parse::<u16>().ok()).flatten();
        port.ok_or_else(|| format!("{text:?} is no number from 0 to 65535"))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if last < first {
        return Err(format!("{last} comes before {first}"));
    }
    Ok((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_ranges_are_exposed_one_by_one() {
        for (text, ports) in [
            ("80", &["80/tcp"][..]),
            ("53/udp", &["53/udp"]),
            ("53/UDP", &["53/udp"]),
            ("8000-8002/sctp", &["8000/sctp", "8001/sctp", "8002/sctp"]),
            ("8080:80", &["80/tcp"]),
            ("127.0.0.1:8080:80", &["80/tcp"]),
            ("[::1]:8080:80", &["80/tcp"]),
            ("127.0.0.1::80", &["80/tcp"]),
            ("1-2:1-2", &["1/tcp", "2/tcp"]),
            ("1-9:80", &["80/tcp"]),
            ("80/", &["80/tcp"]),
            ("65535-65535", &["65535/tcp"]),
        ] {
            assert_eq!(exposed(text).unwrap(), ports, "{text}");
        }
        for bad in ["", "/tcp", "x", "80/icmp", "65536", "+80", "9-8", "1-2:1-4", "x:1:2", "1-", "-1"] {
            assert_eq!(exposed(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad:?}");
        }
    }
}
