//! placeholder

use crate::args::{DevArguments, GlobalArguments};
use crate::error::CommandError;
mod applications;
mod data_directory;

pub(crate) fn run(_a: &DevArguments, _g: &GlobalArguments) -> Result<(), CommandError> {
    Ok(())
}
