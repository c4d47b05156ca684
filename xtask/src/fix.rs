//! `cargo xtask fix`: writes what `verify` would complain about, as far as a machine can.

use std::path::Path;

use anyhow::Result;

use crate::shell::{self, cargo};
use crate::tidy;

/// Applies clippy's suggestions, formats, renews the goldens, then says what is left.
pub fn run(root: &Path) -> Result<()> {
    shell::run(cargo(root).args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--fix",
        "--allow-dirty",
        "--allow-staged",
    ]))?;
    shell::run(cargo(root).args(["fmt", "--all"]))?;
    tidy::renew_goldens(root)?;
    tidy::run(root)
}
