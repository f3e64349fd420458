//! What of all this works here, for `doctor`.

use rootling_backends::{Result, small_file};

use super::layout::{Hierarchy, Layout, has_word};
use super::make::nowhere;
use super::settings::{Controller, Version};
use super::systemd;

/// Which things can be limited, in words; the error says why none can, and what to do. Makes nothing and asks nobody.
pub fn ability() -> Result<String> {
    let layout = Layout::read()?;
    let usable: Vec<(Controller, Version)> = Controller::ALL
        .into_iter()
        .filter_map(|controller| Some((controller, usable(controller, layout.controller(controller)?)?)))
        .collect();
    if usable.is_empty() {
        if layout.unified().is_some() && systemd::can_be_asked() {
            return Ok("systemd hands out a cgroup when limits are asked for".to_owned());
        }
        return Err(nowhere(&layout, "limiting a box"));
    }
    let names = |wanted: &dyn Fn(Controller) -> bool| {
        let names = Controller::ALL.into_iter().filter(|controller| wanted(*controller));
        names.map(|controller| controller.name(Version::V2)).collect::<Vec<_>>().join(", ")
    };
    let mut text = names(&|controller| usable.iter().any(|(known, _)| *known == controller));
    if usable.iter().any(|(_, version)| *version == Version::V1) {
        text.push_str(", by cgroup version 1");
    }
    let missing = names(&|controller| !usable.iter().any(|(known, _)| *known == controller));
    if !missing.is_empty() {
        text.push_str(&format!("; not {missing}"));
    }
    Ok(text)
}

fn usable(controller: Controller, hierarchy: &Hierarchy) -> Option<Version> {
    let base = hierarchy.base()?;
    if hierarchy.version == Version::V1 {
        return Some(Version::V1);
    }
    let there = small_file::read_record(base.join("cgroup.controllers")).ok()?;
    has_word(&there, controller.name(Version::V2)).then_some(Version::V2)
}
