//! The shim as a program of its own, for the tests of this crate; `pm shim` is the same.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match (arguments.next(), arguments.next()) {
        (Some(flag), Some(directory)) if flag == "--directory" => {
            heart::shim::main(&PathBuf::from(directory))
        }
        _ => ExitCode::FAILURE,
    }
}
