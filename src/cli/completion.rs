//! `completion`: what shells read about the program.

use clap::CommandFactory;
use clap_complete::Shell;
use rootling_backends::Result;

use super::Context;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn completion(context: &Context, arguments: &Arguments) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::Arguments::command(), "rootling", &mut script);
    context.output.raw(&script);
    Ok(())
}
