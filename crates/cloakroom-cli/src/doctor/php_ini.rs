//! php.ini as PHP reads it: the settings up to the first syntax error, and what is lost behind it.
//!
//! The syntax is that of `Zend/zend_ini_scanner.l` and `zend_ini_parser.y` (PHP 8.2), as far as it decides where a value
//! ends and where PHP stops reading. PHP-FPM's pool files and `.user.ini` have the same.

use std::path::{Path, PathBuf};

use cloakroom::Environment;

/// Where something is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) file: PathBuf,
    pub(super) number: usize,
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.number)
    }
}

/// One line `name = value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) name: String,
    pub(super) value: String,
    pub(super) at: Line,
}

/// What PHP gets from a file.
#[derive(Debug, Default)]
pub(super) struct Ini {
    pub(super) settings: Vec<Setting>,
    /// Where PHP stopped.
    pub(super) fault: Option<Fault>,
    /// Variables that a value names and that are not set.
    pub(super) unset: Vec<(Line, String)>,
    /// The names of settings below `[PATH=...]` or `[HOST=...]`: they hold there alone.
    pub(super) elsewhere: Vec<String>,
}

/// A syntax error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) at: Line,
    /// As PHP says it.
    pub(super) unexpected: String,
    /// The setting whose value it is in.
    pub(super) setting: Option<String>,
    /// The names on later lines, which PHP does not see.
    pub(super) lost: Vec<String>,
}

impl Ini {
    /// What PHP gets from `text`; `${NAME}` is what `environment` says.
    pub(super) fn parse(file: &Path, text: &str, environment: &Environment) -> Ini {
        let mut reader = Reader {
            rest: text,
            number: 1,
            environment,
            value: String::new(),
            begun: false,
            unset: Vec::new(),
        };
        let mut ini = Ini::default();
        let mut section_of_its_own = false;
        loop {
            reader.skip_blank();
            let Some(first) = reader.rest.chars().next() else { return ini };
            let at = Line { file: file.to_owned(), number: reader.number };
            let mut setting = None;
            let read = match first {
                ';' => {
                    reader.rest_of_line();
                    Ok(())
                }
                '[' => reader.section().map(|name| {
                    let name = name.to_ascii_uppercase();
                    // Seen in 8.2: no later section ends it.
                    section_of_its_own |= name.starts_with("PATH=") || name.starts_with("HOST=");
                }),
                _ => reader.label().and_then(|name| {
                    setting = Some(name.clone());
                    if !reader.rest.starts_with('=') {
                        return reader.end_of_label();
                    }
                    reader.advance(1);
                    let read = reader.value();
                    let unset = std::mem::take(&mut reader.unset);
                    ini.unset.extend(unset.into_iter().map(|name| (at.clone(), name)));
                    // What was whole before the error is set.
                    if read.is_ok() || reader.begun {
                        let value = std::mem::take(&mut reader.value);
                        if section_of_its_own {
                            ini.elsewhere.push(name);
                        } else {
                            ini.settings.push(Setting { name, value, at: at.clone() });
                        }
                    }
                    read
                }),
            };
            if let Err(unexpected) = read {
                let lost = names_after(text, at.number);
                ini.fault = Some(Fault { at, unexpected, setting, lost });
                return ini;
            }
        }
    }
}

/// The names of the lines after this one, as somebody reads them who does not know of the error.
fn names_after(text: &str, number: usize) -> Vec<String> {
    let names = text.lines().skip(number).filter_map(|line| {
        let name = line.split_once('=')?.0.trim();
        let plain = |character: char| character.is_ascii_alphanumeric() || "._-[]".contains(character);
        (!name.is_empty() && name.chars().all(plain)).then(|| name.to_owned())
    });
    names.collect()
}

struct Reader<'a> {
    rest: &'a str,
    number: usize,
    environment: &'a Environment,
    value: String,
    /// Whether there is a piece of a value.
    begun: bool,
    unset: Vec<String>,
}

