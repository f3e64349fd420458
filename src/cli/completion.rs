//! `completion` and `man`: what shells and people read about the program.

use clap::CommandFactory;
use clap_complete::Shell;
use rootling_backends::{Context as _, Result};

use super::Context;

#[derive(Debug, clap::Args)]
pub(super) struct CompletionArguments {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(super) struct ManArguments {
    /// Page of one command [default: the program's own]
    command: Option<String>,
}

pub(super) fn completion(context: &Context, arguments: &CompletionArguments) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::Arguments::command(), "rootling", &mut script);
    context.output.raw(&script);
    Ok(())
}

pub(super) fn man(context: &Context, arguments: &ManArguments) -> Result<()> {
    let mut command = super::Arguments::command();
    command.build();
    let command = match &arguments.command {
        None => command,
        Some(name) => command.find_subcommand(name).cloned().ok_or_else(|| {
            rootling_backends::Error::new(
                rootling_backends::ErrorKind::InvalidInput,
                format!("there is no command {name:?}"),
            )
            .hint("`rootling --help` lists them")
        })?,
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).context(|| "write the manual page")?;
    context.output.raw(&page);
    Ok(())
}
