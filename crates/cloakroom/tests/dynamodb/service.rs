//! A web service of the test's: what is not DynamoDB, or gives credentials.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// It ends with the test program.
pub(crate) struct Service {
    port: u16,
    seen: Arc<Mutex<Vec<Request>>>,
}

/// What it was asked.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// `GET /path`.
    pub(crate) line: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

impl Service {
    /// One that answers each request with a status, a type and a body.
    pub(crate) fn start(
        answer: impl Fn(&Request) -> (u16, &'static str, String) + Send + Sync + 'static,
    ) -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (Arc::clone(&seen), Arc::new(answer));
        std::thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let Some(request) = read(&client) else { return };
                    log.lock().unwrap().push(request.clone());
                    let (status, kind, body) = answer(&request);
                    let length = body.len();
                    // Whoever asked may have left.
                    let _ = write!(
                        &client,
                        "HTTP/1.1 {status} Answered\r\nConnection: close\r\nContent-Type: {kind}\r\n\
                         Content-Length: {length}\r\n\r\n{body}"
                    );
                });
            }
        });
        Service { port, seen }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

fn read(client: &TcpStream) -> Option<Request> {
    let mut from = BufReader::new(client);
    let mut line = String::new();
    from.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let line = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    let mut request = Request { line, headers: Vec::new(), body: String::new() };
    loop {
        let mut header = String::new();
        from.read_line(&mut header).ok()?;
        let Some((name, value)) = header.split_once(':') else { break };
        request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    from.read_exact(&mut body).ok()?;
    request.body = String::from_utf8(body).ok()?;
    Some(request)
}
