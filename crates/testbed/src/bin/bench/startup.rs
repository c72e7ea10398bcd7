//! What an extension adds to the start of PHP: once in PHP-FPM, every time on a command line.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use testbed::need::find;
use testbed::php::{extension, extension_dir};

use crate::Effort;
use crate::session_work::median;

pub(crate) fn run(effort: Effort) -> Vec<Value> {
    let php = find("php").expect("php is installed");
    let native = |names: &[&str]| -> Vec<PathBuf> {
        let directory = extension_dir().expect("php has a directory for them");
        names.iter().map(|name| directory.join(name)).collect()
    };
    let mut candidates = vec![
        ("php", "php -n", vec![]),
        ("cloakroom", "with cloakroom.so", vec![extension()]),
        ("phpredis", "with redis.so", native(&["igbinary.so", "redis.so"])),
        ("memcached", "with memcached.so", native(&["igbinary.so", "msgpack.so", "memcached.so"])),
    ];
    candidates.retain(|(_, _, modules)| modules.iter().all(|module| module.is_file()));
    let mut times = vec![Vec::new(); candidates.len()];
    for _ in 0..effort.of(80, 5) {
        for ((_, _, modules), times) in candidates.iter().zip(&mut times) {
            let mut command = Command::new(&php);
            command.arg("-n");
            for module in modules {
                command.args(["-d", &format!("extension={}", module.display())]);
            }
            let start = Instant::now();
            let status = command.args(["-r", ""]).stdin(Stdio::null()).status().expect("start php");
            times.push(start.elapsed().as_secs_f64() * 1000.0);
            assert!(status.success(), "{command:?}");
        }
    }
    let medians: Vec<f64> = times.iter_mut().map(|times| median(times)).collect();
    let row = |((key, label, _), time): (&(&str, &str, Vec<PathBuf>), &f64)| json!({ "contender": key, "label": label, "median_ms": time, "added_ms": time - medians[0] });
    candidates.iter().zip(&medians).map(row).collect()
}
