//! Loads the kernel programs for a look at them, and takes them away again.

use anyhow::{Result, bail};

/// Builds all, loads and attaches the kernel programs, prints a table of them.
pub(crate) fn build_and_load() -> Result<()> {
    bail!("not built yet")
}

/// Detaches and removes what [`build_and_load`] loaded.
pub(crate) fn unload() -> Result<()> {
    bail!("not built yet")
}
