//! A proxy that does to DynamoDB's clients what AWS does on a bad day, and writes down what they asked.
//!
//! It speaks HTTP/1.1 with connections that stay open, as AWS does; to the engine it opens a new one for every request.

use std::collections::HashMap;
use std::fmt;
use std::io::{BufRead, BufReader, Read, Result, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::spawn;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::{Engine, VERSION};
use crate::http::{self, Response};
use crate::{START, free_port, place, wait_until};

/// A proxy in front of one engine; it ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

/// What is done to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: it is forwarded, and answered.
    None,
    /// It is not forwarded, but answered with a status, an error's name and its message.
    Refuse(u16, String, String),
    /// The connection ends in place of forwarding it.
    CutBefore,
    /// The connection ends in place of the answer: the engine has done it.
    CutAfter,
    /// It is neither forwarded nor answered; the connection stays.
    HangBefore,
    /// It is forwarded and never answered; the connection stays.
    HangAfter,
    /// It is forwarded after a while.
    Late(Duration),
}

impl Fault {
    /// A status of 400 with this error: `ThrottlingException`.
    pub fn refuse(kind: &str, message: &str) -> Fault {
        Fault::Refuse(400, kind.to_owned(), message.to_owned())
    }

    /// What a table answers whose provisioned capacity is used up.
    pub fn throttled() -> Fault {
        let message = "The level of configured provisioned throughput for the table was exceeded.";
        Fault::refuse("ProvisionedThroughputExceededException", message)
    }

    /// What AWS answers when it has failed itself.
    pub fn internal() -> Fault {
        Fault::Refuse(500, "InternalServerError".into(), "The request processing has failed".into())
    }

    /// What its front answers when nobody behind it can.
    pub fn unavailable() -> Fault {
        Fault::Refuse(503, "ServiceUnavailable".into(), "The service is unavailable".into())
    }
}

/// A request as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Which connection it came on, counted from 0 since the proxy started.
    pub connection: usize,
    /// What was asked for: `GetItem`.
    pub operation: String,
    /// With what.
    pub body: Value,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// What it was answered with; nothing where it was not.
    pub status: Option<u16>,
}

impl Seen {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

type Rule = Box<dyn FnMut(&Seen) -> Fault + Send>;

struct Shared {
    upstream: String,
    state: Mutex<State>,
}

struct State {
    rule: Rule,
    clock: Clock,
    time_matters: bool,
    seen: Vec<Seen>,
    connections: usize,
    /// How often the counts were reset.
    generation: usize,
    accepted: usize,
    open: Vec<(usize, TcpStream)>,
    closing: bool,
    listener: Arc<TcpListener>,
}

/// What the `Date` of answers says.
#[derive(Clone, Copy)]
enum Clock {
    /// The time, and so many seconds.
    Off(i64),
    Absent,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("upstream", &self.upstream).finish_non_exhaustive()
    }
}

impl Proxy {
    /// In front of an engine; it forwards everything until told otherwise.
    pub fn to(engine: &Engine) -> Proxy {
        let port = free_port();
        let listener = Arc::new(place::listen(port));
        let state = State {
            rule: Box::new(|_| Fault::None),
            clock: Clock::Off(0),
            time_matters: false,
            seen: Vec::new(),
            connections: 0,
            generation: 0,
            accepted: 0,
            open: Vec::new(),
            closing: false,
            listener: Arc::clone(&listener),
        };
        let shared = Arc::new(Shared { upstream: engine.address(), state: Mutex::new(state) });
        let proxy = Proxy { port, shared: Arc::clone(&shared) };
        spawn(move || accept(&shared, &listener));
        proxy
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Asks this what to do with each request, in the order in which they come.
    pub fn decide(&self, rule: impl FnMut(&Seen) -> Fault + Send + 'static) {
        self.shared.lock().rule = Box::new(rule);
    }

    /// Does nothing to requests any more.
    pub fn forward(&self) {
        self.decide(|_| Fault::None);
    }

    /// Does this to the first `times` attempts of every request; one with the same operation and body is the same.
    pub fn fail_first(&self, times: usize, fault: Fault) {
        let mut attempts: HashMap<String, usize> = HashMap::new();
        self.decide(move |seen| {
            let attempt = attempts.entry(format!("{} {}", seen.operation, seen.body)).or_default();
            *attempt += 1;
            if *attempt <= times { fault.clone() } else { Fault::None }
        });
    }

    /// Does this to the next request for an operation, and nothing to any other.
    pub fn fail_next(&self, operation: &str, fault: Fault) {
        let (operation, mut fault) = (operation.to_owned(), Some(fault));
        self.decide(move |seen| match seen.operation == operation {
            true => fault.take().unwrap_or(Fault::None),
            false => Fault::None,
        });
    }

    /// Lets the `Date` of all answers, its own ones too, be so many seconds ahead (behind, where negative).
    pub fn shift_clock(&self, seconds: i64) {
        self.shared.lock().clock = Clock::Off(seconds);
    }

    /// Leaves the `Date` out of all answers.
    pub fn hide_clock(&self) {
        self.shared.lock().clock = Clock::Absent;
    }

    /// Refuses what was signed more than 5 minutes from its own time, as AWS does and the engines do not.
    pub fn check_signing_time(&self) {
        self.shared.lock().time_matters = true;
    }

    /// Ends all connections that are open now, as a front does that has seen them idle for long, and waits until the
    /// clients' ends can know.
    pub fn hang_up(&self) {
        self.shared.hang_up();
        // That is sent at once, but on a busy machine it may arrive later.
        wait_until("the clients' ends know", START, || !on_its_way(self.port));
    }

    /// What was asked since the start or [`Proxy::reset_counts`], in the order in which it came.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.lock().seen.clone()
    }

