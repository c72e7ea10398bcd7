//! The tables of options in the user's book are those of the code.

use cloakroom::stores::Named;

/// Compares the options in `docs/STORE.md` with these; `UPDATE_DOCS=1` writes them.
pub(crate) fn options(store: &str, tables: &[&[Named]]) {
    let mut table = String::from("\n| option | takes | default | meaning |\n|---|---|---|---|\n");
    for option in tables.iter().copied().flatten() {
        let mut names = format!("`{}`", option.name);
        if !option.aliases.is_empty() {
            let others: Vec<String> = option.aliases.iter().map(|name| format!("`{name}`")).collect();
            names += &format!(" ({})", others.join(", "));
        }
        table += &format!("| {names} | {} | {} | {} |\n", option.takes, option.default, option.meaning);
    }
    written(store, "options", &table);
}

/// Compares a part of `docs/STORE.md`, which its markers name, with this; `UPDATE_DOCS=1` writes it.
pub(crate) fn written(store: &str, part: &str, expected: &str) {
    let path = testbed::php::workspace().join(format!("docs/{store}.md"));
    let text = std::fs::read_to_string(&path).unwrap();
    let (start, end) = (format!("--test {store} {part}` -->\n"), format!("<!-- end of {part} -->"));
    let (before, rest) = text.split_once(&start).unwrap();
    let (written, after) = rest.split_once(&end).unwrap();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, format!("{before}{start}{expected}{end}{after}")).unwrap();
        return;
    }
    assert!(
        written == expected,
        "run: UPDATE_DOCS=1 cargo test -p cloakroom --test {store} {part}\n{expected}"
    );
}
