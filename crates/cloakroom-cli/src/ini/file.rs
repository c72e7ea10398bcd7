//! A file that is kept but for one part of it, which is ours; written whole or not at all.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind as Io, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use cloakroom::{Error, ErrorKind, Result};

use super::format::Format;

const BEGIN: &str = "cloakroom ini: from here, rewritten at each run";
const END: &str = "cloakroom ini: to here";

/// What a file is to say.
pub(crate) struct Part {
    pub(crate) format: Format,
    /// The pool that it is for, where the file is PHP-FPM's.
    pub(crate) pool: String,
    /// The settings' names: other lines that set them are commented out.
    pub(crate) names: Vec<&'static str>,
    pub(crate) lines: Vec<String>,
    /// Whether others than the file's owner and group may not read it.
    pub(crate) secret: bool,
}

impl Part {
    /// The part as a file of its own.
    pub(crate) fn alone(&self) -> String {
        self.block(self.format != Format::FpmPool)
    }

    /// Puts it into the file, in place of what an earlier run has put there; a file that says it already is not touched.
    pub(crate) fn put_into(&self, path: &Path) -> Result<()> {
        let failed = |doing: &str, error: std::io::Error| {
            Error::new(ErrorKind::Config, format!("{doing} {}", path.display())).source(error)
        };
        // What a link leads to is written, and the link is kept.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let before = match fs::read(&target) {
            Ok(bytes) => Some(String::from_utf8(bytes).map_err(|_| {
                Error::new(ErrorKind::Config, format!("{} is not UTF-8", path.display()))
                    .hint("write to a file of its own, beside it")
            })?),
            Err(error) if error.kind() == Io::NotFound => None,
            Err(error) => return Err(failed("cannot read", error)),
        };
        let after = match &before {
            Some(text) => self.merged(text, path)?,
            None => self.alone(),
        };
        if before.as_ref() == Some(&after) {
            return Ok(());
        }
        self.replace(&target, &after).map_err(|error| {
            failed("cannot write", error)
                .hint("the directory must be writable, too: the file is replaced whole")
        })
    }

    fn replace(&self, target: &Path, text: &str) -> std::io::Result<()> {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}", std::process::id()));
        let temporary: PathBuf = target.with_file_name(name);
        // A temporary file of an earlier process with our pid must not lend its mode.
        let _ = fs::remove_file(&temporary);
        let mode = if self.secret { 0o640 } else { 0o644 };
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
            if let Ok(old) = fs::metadata(target) {
                let own = file.metadata()?;
                if (own.uid(), own.gid()) != (old.uid(), old.gid()) {
                    std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()))?;
                }
                file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
            }
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, target)
        })();
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    fn block(&self, in_its_section: bool) -> String {
        let mut lines = vec![self.format.comment(BEGIN)];
        if !in_its_section {
            lines.push(format!("[{}]", self.pool));
        }
        lines.extend(self.lines.iter().cloned());
        lines.push(self.format.comment(END));
        lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
    }

    /// The text with the part where it was, or else in place of the first line that sets one of its settings, or else at the
    /// end of the section that it belongs to.
    fn merged(&self, text: &str, path: &Path) -> Result<String> {
        let (others, had) = self.without_the_part(text, path)?;
        let mut scope = Scope::of(self);
        let mut kept: Vec<String> = Vec::new();
        let mut first_like_it = None;
        let mut end_of_section = None;
        let mut section_at_the_part = scope.is_ours();
        for (index, line) in others.iter().enumerate() {
            if had == Some(index) {
                section_at_the_part = scope.is_ours();
            }
            scope.read(line);
            let mut line = (*line).to_owned();
            if scope.is_ours() && self.sets_one_of_ours(&line, path)? {
                if scope.holds_always() {
                    first_like_it.get_or_insert(index);
                }
                line.insert_str(0, &self.format.comment(""));
            }
            if scope.is_ours() && scope.holds_always() && !line.trim().is_empty() {
                end_of_section = Some(index + 1);
            }
            kept.push(line);
        }
        if had == Some(others.len()) {
            section_at_the_part = scope.is_ours();
        }
        let (place, in_its_section) = match (had, first_like_it, end_of_section) {
            (Some(index), ..) => (index, section_at_the_part),
            (None, Some(index), _) => (index, true),
            (None, None, Some(index)) => (index, true),
            (None, None, None) => (if self.format == Format::FpmPool { kept.len() } else { 0 }, {
                self.format != Format::FpmPool
            }),
        };
        if let Some(before) = place.checked_sub(1).and_then(|index| kept.get_mut(index))
            && !before.ends_with('\n')
        {
            before.push('\n');
        }
        kept.insert(place, self.block(in_its_section));
        Ok(kept.concat())
    }

    /// The lines of others, and before which of them the part was.
    fn without_the_part<'a>(&self, text: &'a str, path: &Path) -> Result<(Vec<&'a str>, Option<usize>)> {
        let (begin, end) = (self.format.comment(BEGIN), self.format.comment(END));
        let mut lines = Vec::new();
        let mut had = None;
        let mut inside = false;
        for line in text.split_inclusive('\n') {
            match line.trim_end() {
                bare if !inside && bare == begin => {
                    inside = true;
                    had.get_or_insert(lines.len());
                }
                bare if inside && bare == end => inside = false,
                _ if inside => {}
                _ => lines.push(line),
            }
        }
        match inside {
            false => Ok((lines, had)),
            true => Err(Error::new(
                ErrorKind::Config,
                format!("{}: the line \"{end}\" is missing", path.display()),
            )
            .hint(format!("write it behind the settings that follow \"{begin}\""))),
        }
    }

    fn sets_one_of_ours(&self, line: &str, path: &Path) -> Result<bool> {
        let Some((name, value)) = self.format.setting_of(line) else { return Ok(false) };
        if !self.names.contains(&name) {
            return Ok(false);
        }
        match value.trim_start().starts_with('"') && value.replace("\\\"", "").matches('"').count() == 1 {
            false => Ok(true),
            true => Err(Error::new(
                ErrorKind::Config,
                format!("{}: {name} has a value of several lines", path.display()),
            )
            .hint("remove it: it is set by cloakroom ini")),
        }
    }
}

