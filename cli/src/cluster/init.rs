//! `pm cluster init`: the identity of the first node, before anything runs.

use crate::args::cluster::InitArguments;
use crate::error::CommandError;
use crate::output::Output;

/// Makes it.
pub(crate) fn run(_arguments: InitArguments, _output: Output) -> Result<(), CommandError> {
    Err(CommandError::new(
        crate::error::code::FAILED,
        "make a cluster",
        "this release has no authority for it yet",
    ))
}
