//! A browser as small as can be: one HTTP/1.1 request per connection, and a cookie jar.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Error, Read, Result, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A visitor of one site.
#[derive(Debug, Clone)]
pub struct Browser {
    authority: String,
    headers: String,
    cookies: BTreeMap<String, String>,
}

/// What a server answered.
#[derive(Debug, Clone)]
pub struct Response {
    /// 200, 404, ...
    pub status: u16,
    /// Names in lower case, in the order in which they came.
    pub headers: Vec<(String, String)>,
    /// The body, which must be UTF-8.
    pub body: String,
}

impl Browser {
    /// A visitor without cookies, for `http://host:port`.
    pub fn at(url: &str) -> Browser {
        let authority = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        Browser { authority, headers: String::new(), cookies: BTreeMap::new() }
    }

    /// Sends this header with every request.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Browser {
        self.headers += &format!("{name}: {value}\r\n");
        self
    }

    /// The value of a cookie in the jar.
    pub fn cookie(&self, name: &str) -> Option<&str> {
        self.cookies.get(name).map(String::as_str)
    }

    /// Puts a cookie into the jar.
    pub fn set_cookie(&mut self, name: &str, value: &str) {
        self.cookies.insert(name.to_owned(), value.to_owned());
    }

    /// Fetches a path.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Response {
        self.send("GET", path, "").unwrap_or_else(|error| panic!("GET {}{path}: {error}", self.authority))
    }

    /// Sends a body to a path.
    #[track_caller]
    pub fn post(&mut self, path: &str, body: &str) -> Response {
        self.send("POST", path, body).unwrap_or_else(|error| panic!("POST {}{path}: {error}", self.authority))
    }

    /// Sends any request.
    ///
    /// # Errors
    /// When the server does not answer, or not in HTTP.
    pub fn send(&mut self, method: &str, path: &str, body: &str) -> Result<Response> {
        let Browser { authority, headers, cookies } = self;
        let cookies: Vec<String> = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookies = match cookies.is_empty() {
            true => String::new(),
            false => format!("Cookie: {}\r\n", cookies.join("; ")),
        };
        let length = match body.is_empty() {
            true => String::new(),
            false => format!("Content-Length: {}\r\n", body.len()),
        };
        let mut stream = TcpStream::connect(&*authority)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n{headers}{cookies}{length}\r\n{body}"
        )?;
        let response = read(&mut BufReader::new(stream))?;
        for (_, set) in response.headers.iter().filter(|(name, _)| name == "set-cookie") {
            self.keep(set);
        }
        Ok(response)
    }

    fn keep(&mut self, set: &str) {
        let (pair, attributes) = set.split_once(';').unwrap_or((set, ""));
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        // How PHP removes a cookie.
        match attributes.to_ascii_lowercase().contains("max-age=0") {
            true => drop(self.cookies.remove(name)),
            false => self.set_cookie(name, value),
        }
    }
}

impl Response {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

pub(crate) fn read(answer: &mut impl BufRead) -> Result<Response> {
    let status_line = line(answer)?;
    let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| Error::other(format!("not a status line: {status_line:?}")))?;
    let mut headers = Vec::new();
    loop {
        let line = line(answer)?;
        match line.split_once(':') {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.trim().to_owned())),
            None => break,
        }
    }
    let mut response = Response { status, headers, body: String::new() };
    let mut body = Vec::new();
    let length = response.header("content-length").and_then(|length| length.parse::<u64>().ok());
    match (response.header("transfer-encoding"), length) {
        (Some("chunked"), _) => loop {
            let size = line(answer)?;
            let size = u64::from_str_radix(&size, 16).map_err(Error::other)?;
            answer.take(size).read_to_end(&mut body)?;
            line(answer)?;
            if size == 0 {
                break;
            }
        },
        (_, Some(length)) => drop(answer.take(length).read_to_end(&mut body)?),
        _ => drop(answer.read_to_end(&mut body)?),
    }
    response.body = String::from_utf8(body).map_err(Error::other)?;
    Ok(response)
}

fn line(answer: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    match answer.read_line(&mut line)? {
        0 => Err(Error::other("the server hung up")),
        _ => Ok(line.trim_end().to_owned()),
    }
}