/// Whether a line is where our settings are read: not in another pool, and for no single directory or host.
enum Scope<'a> {
    Ini {
        general: bool,
    },
    Pool {
        name: &'a str,
        inside: bool,
    },
    /// Inside how many sections, and inside how many that only ask whether there is a module.
    Apache {
        depth: usize,
        asked: usize,
    },
}

impl<'a> Scope<'a> {
    fn of(part: &'a Part) -> Self {
        match part.format {
            Format::PhpIni | Format::UserIni => Scope::Ini { general: true },
            Format::FpmPool => Scope::Pool { name: &part.pool, inside: false },
            Format::Apache => Scope::Apache { depth: 0, asked: 0 },
        }
    }

    fn read(&mut self, line: &str) {
        let line = line.trim();
        let section = line.strip_prefix('[').and_then(|line| line.split(']').next());
        match (self, section) {
            (Scope::Ini { general }, Some(section)) => {
                let section = section.trim_start().to_ascii_uppercase();
                *general = !section.starts_with("PATH") && !section.starts_with("HOST");
            }
            (Scope::Pool { name, inside }, Some(section)) => *inside = section == *name,
            (Scope::Apache { depth, asked }, _) => {
                let line = line.to_ascii_lowercase();
                let asks = |line: &str| {
                    ["ifmodule", "ifdefine", "ifversion"].iter().any(|name| line.starts_with(name))
                };
                match (line.strip_prefix("</"), line.strip_prefix('<')) {
                    (Some(name), _) if asks(name) => *asked = asked.saturating_sub(1),
                    (Some(_), _) => *depth = depth.saturating_sub(1),
                    (None, Some(name)) if asks(name) => *asked += 1,
                    (None, Some(_)) => *depth += 1,
                    (None, None) => {}
                }
            }
            _ => {}
        }
    }

    fn is_ours(&self) -> bool {
        match self {
            Scope::Ini { general } => *general,
            Scope::Pool { inside, .. } => *inside,
            Scope::Apache { depth, .. } => *depth == 0,
        }
    }

    /// Whether what is written here counts on every server.
    fn holds_always(&self) -> bool {
        !matches!(self, Scope::Apache { asked: 1.., .. })
    }
}

#[cfg(test)]
mod tests;
