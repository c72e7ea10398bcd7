//! docs/detection.md says what the code does.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use cloakroom::detect::SOURCES;

/// `UPDATE_DOCS=1` writes the table.
#[test]
fn the_documented_order_is_that_of_the_code() {
    let mut table = String::from("\n| rank | platform | what names the store |\n|---|---|---|\n");
    for source in SOURCES {
        table += &format!("| {} | {} | {} |\n", source.rank, source.platform, source.named_by);
    }
    table += "\n";
    let path = testbed::php::workspace().join("docs/detection.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let start = "--test detection` -->\n";
    let (before, rest) = text.split_once(start).unwrap();
    let (written, after) = rest.split_once("<!-- end of sources -->").unwrap();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, format!("{before}{start}{table}<!-- end of sources -->{after}")).unwrap();
        return;
    }
    assert!(written == table, "run: UPDATE_DOCS=1 cargo test -p cloakroom --test detection\n{table}");
}

#[test]
fn sources_are_looked_at_in_the_order_of_their_ranks() {
    assert!(SOURCES.is_sorted_by_key(|source| source.rank));
}
