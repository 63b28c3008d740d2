//! A disk that is soon full.

use std::path::{Path, PathBuf};

/// A tmpfs, while this lives.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where one cannot be mounted: whoever asks says so loudly.
    pub(crate) fn mount(path: &Path, bytes: usize) -> Option<Self> {
        let options = format!("size={bytes}");
        let status = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(path)
            .status()
            .ok()?;
        status.success().then(|| Self(path.to_owned()))
    }

    /// Gives it another size.
    pub(crate) fn resize(&self, bytes: usize) {
        let options = format!("remount,size={bytes}");
        let status = std::process::Command::new("mount")
            .args(["-o", &options])
            .arg(&self.0)
            .status();
        assert!(status.is_ok_and(|status| status.success()), "remounting");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the store may still hold a file for a moment.
        let status = std::process::Command::new("umount")
            .arg("--lazy")
            .arg(&self.0)
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "the small disk stays mounted"
        );
    }
}
