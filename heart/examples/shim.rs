//! What the heart runs of `pm`, as a small program of its own for the tests and benchmarks of this
//! crate: `shim --directory DIR` and `static --root DIR`.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match (arguments.next(), arguments.nth(1)) {
        (Some(verb), Some(directory)) if verb == "shim" => heart::shim::main(Path::new(&directory)),
        (Some(verb), _) if verb == "static" => heart::static_site::main(),
        _ => ExitCode::FAILURE,
    }
}
