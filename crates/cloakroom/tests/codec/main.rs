//! Records that the installed PHP writes, and every prefix of them: `codec` must agree with PHP on which are whole.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;

use cloakroom::codec::{Framing, framing, variables};
use testbed::need::Need;
use testbed::suite::{Case, case, run};

const RECORDS: usize = 60;

fn main() {
    let mut cases: Vec<Case> = ["php", "php_binary", "php_serialize"]
        .into_iter()
        .map(|handler| {
            let name = format!("{handler}_records_and_prefixes_are_whole_when_php_says_so");
            case(name, &[Need::Php], move || agrees_with_php(handler, None))
        })
        .collect();
    cases.push(case(
        "igbinary_records_are_complete_and_their_prefixes_torn",
        &[Need::Php, Need::PhpIgbinary],
        || agrees_with_php("igbinary", Some("igbinary.so")),
    ));
    run(cases);
}

fn agrees_with_php(handler: &str, module: Option<&str>) {
    let seed = std::env::var("SEED").unwrap_or_else(|_| std::process::id().to_string());
    let mut php = Command::new("php");
    php.args(["-n", "-d", &format!("session.serialize_handler={handler}")]);
    php.args(["-d", "session.use_cookies=0", "-d", "session.cache_limiter="]);
    php.args(module.into_iter().flat_map(|module| ["-d".to_owned(), format!("extension={module}")]));
    php.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/codec/records.php"));
    let output = php.args([&seed, &RECORDS.to_string()]).output().expect("php starts");
    let text = String::from_utf8(output.stdout).expect("hexadecimal");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let mut records = 0;
    for line in text.lines() {
        let (record, accepted) = line.split_once(' ').unwrap_or_else(|| panic!("php said: {line}"));
        let record = from_hexadecimal(record);
        let accepted: Vec<usize> =
            accepted.split(',').filter(|length| !length.is_empty()).map(|n| n.parse().unwrap()).collect();
        let shown = || format!("SEED={seed} {}", record.escape_ascii());
        assert_eq!(framing(&record), Framing::Complete, "{}", shown());
        let variables = variables(&record).unwrap_or_else(|| panic!("no variables in {}", shown()));
        assert!(!variables.is_empty(), "{}", shown());
        let last = variables.last().unwrap().value.end;
        assert_eq!(last + usize::from(handler == "php_serialize"), record.len(), "{}", shown());
        for length in 1..record.len() {
            let whole = framing(&record[..length]) == Framing::Complete;
            let by_php = accepted.contains(&length);
            assert!(
                whole == by_php,
                "the first {length} of {} bytes: whole to codec {whole}, to PHP {by_php}\n{}",
                record.len(),
                shown()
            );
        }
        records += 1;
    }
    assert!(records > RECORDS / 2, "only {records} records came");
}

fn from_hexadecimal(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}
