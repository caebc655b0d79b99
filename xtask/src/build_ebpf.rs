//! Compiles the kernel programs.

use std::path::{Path, PathBuf};

pub(crate) fn build(_root: &Path, _target_dir: &Path) -> Result<PathBuf, String> {
    Err("not merged yet".to_owned())
}
