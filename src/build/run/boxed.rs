//! What a step asks for, made into what the runner takes.

use std::ffi::OsString;
use std::path::PathBuf;

use rootling_backends::{Dir, Error, ErrorKind, Mount, Result};

use super::Template;
use super::mounts::Mounts;
use crate::build::plan::{self, RunStep};
use crate::process;
use crate::runner::net::{Resolv, resolv};
use crate::runner::{
    self, DEFAULT_PATH, FileAt, Namespaces, Net, Process, Restrictions, Security, Spec, Tty,
};

/// The name of the machine as steps see it: the one that BuildKit's see, whatever is built and wherever.
const HOSTNAME: &str = "buildkitsandbox";

/// Makes the box of a step in the tree that `tree` shows; `root` is the root of what it was forked from.
pub(super) fn spec(
    step: &RunStep,
    mounts: &Mounts<'_>,
    tree: Mount,
    root: &Dir,
    template: &Template,
) -> Result<Spec> {
    let net = network(step, template)?;
    Ok(Spec {
        root: tree,
        read_only: false,
        process: process(step, mounts, root, template)?,
        hostname: hostname(template).to_owned(),
        userns: template.users.userns(),
        security: security(step, template)?,
        limits: template.limits.clone(),
        shm_bytes: mounts.shm_bytes.or(template.shm_size),
        devices: template.devices.clone(),
        sysctls: template.sysctls.clone(),
        tmpfs: mounts.tmpfs.clone(),
        binds: mounts.binds.clone(),
        make_dirs: vec![PathBuf::from(&step.workdir)],
        files: files(step, mounts, &net, template),
        namespaces: Namespaces { net, ..Namespaces::PRIVATE },
    })
}

fn hostname(template: &Template) -> &str {
    template.hostname.as_deref().unwrap_or(HOSTNAME)
}

fn network(step: &RunStep, template: &Template) -> Result<Net> {
    match step.network {
        plan::Network::Default => Ok(template.net.clone()),
        plan::Network::None => Ok(Net::None),
        plan::Network::Host if template.net == Net::Host || template.allow.host_network => Ok(Net::Host),
        plan::Network::Host => {
            let message = "--network=host: steps of this build may not use the network of the machine";
            let error = Error::new(ErrorKind::PermissionDenied, message);
            Err(error.hint("allow it, if you trust them: --allow network.host"))
        }
    }
}

fn security(step: &RunStep, template: &Template) -> Result<Security> {
    match step.security {
        plan::Security::Sandbox => Ok(template.security.clone()),
        plan::Security::Insecure if template.allow.insecure => {
            Ok(Security { ulimits: template.security.ulimits.clone(), ..Security::privileged() })
        }
        plan::Security::Insecure => {
            let message = "--security=insecure: steps of this build may not go without walls";
            let error = Error::new(ErrorKind::PermissionDenied, message);
            Err(error.hint("allow it, if you trust them: --allow security.insecure"))
        }
    }
}

fn process(step: &RunStep, mounts: &Mounts<'_>, root: &Dir, template: &Template) -> Result<Process> {
    let asked = if step.user.is_empty() { "0" } else { step.user.as_str() };
    let account = runner::resolve(root, asked)?;
    let (uid, gid) = (account.user.uid, account.user.gid);
    if let (Some((reason, fix)), true) = (&template.users.only_root, (uid, gid) != (0, 0)) {
        let message = format!("user {uid}:{gid} does not exist for you: {reason}");
        return Err(Error::new(ErrorKind::PermissionDenied, message).hint(fix.clone()));
    }
    // What is said first holds: the image's own variables over arguments, all of them over what each command has.
    let own = step.env.iter().chain(&step.quiet_env).map(|(name, value)| (name.as_str(), value.into()));
    let given = mounts.env.iter().map(|(name, value)| (name.as_str(), value.clone()));
    let usual = [("PATH", DEFAULT_PATH.into()), ("HOME", account.home.into_os_string())];
    let mut env: Vec<OsString> = Vec::new();
    let mut known = Vec::new();
    for (name, value) in given.chain(own).chain(usual) {
        if !known.contains(&name) {
            known.push(name);
            env.push([OsString::from(name), value].join(std::ffi::OsStr::new("=")));
        }
    }
    Ok(Process {
        args: step.args.iter().map(OsString::from).collect(),
        env,
        cwd: PathBuf::from(&step.workdir),
        user: account.user,
        tty: Tty::Off,
    })
}

fn files(step: &RunStep, mounts: &Mounts<'_>, net: &Net, template: &Template) -> Vec<FileAt> {
    let hostname = hostname(template);
    let mut files = vec![
        FileAt::new("/etc/hosts", process::hosts(hostname, &template.hosts)),
        FileAt::new("/etc/hostname", format!("{hostname}\n")),
    ];
    // What it lacks is said once, by whoever settles the network of the build.
    if let Some(Resolv { content, note: _ }) = resolv(net, &template.dns) {
        files.push(FileAt::new("/etc/resolv.conf", content));
    }
    let restrictions = Restrictions { read_only: true, ..Restrictions::default() };
    files.extend(step.files.iter().map(|(path, content, mode)| FileAt {
        mode: *mode,
        restrictions,
        optional: false,
        ..FileAt::new(path, content.as_str())
    }));
    files.extend(mounts.files.iter().cloned());
    files
}