impl<'a> Reader<'a> {
    fn advance(&mut self, bytes: usize) -> &'a str {
        let (passed, rest) = self.rest.split_at(bytes);
        self.number += passed.matches('\n').count();
        self.rest = rest;
        passed
    }

    fn skip_blank(&mut self) {
        let blank = self.rest.len() - self.rest.trim_start().len();
        self.advance(blank);
    }

    fn skip_spaces(&mut self) {
        let blank = self.rest.len() - self.rest.trim_start_matches([' ', '\t']).len();
        self.advance(blank);
    }

    fn rest_of_line(&mut self) -> &'a str {
        self.advance(self.rest.find('\n').unwrap_or(self.rest.len()))
    }

    fn section(&mut self) -> Result<String, String> {
        let line = self.rest_of_line();
        match line.split_once(']') {
            Some((name, _)) => Ok(name[1..].trim().to_owned()),
            None => Err("end of line, expecting ']'".to_owned()),
        }
    }

    /// The name before the `=`, with the offset of `php_value[name]`.
    fn label(&mut self) -> Result<String, String> {
        let end = self.rest.find(is_no_label).unwrap_or(self.rest.len());
        let mut name = self.advance(end).trim_end().to_owned();
        if let Some(offset) = self.rest.strip_prefix('[') {
            let end = offset.find([']', '\n']).filter(|end| offset[*end..].starts_with(']'));
            let end = end.ok_or("end of line, expecting ']'")?;
            name += self.advance(end + 2);
            self.skip_spaces();
        }
        if self.rest.trim_start_matches([' ', '\t']).starts_with('=') {
            self.skip_spaces();
        }
        match self.rest.chars().next() {
            Some(character) if name.is_empty() => Err(format!("'{character}'")),
            _ => Ok(name),
        }
    }

    /// A name without a value is an entry of its own.
    fn end_of_label(&mut self) -> Result<(), String> {
        match self.rest.chars().next() {
            None | Some('\n' | '\r' | ';' | '\t') => {
                self.rest_of_line();
                Ok(())
            }
            Some(character) => Err(format!("'{character}'")),
        }
    }

    fn value(&mut self) -> Result<(), String> {
        self.value.clear();
        self.begun = false;
        let mut literal = true;
        let mut operators = false;
        let mut operand = false;
        let mut open = 0;
        loop {
            if !operand {
                self.skip_spaces();
            }
            let Some(next) = self.rest.chars().next() else { break };
            match next {
                '\n' | '\r' => break,
                ';' => {
                    self.rest_of_line();
                    break;
                }
                '"' => {
                    literal = false;
                    // PHP then knows nothing of the pieces before it either.
                    self.begun = false;
                    let piece = self.quoted()?;
                    self.value += &piece;
                    (self.begun, operand) = (true, true);
                    self.skip_spaces();
                }
                '\'' => {
                    literal = false;
                    let Some(length) = self.rest[1..].find('\'') else {
                        return Err("end of file: a ' is not closed".to_owned());
                    };
                    let piece = self.advance(length + 2);
                    self.value += &piece[1..=length];
                    (self.begun, operand) = (true, true);
                    self.skip_spaces();
                }
                '$' if self.rest.starts_with("${") => {
                    literal = false;
                    let piece = self.variable().ok_or("end of line, expecting '}'")?;
                    self.value += &piece;
                    (self.begun, operand) = (true, true);
                }
                '&' | '|' | '^' if operand => {
                    (operators, operand) = (true, false);
                    self.advance(1);
                }
                '~' | '!' if !operand => {
                    operators = true;
                    self.advance(1);
                }
                '(' if !operand => {
                    open += 1;
                    self.advance(1);
                }
                ')' if operand && open > 0 => {
                    open -= 1;
                    self.advance(1);
                    self.skip_spaces();
                }
                '=' | '&' | '|' | '^' | '~' | '!' | '(' | ')' => {
                    // A number, whatever the pieces were.
                    if operators && self.begun {
                        self.value = "0".to_owned();
                    }
                    return Err(format!("'{next}'"));
                }
                _ => {
                    let end = self.rest.find(ends_piece).unwrap_or(self.rest.len()).max(next.len_utf8());
                    let piece = self.advance(end);
                    self.value += piece;
                    (self.begun, operand) = (true, true);
                }
            }
        }
        if operators {
            self.value = "0".to_owned();
            return Ok(());
        }
        if literal {
            let plain = self.value.trim_end();
            self.value = match plain.to_ascii_lowercase().as_str() {
                "on" | "yes" | "true" => "1".to_owned(),
                "off" | "no" | "false" | "none" | "null" => String::new(),
                _ => plain.to_owned(),
            };
        }
        Ok(())
    }

    /// From one `"` to the next that has no backslash before it, over lines.
    fn quoted(&mut self) -> Result<String, String> {
        self.advance(1);
        let mut value = String::new();
        loop {
            let end = self.rest.find(['"', '\\', '$']).ok_or("end of file: a \" is not closed")?;
            value += self.advance(end);
            match self.rest.as_bytes() {
                [b'"', ..] => {
                    self.advance(1);
                    return Ok(value);
                }
                [b'\\', b'"' | b'\\' | b'\'', ..] => value += &self.advance(2)[1..],
                [b'$', b'{', ..] => match self.variable() {
                    Some(variable) => value += &variable,
                    None => value += self.advance(1),
                },
                _ => value += self.advance(1),
            }
        }
    }

    /// `${NAME}`, empty where nothing has that name.
    fn variable(&mut self) -> Option<String> {
        let end = self.rest.find(['}', '\n']).filter(|end| self.rest[*end..].starts_with('}'))?;
        let name = &self.advance(end + 1)[2..end];
        let value = self.environment.var(name);
        if value.is_none() {
            self.unset.push(name.to_owned());
        }
        Some(value.unwrap_or_default().to_owned())
    }
}

