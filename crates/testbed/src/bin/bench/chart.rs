//! The results as one SVG: bars from left to right, ours in colour.

use std::fmt::Write;

use serde_json::Value;

use crate::report::find;
use crate::session_work::median;

const WIDTH: f64 = 1080.0;
const MARGIN: f64 = 40.0;
const LABELS: f64 = 232.0;
const BAR: f64 = 15.0;
const ROW: f64 = 23.0;

/// One bar of a column.
struct Bar {
    value: f64,
    text: String,
}

/// Rows of contenders, and beside them columns of bars with a scale each.
struct Panel {
    title: &'static str,
    note: &'static str,
    columns: Vec<String>,
    /// Key, label, and a bar for each column.
    rows: Vec<(String, String, Vec<Option<Bar>>)>,
}

pub(crate) fn draw(results: &Value) -> String {
    let panels = [session_work(results), pages(results), race(results), waits(results)];
    let mut body = String::new();
    let mut top = 104.0;
    for panel in panels.iter().filter(|panel| !panel.rows.is_empty()) {
        top = draw_panel(&mut body, panel, top);
    }
    let machine = &results["machine"];
    let text = |name: &str| escape(machine[name].as_str().unwrap_or("missing"));
    let on = format!(
        "{}, {} cores · PHP {} · phpredis {} · php-memcached {}{}",
        text("cpu"),
        machine["cores"],
        text("php"),
        text("phpredis"),
        text("php_memcached"),
        if results["quick"] == true { " · QUICK run, numbers mean little" } else { "" }
    );
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}" font-family="system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif">
<style>
  .title {{ font-size: 26px; font-weight: 700; fill: #1f2430 }}
  .sub, .note {{ font-size: 12.5px; fill: #6b7280 }}
  .panel {{ font-size: 16px; font-weight: 650; fill: #1f2430 }}
  .column {{ font-size: 12px; font-weight: 600; fill: #6b7280 }}
  .label {{ font-size: 12.5px; fill: #374151 }}
  .ours {{ font-weight: 700; fill: #9a3412 }}
  .number {{ font-size: 11.5px; fill: #374151; font-variant-numeric: tabular-nums }}
</style>
<rect width="{WIDTH}" height="{top}" fill="#fffdf9"/>
<text class="title" x="{MARGIN}" y="52">Cloakroom beside PHP's native session handlers</text>
<text class="sub" x="{MARGIN}" y="75">{on}</text>
{body}</svg>
"##
    )
}

fn draw_panel(body: &mut String, panel: &Panel, top: f64) -> f64 {
    let left = MARGIN + LABELS;
    let step = (WIDTH - MARGIN - left) / panel.columns.len() as f64;
    let _ = writeln!(
        body,
        r##"<line x1="{MARGIN}" y1="{top}" x2="{}" y2="{top}" stroke="#e7e2d8"/>"##,
        WIDTH - MARGIN
    );
    let _ = writeln!(body, r##"<text class="panel" x="{MARGIN}" y="{}">{}</text>"##, top + 28.0, panel.title);
    let _ = writeln!(body, r##"<text class="note" x="{MARGIN}" y="{}">{}</text>"##, top + 46.0, panel.note);
    let first = top + 82.0;
    for (index, column) in panel.columns.iter().enumerate() {
        let x = left + step * index as f64;
        let _ = writeln!(body, r##"<text class="column" x="{x:.1}" y="{}">{column}</text>"##, first - 9.0);
    }
    for (index, (key, label, bars)) in panel.rows.iter().enumerate() {
        let y = first + ROW * index as f64;
        let ours = key.starts_with("cloakroom");
        let limit = label.starts_with("the limit");
        let (class, fill) = match (ours, limit) {
            (true, _) => ("label ours", "#ea580c"),
            (_, true) => ("label", "#86b89a"),
            _ => ("label", "#b4bdcb"),
        };
        let _ = writeln!(
            body,
            r##"<text class="{class}" x="{}" y="{}" text-anchor="end">{}</text>"##,
            left - 12.0,
            y + 12.0,
            escape(label)
        );
        for (column, bar) in bars.iter().enumerate() {
            let Some(bar) = bar else { continue };
            let x = left + step * column as f64;
            let longest = step - 108.0;
            let scale = longest / scale_end(panel, column);
            let width = (scale * bar.value).clamp(1.5, longest);
            let _ = writeln!(
                body,
                r##"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{BAR}" rx="3" fill="{fill}"/><text class="number" x="{:.1}" y="{:.1}">{}</text>"##,
                x + width + 6.0,
                y + 11.8,
                escape(&bar.text)
            );
            if scale * bar.value > longest * 1.001 {
                let (right, bottom) = (x + longest - 18.0, y + BAR + 2.0);
                let _ = writeln!(
                    body,
                    r##"<path d="M{right:.1} {bottom:.1} l8 -19 m5 0 l-8 19" stroke="#fffdf9" stroke-width="2.5"/>"##
                );
            }
        }
    }
    first + ROW * panel.rows.len() as f64 + 26.0
}

/// Where a column's scale ends: bars that dwarf the others are cut there, and marked.
fn scale_end(panel: &Panel, column: usize) -> f64 {
    let bars = panel.rows.iter().filter_map(|(_, _, bars)| bars[column].as_ref());
    let mut values: Vec<f64> = bars.map(|bar| bar.value).collect();
    let middle = median(&mut values);
    let most = values.last().copied().unwrap_or(f64::MIN_POSITIVE);
    if most > 10.0 * middle { 4.0 * middle } else { most }
}

fn session_work(results: &Value) -> Panel {
    let regimes = [
        ("same_core", "client and server on one core"),
        ("different_cores", "on two cores"),
        ("network", "over a 0.5 ms network"),
    ];
    let bar = |row: &Value| {
        let value = row["best_us"].as_f64()?;
        Some(Bar { value, text: duration(value) })
    };
    Panel {
        title: "Session work of a request, on Redis, Memcached and files",
        note: "session_start(), a change, session_write_close(); shorter is better; best of 5 interleaved rounds",
        columns: regimes.map(|(_, name)| name.to_owned()).to_vec(),
        rows: rows(&results["session_work"], "regime", &regimes.map(|(key, _)| key.into()), bar),
    }
}

fn pages(results: &Value) -> Panel {
    let bar = |row: &Value| {
        let value = row["requests_per_second"].as_f64()?;
        Some(Bar { value, text: format!("{value:.0}") })
    };
    Panel {
        title: "Pages per second",
        note: "nginx, PHP-FPM with 4 workers and opcache, wrk with 16 connections, all on this machine; longer is better",
        columns: vec!["requests per second".into()],
        rows: rows(&results["fpm"], "none", &[Value::Null], bar),
    }
}

fn race(results: &Value) -> Panel {
    let bar = |row: &Value| {
        let (count, refused, lost) =
            (row["count"].as_u64()?, row["refused"].as_u64()?, row["lost"].as_u64()?);
        let text = match (lost, refused) {
            (0, 0) => format!("{count}, none lost"),
            (0, _) => format!("{count}, {refused} refused"),
            _ => format!("{count}, {lost} lost"),
        };
        Some(Bar { value: count as f64, text })
    };
    Panel {
        title: "Lost updates",
        note: "8 workers increment one number 200 times each; 1600 is right",
        columns: holds(),
        rows: without_limits(rows(&results["race"], "hold_ms", &HOLDS.map(Value::from), bar)),
    }
}

fn waits(results: &Value) -> Panel {
    let bar = |row: &Value| {
        let value = row["wait_p99_ms"].as_f64()?;
        Some(Bar { value, text: duration(value * 1000.0) })
    };
    Panel {
        title: "Waiting for the lock, 99th percentile",
        note: "in the same race; shorter is better, but whoever does not wait for the lock loses updates",
        columns: holds(),
        rows: rows(&results["race"], "hold_ms", &HOLDS.map(Value::from), bar),
    }
}

const HOLDS: [f64; 3] = [0.5, 2.0, 5.0];

fn holds() -> Vec<String> {
    HOLDS.iter().map(|hold| format!("session held for {hold} ms")).collect()
}

fn without_limits(rows: Vec<(String, String, Vec<Option<Bar>>)>) -> Vec<(String, String, Vec<Option<Bar>>)> {
    rows.into_iter().filter(|(_, label, _)| !label.starts_with("the limit")).collect()
}

/// One row for each contender, with the bars of its rows where `column` is each of `values`.
fn rows(
    table: &Value,
    column: &str,
    values: &[Value],
    bar: impl Fn(&Value) -> Option<Bar>,
) -> Vec<(String, String, Vec<Option<Bar>>)> {
    let mut found: Vec<(String, String, Vec<Option<Bar>>)> = Vec::new();
    for row in table.as_array().into_iter().flatten() {
        let key = row["contender"].as_str().unwrap_or_default();
        if found.iter().any(|(known, _, _)| known == key) {
            continue;
        }
        let bars = values
            .iter()
            .map(|value| bar(find(table, &[("contender", &row["contender"]), (column, value)])))
            .collect();
        found.push((key.to_owned(), row["label"].as_str().unwrap_or_default().to_owned(), bars));
    }
    found
}

fn duration(microseconds: f64) -> String {
    match microseconds {
        small if small < 100.0 => format!("{small:.1} µs"),
        middle if middle < 1000.0 => format!("{middle:.0} µs"),
        large if large < 100_000.0 => format!("{:.2} ms", large / 1000.0),
        huge => format!("{:.0} ms", huge / 1000.0),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
