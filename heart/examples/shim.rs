//! What the heart runs of `pm`, as a small program of its own for the tests and benchmarks of this
//! crate: `shim` and `static --root DIR`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("shim") => heart::shim::main(),
        Some("static") => heart::static_site::main(),
        _ => ExitCode::FAILURE,
    }
}
