//! Text for PHP in fixed space: PHP may leave a call by `longjmp`, and nothing that needs freeing may be alive then.

use std::ffi::c_char;
use std::fmt::{self, Write};
use std::time::Duration;

use cloakroom::{Billed, Error};

use crate::handler::{LastCommit, Status};

/// A NUL-terminated text of at most `N - 1` bytes; what is longer is cut.
#[derive(Clone, Copy)]
pub(crate) struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Text<N> {
    pub(crate) fn new(text: impl fmt::Display) -> Self {
        let mut this = Text { bytes: [0; N], length: 0 };
        // Writing into it never fails.
        let _ = write!(this, "{text}");
        this
    }

    pub(crate) fn as_ptr(&self) -> *const c_char {
        self.bytes.as_ptr().cast()
    }
}

impl<const N: usize> Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars().filter(|character| *character != '\0') {
            let mut encoded = [0; 4];
            let encoded = character.encode_utf8(&mut encoded).as_bytes();
            let end = self.length + encoded.len();
            // The last byte stays NUL.
            if end >= N {
                break;
            }
            self.bytes[self.length..end].copy_from_slice(encoded);
            self.length = end;
        }
        Ok(())
    }
}

/// An error as one line of PHP's log.
pub(crate) fn message(error: &Error) -> Text<1024> {
    Text::new(error.to_string().replace('\n', "; "))
}

/// `cloakroom_status()` without anything to free.
#[derive(Clone, Copy)]
pub(crate) struct StatusArray {
    pub(crate) store: Option<Text<512>>,
    pub(crate) detected: Option<Text<256>>,
    pub(crate) numbers: [(&'static str, i64); 7],
    pub(crate) waited: f64,
    pub(crate) last_commit: &'static str,
    /// Purposes and what their requests have cost; the first so many.
    bill: [(&'static str, Billed); 8],
    purposes: usize,
}

impl StatusArray {
    pub(crate) fn new(status: &Status) -> Self {
        let counters = status.counters;
        let mut bill = [("", Billed::default()); 8];
        bill.iter_mut().zip(&status.billed).for_each(|(entry, billed)| *entry = *billed);
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        StatusArray {
            store: status.store.as_ref().map(Text::new),
            detected: status.detected.as_ref().map(Text::new),
            numbers: [
                ("exchanges", number(counters.exchanges)),
                ("connects", number(counters.connects)),
                ("waits", number(counters.waits)),
                ("retries", number(counters.retries)),
                ("lost_leases", number(counters.lost_leases)),
                ("conflicts", number(counters.conflicts)),
                ("turned_away", number(counters.turned_away)),
            ],
            waited: counters.waited.as_secs_f64(),
            last_commit: match status.last_commit {
                LastCommit::None => "none",
                LastCommit::Written => "written",
                LastCommit::Refused => "refused",
                LastCommit::Unknown => "unknown",
            },
            bill,
            purposes: status.billed.len().min(bill.len()),
        }
    }

    pub(crate) fn bill(&self) -> &[(&'static str, Billed)] {
        &self.bill[..self.purposes]
    }
}

/// The rows of the `phpinfo()` section without anything to free.
pub(crate) type Rows = [(&'static str, Text<512>); 16];

pub(crate) fn rows(status: &Status) -> Rows {
    let counters = status.counters;
    let yes_or_no = |yes: bool| if yes { "yes" } else { "no" };
    let guarantee = |text: &dyn Fn(&cloakroom::Guarantees) -> String| match &status.guarantees {
        Some(guarantees) => Text::new(text(guarantees)),
        None => Text::new("-"),
    };
    [
        ("Version", Text::new(env!("CARGO_PKG_VERSION"))),
        ("Store", Text::new(status.store.as_deref().unwrap_or("none opened by this worker yet"))),
        ("Detected from", Text::new(status.detected.as_deref().unwrap_or("-"))),
        ("Lock of a worker that died", guarantee(&|guarantees| guarantees.lock.to_string())),
        ("Shared between hosts", guarantee(&|guarantees| guarantees.shared_between_hosts.to_string())),
        ("Survives a restart of the store", guarantee(&|guarantees| guarantees.survives_restart.to_string())),
        ("Expired sessions", guarantee(&|guarantees| guarantees.sweeping.to_string())),
        (
            "Largest session",
            guarantee(&|guarantees| match guarantees.size_limit {
                Some(bytes) => format!("{bytes} bytes"),
                None => "no limit of its own".into(),
            }),
        ),
        ("Waiters counted", guarantee(&|guarantees| guarantees.waiter_cap.to_string())),
        ("Sessions can be listed", guarantee(&|guarantees| yes_or_no(guarantees.listing).into())),
        ("Exchanges awaited", Text::new(counters.exchanges)),
        ("Connections opened", Text::new(counters.connects)),
        (
            "Lock waits",
            Text::new(format_args!("{}, {} in all", counters.waits, milliseconds(counters.waited))),
        ),
        ("Writes that undid another's, without a lock", Text::new(counters.conflicts)),
        ("Retries / lost leases", Text::new(format_args!("{} / {}", counters.retries, counters.lost_leases))),
        ("Capacity units billed", Text::new(units(&status.billed))),
    ]
}

/// Of all requests: `18 written, 2.5 read, by 21 requests`.
fn units(bill: &[(&'static str, Billed)]) -> String {
    match bill.iter().fold(Billed::default(), |sum, (_, billed)| sum + *billed) {
        Billed { requests: 0, .. } => "-".into(),
        Billed { requests, read_units, write_units } => {
            format!("{write_units} written, {read_units} read, by {requests} requests")
        }
    }
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown<const N: usize>(text: Text<N>) -> String {
        String::from_utf8(text.bytes[..text.length].to_vec()).unwrap()
    }

    #[test]
    fn a_text_is_cut_between_characters_and_ends_in_nul() {
        assert_eq!(shown(Text::<8>::new("abc")), "abc");
        assert_eq!(shown(Text::<8>::new("abcdefghij")), "abcdefg");
        assert_eq!(shown(Text::<8>::new("abcdef\u{e9}g")), "abcdef");
        assert_eq!(shown(Text::<8>::new("a\0b")), "ab");
        assert_eq!(Text::<8>::new("abcdefghij").bytes[7], 0);
    }

    #[test]
    fn an_error_becomes_one_line() {
        let error =
            Error::new(cloakroom::ErrorKind::Timeout, "the store took too long").hint("look at the server");
        assert_eq!(shown(message(&error)), "the store took too long; hint: look at the server");
    }
}