    /// The operations of that.
    pub fn operations(&self) -> Vec<String> {
        self.shared.lock().seen.iter().map(|seen| seen.operation.clone()).collect()
    }

    /// How many requests for an operation that was.
    pub fn count(&self, operation: &str) -> usize {
        self.shared.lock().seen.iter().filter(|seen| seen.operation == operation).count()
    }

    /// Connections accepted since then.
    pub fn connections(&self) -> usize {
        self.shared.lock().connections
    }

    /// Connections that are open now.
    pub fn open_connections(&self) -> usize {
        self.shared.lock().open.len()
    }

    /// Counts from 0 again and forgets what was seen.
    pub fn reset_counts(&self) {
        let mut state = self.shared.lock();
        state.seen.clear();
        state.connections = 0;
        state.generation += 1;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closing = true;
        // The accepting thread holds it too, and sees this as an error.
        let _ = nix::sys::socket::shutdown(state.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        drop(state);
        self.shared.hang_up();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn hang_up(&self) {
        for (_, client) in self.lock().open.drain(..) {
            let _ = client.shutdown(Shutdown::Both);
        }
    }

    /// Has the engine answer.
    fn ask(&self, request: &Request) -> Result<Response> {
        let mut engine = TcpStream::connect(&self.upstream)?;
        write!(engine, "{} HTTP/1.1\r\nConnection: close\r\n", request.line)?;
        for (name, value) in request.headers.iter().filter(|(name, _)| name != "connection") {
            write!(engine, "{name}: {value}\r\n")?;
        }
        engine.write_all(b"\r\n")?;
        engine.write_all(&request.body)?;
        http::read(&mut BufReader::new(engine))
    }
}

impl State {
    /// What becomes of a request that was signed at another time.
    fn untimely(&self, seen: &Seen) -> Option<Fault> {
        let Clock::Off(seconds) = self.clock else { return None };
        let (signed, now) = (seen.header("x-amz-date").unwrap_or_default(), now() + seconds);
        let allowed = stamp(now - 300)..=stamp(now + 300);
        let complaint = |time: &str, than: &str| {
            let message = format!("Signature {time}: {signed} is now {than} ({} +/- 5 min.)", stamp(now));
            Fault::refuse("InvalidSignatureException", &message)
        };
        match signed {
            _ if !self.time_matters => None,
            early if early < allowed.start().as_str() => {
                Some(complaint("expired", &format!("earlier than {}", allowed.start())))
            }
            late if late > allowed.end().as_str() => {
                Some(complaint("not yet current", &format!("later than {}", allowed.end())))
            }
            _ => None,
        }
    }
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    while let Ok((client, _)) = listener.accept() {
        let mut state = shared.lock();
        if state.closing {
            return;
        }
        let number = state.accepted;
        state.accepted += 1;
        state.connections += 1;
        let Ok(copy) = client.try_clone() else { continue };
        state.open.push((number, copy));
        let shared = Arc::clone(shared);
        spawn(move || {
            // Nobody is told how it ended: the client sees it.
            let _ = serve(&shared, number, &client);
            let _ = client.shutdown(Shutdown::Both);
            shared.lock().open.retain(|(other, _)| *other != number);
        });
    }
}

fn serve(shared: &Shared, number: usize, client: &TcpStream) -> Result<()> {
    client.set_nodelay(true)?;
    let mut from = BufReader::new(client);
    while let Some(request) = Request::read(&mut from)? {
        let target = request.header("x-amz-target").unwrap_or_default();
        let seen = Seen {
            connection: number,
            operation: target.strip_prefix(VERSION).unwrap_or(target).to_owned(),
            body: serde_json::from_slice(&request.body).unwrap_or(Value::Null),
            headers: request.headers.clone(),
            status: None,
        };
        let (place, fault) = {
            let mut state = shared.lock();
            let fault = state.untimely(&seen).unwrap_or_else(|| (state.rule)(&seen));
            state.seen.push(seen);
            ((state.generation, state.seen.len() - 1), fault)
        };
        let response = match fault {
            Fault::None => shared.ask(&request)?,
            Fault::Refuse(status, kind, message) => refusal(status, &kind, &message),
            Fault::CutBefore => return Ok(()),
            Fault::CutAfter => return shared.ask(&request).map(drop),
            Fault::HangBefore => return until_it_leaves(client),
            Fault::HangAfter => {
                shared.ask(&request)?;
                return until_it_leaves(client);
            }
            Fault::Late(by) => {
                std::thread::sleep(by);
                shared.ask(&request)?
            }
        };
        let clock = {
            let mut state = shared.lock();
            // Before the client can have the answer: who has it finds it written down.
            if state.generation == place.0 {
                state.seen[place.1].status = Some(response.status);
            }
            state.clock
        };
        answer(client, &response, clock)?;
        if request.header("connection").is_some_and(|word| word.eq_ignore_ascii_case("close")) {
            break;
        }
    }
    Ok(())
}

/// Whether the end of a connection at this loopback port was sent and is not acknowledged yet (`FIN_WAIT1`).
fn on_its_way(port: u16) -> bool {
    let here = format!("0100007F:{port:04X}");
    let connections = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    connections.lines().any(|line| {
        let mut columns = line.split_whitespace().skip(1);
        columns.next() == Some(&here) && columns.nth(1) == Some("04")
    })
}

fn until_it_leaves(mut client: &TcpStream) -> Result<()> {
    let mut ignored = [0; 1024];
    while client.read(&mut ignored)? > 0 {}
    Ok(())
}

fn refusal(status: u16, kind: &str, message: &str) -> Response {
    let body = json!({"__type": format!("com.amazonaws.dynamodb.v20120810#{kind}"), "message": message});
    let headers = vec![("content-type".to_owned(), "application/x-amz-json-1.0".to_owned())];
    Response { status, headers, body: body.to_string() }
}

fn answer(mut client: &TcpStream, response: &Response, clock: Clock) -> Result<()> {
    let Response { status, headers, body } = response;
    let mut head = format!("HTTP/1.1 {status} Answered\r\nContent-Length: {}\r\n", body.len());
    let own = ["content-length", "transfer-encoding", "connection", "keep-alive", "date"];
    for (name, value) in headers.iter().filter(|(name, _)| !own.contains(&name.as_str())) {
        head += &format!("{name}: {value}\r\n");
    }
    if let Clock::Off(seconds) = clock {
        head += &format!("Date: {}\r\n", date(now() + seconds));
    }
    client.write_all(format!("{head}\r\n{body}").as_bytes())
}

fn now() -> i64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    since.as_secs().cast_signed()
}

/// A moment as HTTP writes it: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn date(epoch: i64) -> String {
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][day(epoch).rem_euclid(7) as usize];
    let names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let ((year, month, of_month), (hour, minute, second)) = (calendar(epoch), time_of_day(epoch));
    let month = names[month as usize - 1];
    format!("{weekday}, {of_month:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT")
}

