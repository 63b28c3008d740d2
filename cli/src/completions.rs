//! `pm completions`: scripts for shells.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::args::Arguments;
use crate::error::CommandError;
use crate::output::Output;

/// Prints the completion script of a shell.
pub(crate) fn run(shell: Shell, output: Output) -> Result<(), CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "pm", &mut script);
    output.bytes(&script)
}