fn is_no_label(character: char) -> bool {
    "=\n\r\t;&|^$~(){}!\"[]\0".contains(character)
}

fn ends_piece(character: char) -> bool {
    "=\n\r;&|^$~()!\"'\0".contains(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXTS: &[&str] = &[
        "session.save_path = tcp://h?auth=x\nsession.name=AFTER\n",
        "session.save_path = “tcp://h:6379?auth=x”\nsession.name=AFTER\n",
        "session.save_path = “tcp://h:6379”\nsession.name=AFTER\n",
        "session.save_handler = redis # comment\nsession.name=AFTER\n",
        "# a comment here\nsession.name=AFTER\n",
        "# a comment (here)\nsession.name=AFTER\n",
        "# session.save_handler = redis\nsession.name=AFTER\n",
        "# don't\nsession.name=AFTER\n",
        "session.save_path = \"tcp://h\nsession.name=AFTER\nsession.save_handler=\"x\"\n",
        "session.save_path = 'tcp://h\nsession.name=AFTER\n",
        "session.save_path = tcp://h:1;x\nsession.name=AFTER\n",
        "session.save_path = a&b\nsession.name=AFTER\n",
        "session.save_path = a(b\nsession.name=AFTER\n",
        "session.save_path = a{b}\nsession.name=AFTER\n",
        "session.save_path = a!b\nsession.name=AFTER\n",
        "session.save_path = a|b~c^d\nsession.name=AFTER\n",
        "session.save_path = a$b\nsession.name=AFTER\n",
        "session.save_path = a${SOMETHING}b\nsession.name=AFTER\n",
        "session.save_path = \"a${SOMETHING}b${NOTHING}\"\nsession.name='${SOMETHING}'\n",
        "session.save_path = a\"b\"c d\nsession.name=AFTER\n",
        "session.save_path = On\nsession.name=AFTER\n",
        "session.save_path = none\nsession.name=AFTER\n",
        "session.save_path = \"On\"\nsession.name=AFTER\n",
        "[PHP]\nsession.save_path\nsession.name=AFTER\n",
        "[PHP\nsession.save_path=x\nsession.name=AFTER\n",
        "session.save_path : x\nsession.name=AFTER\n",
        "SESSION.save_path = x\nsession.name=AFTER\n",
        "a(b = x\nsession.name=AFTER\n",
        "{x}\nsession.name=AFTER\n",
        "=x\nsession.name=AFTER\n",
        "session.save_path = \"a\\\"b\"\nsession.name=AFTER\n",
        "session.save_path =   \"x\"  ; foo\nsession.name= y ; foo\n",
        "  session.save_path = x\nsession.name\t=\tAFTER\n",
        "session.save_path = \"tcp://h\" # why (so)\nsession.name=AFTER\n",
        "[PATH=/x]\nsession.save_path = x\n[PHP]\nsession.name=AFTER\n",
        "session.save_path = it's\nsession.name=AFTER\n",
        "session.save_path = a]b[c@d%e\nsession.name=AFTER\n",
        "// comment\nsession.name=AFTER\n",
        "error_reporting = E_ALL & ~E_DEPRECATED & ~E_STRICT\nsession.name=AFTER\n",
        "error_reporting = (E_ALL | E_STRICT) & ~E_NOTICE\nsession.name=AFTER\n",
        "session.save_path =\nsession.name=AFTER\n",
        "session.save_path = x\r\nsession.name=AFTER\r\n",
        "session.save_path = \"tcp://h:6379?auth=x&database=1\"\nsession.name=AFTER",
    ];

    /// What PHP itself makes of it, and whether it stops.
    fn php_says(text: &str) -> (Vec<Option<String>>, bool) {
        let directory = testbed::TempDir::new();
        let file = directory.write("php.ini", text);
        let output = std::process::Command::new("php")
            .args(["-n", "-d", "display_startup_errors=1", "-c"])
            .arg(file)
            .args(["-r", "echo \"\\n\", json_encode(array_map(fn($name) => ($value = get_cfg_var($name)) === false ? null : $value, ['session.save_path', 'session.save_handler', 'session.name'])), \"\\n\";"])
            .env("SOMETHING", "of value")
            .env_remove("NOTHING")
            .output()
            .unwrap();
        let printed = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        let values = printed.lines().find(|line| line.starts_with('[')).unwrap();
        (serde_json::from_str(values).unwrap(), printed.contains("syntax error"))
    }

    #[test]
    fn every_text_is_read_as_php_reads_it() {
        let environment = Environment::from_iter([("SOMETHING", "of value")]);
        for text in TEXTS {
            let ini = Ini::parse(Path::new("php.ini"), text, &environment);
            let value = |name: &str| {
                ini.settings.iter().rev().find(|setting| setting.name == name).map(|it| it.value.clone())
            };
            let values = ["session.save_path", "session.save_handler", "session.name"].map(value).to_vec();
            let (php, stopped) = php_says(text);
            // Behind a word, an open ' ends the file without a word of PHP's.
            let stopped = stopped || text.contains("it's");
            assert_eq!((values, ini.fault.is_some()), (php, stopped), "{text}\n{ini:?}");
        }
    }

    #[test]
    fn what_is_lost_behind_an_error_is_named() {
        let text = "[PHP]\nsession.save_path = tcp://h?auth=x\n; a = b\nsession.name=A\nextension=redis.so\n";
        let fault = Ini::parse(Path::new("/f"), text, &Environment::default()).fault.unwrap();
        assert_eq!(fault.at, Line { file: "/f".into(), number: 2 });
        assert_eq!(fault.unexpected, "'='");
        assert_eq!(fault.setting.as_deref(), Some("session.save_path"));
        assert_eq!(fault.lost, ["session.name", "extension"]);
    }
}
