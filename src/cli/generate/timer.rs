//! `generate timer`: what makes a service manager run policies.

use std::path::PathBuf;

use rootling_backends::{Context as _, Result};

use super::super::Context;
use super::{program, quoted};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    /// Write the two files into a directory instead, such as /etc/systemd/system or ~/.config/systemd/user
    #[arg(long, value_name = "DIR")]
    files: Option<PathBuf>,
}

const TIMER: &str = "[Unit]
Description=rootling policies, hourly

[Timer]
OnCalendar=hourly
Persistent=true
RandomizedDelaySec=60

[Install]
WantedBy=timers.target
";

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let mut words = program(context.store()?.root())?;
    words.extend(["-q", "policy", "run"].map(Into::into));
    let words = words.iter().map(quoted).collect::<Result<Vec<_>>>()?;
    let service = format!(
        "[Unit]\nDescription=rootling policies\n\n[Service]\nType=oneshot\nExecStart={}\nNice=10\nIOSchedulingClass=idle\n",
        words.join(" ")
    );
    let files = [("rootling-policy.service", service.as_str()), ("rootling-policy.timer", TIMER)];
    match &arguments.files {
        None => {
            let printed: Vec<String> = files.iter().map(|(name, text)| format!("# {name}\n{text}")).collect();
            context.output.raw(printed.join("\n").as_bytes());
        }
        Some(directory) => {
            for (name, text) in files {
                let path = directory.join(name);
                std::fs::write(&path, text).context(|| format!("write({path:?})"))?;
            }
            context.output.say("now: systemctl enable --now rootling-policy.timer");
        }
    }
    Ok(())
}
