//! What a new connection begins with: which protocol the server speaks, and who we are.
//!
//! Which it is, is found out once for each server: `mn` (a meta command that does nothing) where there is no user, and where
//! there is one SASL's list of mechanisms, which is the first step of logging in as well. Neither may be left without an
//! answer: a server of the binary protocol waits for 24 bytes before it sees that these are none of its packets, so that `mn`
//! is as long; a server with ASCII authentication waits for the end of a line, so that the packet has one in it.

use super::super::options::{Credentials, Protocol};
use super::binary::{self, Opcode, status};
use super::link::{Link, foreign};
use super::{Failure, ascii, is_refusal};
use crate::{Deadline, Error, ErrorKind};

/// How to speak to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speech {
    Ascii,
    Meta,
    Binary,
}

/// How a server learns who we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Login {
    /// It does not ask.
    None,
    /// By an item that is stored before anything else (`-Y`).
    Ascii,
    /// By the mechanism PLAIN (`-S`).
    Sasl,
}

/// What was found out about a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dialect {
    pub(super) speech: Speech,
    pub(super) login: Login,
}

/// The beginning of a connection.
pub(super) struct Introduction<'a> {
    pub(super) protocol: Protocol,
    pub(super) credentials: Option<&'a Credentials>,
    /// Opens one more connection.
    pub(super) dial: &'a mut dyn FnMut() -> Result<Link, Failure>,
    /// Until when each answer must have come.
    pub(super) by: &'a dyn Fn() -> Deadline,
    /// Whether the server had no room for the connection.
    pub(super) turned_away: bool,
}

/// Long enough for a server of the binary protocol to see that it is none.
const MN: &[u8] = b"mn                      \r\n";

/// The opaque of a packet whose text a server of the other protocols can see the end of.
const LINE_END: u32 = u32::from_be_bytes(*b"\r\n\r\n");

/// More than any mechanism of one step asks for.
const STEPS: usize = 4;

