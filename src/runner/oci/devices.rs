//! Devices of a runtime configuration: the nodes to be made, and what the device cgroup lets through.
//!
//! The usual devices and terminals are every runtime's own business: it makes their nodes and lets them through.

use nix::sys::stat::stat;
use rootling_backends::{Context, Error, ErrorKind, Result};
use serde::Serialize;

use super::text;
use crate::runner::spec::{self, Spec};

/// One of `linux.devices`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// The path inside.
    pub path: String,
    /// `c` or `b`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Its number, first part.
    pub major: u64,
    /// Its number, second part.
    pub minor: u64,
    /// Permission bits: the host's.
    pub file_mode: u32,
    /// User: the host's.
    pub uid: u32,
    /// Group: the host's.
    pub gid: u32,
}

/// One of `linux.resources.devices`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceRule {
    /// Or refuse.
    pub allow: bool,
    /// `c` or `b`; missing for all.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// The number, first part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub major: Option<u64>,
    /// The number, second part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minor: Option<u64>,
    /// Read, write, make.
    pub access: &'static str,
}

/// Looks up the devices asked for.
pub(super) fn nodes(devices: &[spec::Device]) -> Result<Vec<Device>> {
    devices.iter().map(|device| node(device).context(|| format!("show device {:?}", device.source))).collect()
}

fn node(device: &spec::Device) -> Result<Device> {
    let found = stat(&device.source).context(|| format!("stat({:?})", device.source))?;
    let kind = match found.st_mode & libc::S_IFMT {
        libc::S_IFCHR => "c",
        libc::S_IFBLK => "b",
        _ => {
            let error = Error::new(ErrorKind::InvalidInput, format!("{:?} is no device", device.source));
            return Err(error.hint("show files and directories with -v"));
        }
    };
    Ok(Device {
        path: text(device.target.as_os_str())?,
        kind,
        major: libc::major(found.st_rdev).into(),
        minor: libc::minor(found.st_rdev).into(),
        file_mode: found.st_mode & 0o777,
        uid: found.st_uid,
        gid: found.st_gid,
    })
}

/// Nothing but what was asked for; everything where device nodes are to work.
pub(super) fn rules(spec: &Spec) -> Result<Vec<DeviceRule>> {
    let all = |allow| DeviceRule { allow, kind: None, major: None, minor: None, access: "rwm" };
    if spec.security.device_nodes {
        return Ok(vec![all(true)]);
    }
    let one = |device: Device| DeviceRule {
        allow: true,
        kind: Some(device.kind),
        major: Some(device.major),
        minor: Some(device.minor),
        // Making others is what the capability mknod is for, and the numbers are these.
        access: "rwm",
    };
    Ok(std::iter::once(all(false)).chain(nodes(&spec.devices)?.into_iter().map(one)).collect())
}
