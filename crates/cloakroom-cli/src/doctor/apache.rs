//! What Apache tells mod_php: `php_value` and its like in the server's files and in `.htaccess`.

use std::path::{Path, PathBuf};

use super::php_ini::{Line, Setting};
use super::sapis::{Layer, Said, has_extension, names_in, text_of};

/// What was said, and whom the workers run as.
#[derive(Debug, Default)]
pub(super) struct Apache {
    pub(super) said: Vec<Said>,
    pub(super) user: Option<String>,
    /// Whether a module of PHP is loaded.
    php: bool,
}

/// Whether Apache loads mod_php.
pub(super) fn runs_php(root: &Path) -> Result<bool, String> {
    Ok(read(root)?.php)
}

/// All files of the server. Where a section's end would be is not looked at: one of the directories that it names may be
/// the app's.
pub(super) fn read(root: &Path) -> Result<Apache, String> {
    let mut all = Apache::default();
    for file in files(root)? {
        let one = lines(&file, Layer::Server)?;
        all.said.extend(one.said);
        all.user = one.user.or(all.user);
        all.php |= one.php;
    }
    Ok(all)
}

fn files(root: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files = vec![root.join("etc/apache2/apache2.conf"), root.join("etc/httpd/conf/httpd.conf")];
    for directory in [
        "etc/apache2/mods-enabled",
        "etc/apache2/conf-enabled",
        "etc/apache2/sites-enabled",
        "etc/httpd/conf.modules.d",
        "etc/httpd/conf.d",
    ] {
        files.extend(names_in(&root.join(directory))?);
    }
    files.retain(|file| file.is_file() && (has_extension(file, "conf") || has_extension(file, "load")));
    Ok(files)
}

/// One file.
pub(super) fn lines(file: &Path, layer: Layer) -> Result<Apache, String> {
    let mut apache = Apache::default();
    for (index, line) in text_of(file)?.lines().enumerate() {
        let words = words(line);
        let [directive, rest @ ..] = words.as_slice() else { continue };
        match (directive.to_ascii_lowercase().as_str(), rest) {
            ("php_value" | "php_flag" | "php_admin_value" | "php_admin_flag", [name, value, ..]) => {
                let admin = directive.to_ascii_lowercase().starts_with("php_admin");
                let layer = if admin { Layer::Admin } else { layer };
                let at = Line { file: file.to_owned(), number: index + 1 };
                let setting = Setting { name: name.clone(), value: value.clone(), at };
                apache.said.push(Said { layer, setting });
            }
            // Debian has its name in a file of variables.
            ("user", [name, ..]) if !name.starts_with('$') => apache.user = Some(name.clone()),
            ("user", [_, ..]) => apache.user = Some("www-data".to_owned()),
            ("loadmodule", [name, ..]) if name.starts_with("php") => apache.php = true,
            _ => {}
        }
    }
    Ok(apache)
}

/// The words of a line, those in quotes without them; none of a comment.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line.trim();
    if rest.starts_with('#') {
        return words;
    }
    while let Some(first) = rest.chars().next() {
        let (word, after) = match first {
            '"' | '\'' => rest[1..].split_once(first).unwrap_or((&rest[1..], "")),
            _ => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    words
}
