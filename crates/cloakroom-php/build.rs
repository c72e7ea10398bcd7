//! Learns from PHP's headers, or else from PHP itself, which module API the extension is built for.
//!
//! `CLOAKROOM_PHP_API=20220829-nts` (or `-zts`, and `-debug` after either) answers without any PHP on the machine.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=CLOAKROOM_PHP_API");
    println!("cargo::rerun-if-env-changed=PHP_CONFIG");
    let api = match std::env::var("CLOAKROOM_PHP_API") {
        Ok(text) => Api::parse(&text),
        Err(_) => Api::of_installed_php(),
    };
    println!("cargo::rustc-check-cfg=cfg(php84)");
    if api.number >= 20_240_924 {
        println!("cargo::rustc-cfg=php84");
    }
    println!("cargo::rustc-check-cfg=cfg(php_debug)");
    if api.debug {
        println!("cargo::rustc-cfg=php_debug");
    }
    println!("cargo::rustc-env=PHP_API_NUMBER={}", api.number);
    println!("cargo::rustc-env=PHP_ZTS={}", u8::from(api.zts));
    println!("cargo::rustc-env=PHP_DEBUG={}", u8::from(api.debug));
    let threads = if api.zts { "TS" } else { "NTS" };
    let debug = if api.debug { ",debug" } else { "" };
    println!("cargo::rustc-env=PHP_BUILD_ID=API{},{threads}{debug}", api.number);
    // PHP unloads its modules at the end; a lock that is won late by its waiting thread, and thread-local
    // destructors, must still find their code.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}

struct Api {
    number: u32,
    zts: bool,
    debug: bool,
}

impl Api {
    fn parse(text: &str) -> Self {
        let mut words = text.split('-');
        let number = words.next().and_then(|number| number.parse().ok());
        let zts = match words.next() {
            Some("zts") => true,
            Some("nts") => false,
            _ => panic!("CLOAKROOM_PHP_API={text}: write it like 20220829-nts or 20220829-zts-debug"),
        };
        let number =
            number.unwrap_or_else(|| panic!("CLOAKROOM_PHP_API={text}: it starts with PHP's API number"));
        Api { number, zts, debug: words.next() == Some("debug") }
    }

    fn of_installed_php() -> Self {
        let named = std::env::var("PHP_CONFIG").ok();
        let config = named.as_deref().unwrap_or("php-config");
        match Command::new(config).arg("--include-dir").output() {
            Ok(output) => Api::from_headers(String::from_utf8_lossy(&output.stdout).trim()),
            Err(error) if named.is_some() => panic!("cannot run PHP_CONFIG={config}: {error}"),
            Err(_) => Api::of_command(),
        }
    }

    /// `PHP Extension Build => API20220829,NTS` in what `php -i` prints.
    fn of_command() -> Self {
        let output = Command::new("php").args(["-n", "-i"]).output().unwrap_or_else(|error| {
            panic!("neither php-config nor php can be run: {error}; install PHP (Debian: php-cli), or name php-config in PHP_CONFIG")
        });
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let build = printed.lines().find_map(|line| line.strip_prefix("PHP Extension Build => API"));
        let mut words =
            build.unwrap_or_else(|| panic!("'php -n -i' tells no PHP Extension Build")).trim().split(',');
        let number = words.next().and_then(|number| number.parse().ok());
        Api {
            number: number.unwrap_or_else(|| panic!("'php -n -i' tells no API number")),
            zts: words.next() == Some("TS"),
            debug: words.next() == Some("debug"),
        }
    }

    fn from_headers(directory: &str) -> Self {
        let header = |name: &str| {
            let path = Path::new(&directory).join(name);
            println!("cargo::rerun-if-changed={}", path.display());
            std::fs::read_to_string(&path)
                .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
        };
        let modules = header("Zend/zend_modules.h");
        let build = header("main/php_config.h");
        let number = defined(&modules, "ZEND_MODULE_API_NO").and_then(|value| value.parse().ok());
        Api {
            number: number.unwrap_or_else(|| panic!("{directory}: no ZEND_MODULE_API_NO in zend_modules.h")),
            zts: defined(&build, "ZTS") == Some("1"),
            debug: defined(&build, "ZEND_DEBUG") == Some("1"),
        }
    }
}

fn defined<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    header
        .lines()
        .find_map(|line| line.strip_prefix("#define ")?.strip_prefix(name)?.strip_prefix(' ').map(str::trim))
}
