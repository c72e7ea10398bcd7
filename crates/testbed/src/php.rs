//! PHP on this machine: where it is, and scripts run with it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The directory of PHP's extensions.
pub fn extension_dir() -> Option<&'static PathBuf> {
    static DIRECTORY: OnceLock<Option<PathBuf>> = OnceLock::new();
    DIRECTORY
        .get_or_init(|| {
            let output = Command::new("php").args(["-n", "-r", "echo PHP_EXTENSION_DIR;"]).output().ok()?;
            Some(PathBuf::from(String::from_utf8(output.stdout).ok()?))
        })
        .as_ref()
}

/// The PHP-FPM program, under whichever version's name.
pub fn fpm_program() -> Option<PathBuf> {
    let named = |name: &str| crate::need::find(name);
    let version = ["8.5", "8.4", "8.3", "8.2", "8.1"].iter();
    named("php-fpm").or_else(|| version.clone().find_map(|version| named(&format!("php-fpm{version}"))))
}