/// A moment as a signature has it: `19941106T084937Z`. These sort by time.
fn stamp(epoch: i64) -> String {
    let ((year, month, of_month), (hour, minute, second)) = (calendar(epoch), time_of_day(epoch));
    format!("{year:04}{month:02}{of_month:02}T{hour:02}{minute:02}{second:02}Z")
}

fn day(epoch: i64) -> i64 {
    epoch.div_euclid(86_400)
}

fn time_of_day(epoch: i64) -> (i64, i64, i64) {
    let second = epoch.rem_euclid(86_400);
    (second / 3600, second / 60 % 60, second % 60)
}

/// Year, month and day of the month, by <https://howardhinnant.github.io/date_algorithms.html>: of years that start in March,
/// and so have their leap day at the end.
fn calendar(epoch: i64) -> (i64, i64, i64) {
    let since_march_0 = day(epoch) + 719_468;
    let (era, of_era) = (since_march_0.div_euclid(146_097), since_march_0.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year + era * 400 + i64::from(month <= 2), month, of_year - (153 * from_march + 2) / 5 + 1)
}

struct Request {
    /// `POST /`.
    line: String,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// The next one on a connection, unless that ends.
    fn read(from: &mut impl BufRead) -> Result<Option<Request>> {
        let mut first = String::new();
        if from.read_line(&mut first)? == 0 {
            return Ok(None);
        }
        let line = first.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
        let mut request = Request { line, headers: Vec::new(), body: Vec::new() };
        loop {
            let mut header = String::new();
            from.read_line(&mut header)?;
            let Some((name, value)) = header.split_once(':') else { break };
            request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        request.body.resize(length, 0);
        from.read_exact(&mut request.body)?;
        Ok(Some(request))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::{date, stamp};

    #[test]
    fn a_moment_is_written_as_http_does() {
        assert_eq!(date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(date(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(date(1_798_761_599), "Thu, 31 Dec 2026 23:59:59 GMT");
        assert_eq!(stamp(784_111_777), "19941106T084937Z");
    }
}