impl Introduction<'_> {
    /// A connection that is ready for use.
    pub(super) fn make(&mut self, known: Option<Dialect>) -> Result<(Link, Dialect), Failure> {
        let configured = match (self.protocol, self.credentials) {
            (Protocol::Ascii, None) => Some(Speech::Ascii),
            (Protocol::Meta, None) => Some(Speech::Meta),
            (Protocol::Binary, None) => Some(Speech::Binary),
            _ => None,
        };
        let configured = configured.map(|speech| Dialect { speech, login: Login::None });
        match (known.or(configured), self.protocol) {
            (Some(dialect), _) => {
                let mut link = self.dial()?;
                self.log_in(&mut link, dialect.login)?;
                Ok(speaking(link, dialect))
            }
            (None, Protocol::Auto) if self.credentials.is_none() => self.without_user(),
            (None, Protocol::Auto | Protocol::Binary) => self.with_user(),
            (None, Protocol::Ascii) => self.in_text(Some(Speech::Ascii)),
            (None, Protocol::Meta) => self.in_text(Some(Speech::Meta)),
        }
    }

    fn without_user(&mut self) -> Result<(Link, Dialect), Failure> {
        match self.in_text(None) {
            // So does a server of the binary protocol alone, and a proxy that knows the classic commands alone.
            Err(Failure::Cut(_)) => {}
            found => return found,
        }
        let mut link = self.dial()?;
        match self.mechanisms(&mut link) {
            Ok(Said::Packet(packet)) if packet.status == status::UNKNOWN => {
                Ok(speaking(link, Dialect { speech: Speech::Binary, login: Login::None }))
            }
            Ok(Said::Packet(_)) => Err(Failure::Failed(user_wanted())),
            Ok(Said::Line) | Err(Failure::Cut(_)) => {
                Ok(speaking(self.dial()?, Dialect { speech: Speech::Ascii, login: Login::None }))
            }
            Err(failure) => Err(failure),
        }
    }

    fn with_user(&mut self) -> Result<(Link, Dialect), Failure> {
        let mut link = self.dial()?;
        match self.mechanisms(&mut link)? {
            Said::Packet(packet) => {
                let sasl = Dialect { speech: Speech::Binary, login: Login::Sasl };
                let listed = String::from_utf8_lossy(&packet.value).into_owned();
                if packet.status == status::DONE && !listed.split(' ').any(|mechanism| mechanism == "PLAIN") {
                    let error = Error::new(
                        ErrorKind::Auth,
                        format!("the server takes no password by PLAIN, but by {listed}"),
                    );
                    return Err(Failure::Failed(
                        error.hint("add plain to the mech_list of its SASL settings"),
                    ));
                }
                if packet.status != status::UNKNOWN {
                    self.log_in(&mut link, sasl.login)?;
                }
                Ok(speaking(link, sasl))
            }
            Said::Line if self.protocol == Protocol::Binary => Err(Failure::Failed(
                Error::new(ErrorKind::Config, "the server does not speak the binary protocol")
                    .hint("leave protocol=binary out, or start the server without -Y and -B ascii"),
            )),
            Said::Line => self.in_text(None),
        }
    }

    /// In one of the protocols of text, which is found out if it is not said; as the user where the server asks for one.
    fn in_text(&mut self, speech: Option<Speech>) -> Result<(Link, Dialect), Failure> {
        let mut link = self.dial()?;
        let mut said = self.mn(&mut link)?;
        let mut login = Login::None;
        if wants_user(&said) {
            login = Login::Ascii;
            self.log_in(&mut link, login)?;
            said = self.mn(&mut link)?;
        }
        let found = match said.as_str() {
            "MN" => Speech::Meta,
            said if is_refusal(said) => Speech::Ascii,
            said => return Err(foreign(said)),
        };
        Ok(speaking(link, Dialect { speech: speech.unwrap_or(found), login }))
    }

    fn log_in(&mut self, link: &mut Link, login: Login) -> Result<(), Failure> {
        let Some(credentials) = self.credentials else {
            return if login == Login::None { Ok(()) } else { Err(Failure::Failed(user_wanted())) };
        };
        let (user, password) = (credentials.user.as_bytes(), credentials.password.reveal().as_bytes());
        match login {
            Login::None => Ok(()),
            Login::Ascii => {
                let both = [user, password].join(&b' ');
                // To a server that asks nobody for a name, this is an item as any other: it ends at once.
                let mut request = format!("set auth 0 {} {}\r\n", ascii::AT_ONCE, both.len()).into_bytes();
                request.extend_from_slice(&both);
                request.extend_from_slice(b"\r\n");
                match self.text(link, &request)?.as_str() {
                    "STORED" => Ok(()),
                    said if is_refusal(said) => Err(Failure::Failed(user_refused(said))),
                    said => Err(foreign(said)),
                }
            }
            Login::Sasl => {
                // As libmemcached has it: who is asked for, who asks, and the password.
                let mut secret = [user, user, password].join(&0);
                let mut opcode = Opcode::SaslAuth;
                for _ in 0..STEPS {
                    let mut request = Vec::new();
                    binary::packet(&mut request, opcode, b"PLAIN", &[], &secret, 0, LINE_END);
                    let packet = self.packet(link, &request)?;
                    match packet.status {
                        // A server that knows no SASL asks nobody for a name.
                        status::DONE | status::UNKNOWN => return Ok(()),
                        status::CONTINUE => (opcode, secret) = (Opcode::SaslStep, Vec::new()),
                        _ => {
                            let said = String::from_utf8_lossy(&packet.value).into_owned();
                            return Err(Failure::Failed(user_refused(said.trim_end_matches('.'))));
                        }
                    }
                }
                Err(Failure::Failed(user_refused("it asks for ever more")))
            }
        }
    }

    /// A meta command that does nothing.
    fn mn(&mut self, link: &mut Link) -> Result<String, Failure> {
        self.text(link, MN)
    }

    fn text(&mut self, link: &mut Link, request: &[u8]) -> Result<String, Failure> {
        let by = (self.by)();
        let said = link.send(request, by).and_then(|()| link.line(by));
        self.turned_away |= link.turned_away;
        said
    }

    /// Asks for SASL's mechanisms.
    fn mechanisms(&mut self, link: &mut Link) -> Result<Said, Failure> {
        let by = (self.by)();
        let mut request = Vec::new();
        binary::packet(&mut request, Opcode::SaslList, &[], &[], &[], 0, LINE_END);
        let said = link.send(&request, by).and_then(|()| match link.peek(by)? {
            binary::RESPONSE => Ok(Said::Packet(binary::receive(link, by)?)),
            _ => {
                let line = link.line(by)?;
                if is_refusal(&line) { Ok(Said::Line) } else { Err(foreign(&line)) }
            }
        });
        self.turned_away |= link.turned_away;
        said
    }

    fn packet(&mut self, link: &mut Link, request: &[u8]) -> Result<binary::Packet, Failure> {
        let by = (self.by)();
        let said = link.send(request, by).and_then(|()| binary::receive(link, by));
        self.turned_away |= link.turned_away;
        said
    }

    fn dial(&mut self) -> Result<Link, Failure> {
        (self.dial)()
    }
}

/// How a server answers a packet.
enum Said {
    Packet(binary::Packet),
    /// In text: it does not speak the binary protocol.
    Line,
}

fn speaking(mut link: Link, dialect: Dialect) -> (Link, Dialect) {
    link.speech = dialect.speech;
    (link, dialect)
}

fn wants_user(said: &str) -> bool {
    said.starts_with("CLIENT_ERROR unauth")
}

/// Who asks is nobody.
pub(super) fn user_wanted() -> Error {
    Error::new(ErrorKind::Auth, "the server wants a user and a password")
        .hint("name them in session.save_path: memcached://user:password@host")
}

fn user_refused(said: &str) -> Error {
    Error::new(ErrorKind::Auth, format!("the server refused the user or the password ({said})"))
        .hint("check the user and the password in session.save_path")
}
