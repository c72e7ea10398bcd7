//! What the commands print: plain text, and colour where a terminal shows it (`NO_COLOR` and pipes are plain).

use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use cloakroom::Error;
use comfy_table::{ContentArrangement, Table, presets};

/// Prints a line. Nobody may read it any more (`| head`): the command goes on and leaves nothing half done.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        // There is nobody to tell that it cannot be told.
        let _ = writeln!(anstream::stdout(), $($text)*);
    }};
}

/// Prints a line beside the output: progress, and errors.
macro_rules! tell {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(anstream::stderr(), $($text)*);
    }};
}

pub(crate) use {say, tell};

pub(crate) const HEADING: Style = Style::new().bold();
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const DOUBTFUL: Style = AnsiColor::Yellow.on_default();
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
pub(crate) const FAINT: Style = Style::new().dimmed();
pub(crate) const PLAIN: Style = Style::new();

/// The text in this style; what is printed by [`say`] loses it where colour is not wanted.
pub(crate) fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// The exit code of a command that could not look, after its error was told.
pub(crate) fn could_not_look(error: &Error) -> ExitCode {
    tell!("{}{error}", paint(BAD, "error: "));
    ExitCode::from(2)
}

/// A row of a table; the style is its first cell's.
pub(crate) struct Row {
    pub(crate) style: Style,
    pub(crate) cells: Vec<String>,
}

/// Rows under headings, columns separated by two spaces; wrapped where a terminal is too narrow.
pub(crate) fn table(headings: &[&str], rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    // What is piped is not wrapped, whatever terminal the errors go to.
    if let Some((terminal_size::Width(width), _)) = terminal_size::terminal_size_of(std::io::stdout()) {
        table.set_width(width);
    }
    table.set_header(headings);
    table.add_rows(rows.iter().map(|row| &row.cells));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut rows = rows.iter();
    let mut next = rows.next();
    let mut lines: Vec<String> = Vec::new();
    for line in table.lines() {
        let line = line.trim_end();
        let begins = next.filter(|_| !lines.is_empty()).and_then(|row| {
            let first = row.cells.first().filter(|first| !first.is_empty())?;
            Some((row.style, line.strip_prefix(first.as_str())?, first))
        });
        lines.push(match begins {
            _ if lines.is_empty() => paint(HEADING, line),
            Some((style, rest, first)) => {
                next = rows.next();
                paint(style, first) + rest
            }
            None => line.to_owned(),
        });
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_its_first_column_painted() {
        let row = |style, cells: [&str; 2]| Row { style, cells: cells.map(str::to_owned).to_vec() };
        let rows = [row(GOOD, ["chosen", "REDIS_URL"]), row(PLAIN, ["no", "A"])];
        let painted = table(&["standing", "from"], &rows);
        assert_eq!(
            painted,
            "\u{1b}[1mstanding  from\u{1b}[0m\n\u{1b}[32mchosen\u{1b}[0m    REDIS_URL\nno        A"
        );
        assert_eq!(
            anstream::adapter::strip_str(&painted).to_string(),
            "standing  from\nchosen    REDIS_URL\nno        A"
        );
    }
}
