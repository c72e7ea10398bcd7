//! Connections: TCP, TLS and Unix sockets under one deadline.
//!
//! What goes over the wire is the caller's; here is when and how. An exchange costs one `send` and one `recv`: the
//! socket carries a receive timeout, and `poll` is asked only where less time than that is left. Signals (PHP's
//! timers, a graceful reload) interrupt any of these calls without ending them. A connection that failed once is
//! of no further use: what is still on its way would be taken for the answer to the next question.

mod tls;

use std::io::{self, ErrorKind as Io, IoSliceMut, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, setsockopt, sockopt};
use nix::sys::time::TimeVal;

use crate::{Deadline, Error, ErrorKind, Result};

pub(crate) use tls::{Identity, Tls, TlsOptions};
use tls::{certificate_wanted, wants_certificate};

/// What became of an exchange that this error ended: an error to tell, or a connection that was cut, which is worth
/// another attempt.
pub(crate) fn ended_by(error: io::Error) -> std::result::Result<Error, io::Error> {
    match error.kind() {
        Io::TimedOut => Ok(Error::new(ErrorKind::Timeout, "the server did not answer in time")
            .hint("see what keeps it busy, or raise cloakroom.timeout (read_timeout=, where session.save_path has it)")
            .maybe_applied()),
        _ if wants_certificate(&error) => Ok(certificate_wanted(error)),
        _ => Err(error),
    }
}

/// How long resolved addresses are used without asking again.
const ADDRESSES_KEPT: Duration = Duration::from_secs(30);

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// Opens connections to one server; it remembers the addresses of its name, and the TLS configuration.
#[derive(Debug)]
pub(crate) struct Dialer {
    address: Address,
    tls: Option<Arc<Tls>>,
    addresses: Mutex<Option<Resolved>>,
}

#[derive(Debug, Clone)]
struct Resolved {
    at: Instant,
    addresses: Vec<SocketAddr>,
}

impl Dialer {
    /// Dialers of several servers share one TLS configuration.
    pub(crate) fn new(address: Address, tls: Option<Arc<Tls>>) -> Self {
        Dialer { address, tls, addresses: Mutex::new(None) }
    }

    /// Connects, with the TLS handshake where there is one. Receiving blocks for `patience` at most before the time
    /// left is looked at again: the usual time limit of an exchange.
    pub(crate) fn dial(&self, patience: Duration, by: Deadline) -> Result<Conn> {
        let socket = match &self.address {
            Address::Tcp { host, port } => self.dial_tcp(host, *port, by)?,
            Address::Unix(path) => dial_unix(path, by)
                .map_err(|error| unreachable(format!("cannot connect to {}", path.display()), error))?,
        };
        let prepared = prepare(&socket, &self.address, patience);
        prepared.map_err(|errno| unreachable("cannot prepare the connection".into(), errno.into()))?;
        let mut conn = Conn { socket, patience, tls: None };
        if let (Some(tls), Address::Tcp { host, .. }) = (&self.tls, &self.address) {
            conn.tls = Some(Box::new(tls.shake_hands(&conn.socket, host, patience, by)?));
        }
        Ok(conn)
    }

    /// Asks for the addresses of the server's name again before the next connection.
    pub(crate) fn forget_addresses(&self) {
        *self.addresses.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn dial_tcp(&self, host: &str, port: u16, by: Deadline) -> Result<OwnedFd> {
        let addresses = self.addresses(host, port, by)?;
        let mut last = io::Error::from(Io::AddrNotAvailable);
        for (index, address) in addresses.iter().enumerate() {
            // A first address that swallows packets leaves time for the others.
            let share = by.remaining() / (addresses.len() - index) as u32;
            if share.is_zero() {
                last = Io::TimedOut.into();
                break;
            }
            match TcpStream::connect_timeout(address, share) {
                Ok(stream) => {
                    stream
                        .set_nodelay(true)
                        .map_err(|error| unreachable("cannot prepare the connection".into(), error))?;
                    self.prefer(*address);
                    return Ok(stream.into());
                }
                Err(error) => last = error,
            }
        }
        self.forget_addresses();
        Err(unreachable(format!("cannot connect to {host}:{port}"), last))
    }

    fn addresses(&self, host: &str, port: u16, by: Deadline) -> Result<Vec<SocketAddr>> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let known = self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(known) = known.filter(|known| known.at.elapsed() < ADDRESSES_KEPT) {
            return Ok(known.addresses);
        }
        let addresses = resolve(host, port, by)
            .map_err(|error| unreachable(format!("cannot find the address of {host}"), error))?;
        let resolved = Resolved { at: Instant::now(), addresses: addresses.clone() };
        *self.addresses.lock().unwrap_or_else(PoisonError::into_inner) = Some(resolved);
        Ok(addresses)
    }

    /// Tries this address first from now on.
    fn prefer(&self, address: SocketAddr) {
        if let Some(known) = self.addresses.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
            && let Some(index) = known.addresses.iter().position(|known| *known == address)
        {
            known.addresses[..=index].rotate_right(1);
        }
    }
}

fn unreachable(what: String, error: io::Error) -> Error {
    let kind = match error.kind() {
        Io::TimedOut | Io::WouldBlock => ErrorKind::Timeout,
        _ => ErrorKind::Unreachable,
    };
    let hint = match error.kind() {
        Io::TimedOut | Io::WouldBlock => {
            "check the address and the firewall, or raise cloakroom.connect_timeout (timeout=, where session.save_path has it)"
        }
        Io::PermissionDenied => "let the user that PHP runs as read and write the socket",
        _ => "check that the server runs and that session.save_path has its address",
    };
    Error::new(kind, what).source(error).hint(hint)
}

/// Asks the system's resolver. It has no time limit of its own, so it works in a thread that is left behind when it
/// takes too long; no signal is delivered there, PHP's handlers expect its own threads.
fn resolve(host: &str, port: u16, by: Deadline) -> io::Result<Vec<SocketAddr>> {
    let (sender, receiver) = mpsc::channel();
    let name = host.to_owned();
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let thread = std::thread::Builder::new().name("cloakroom-dns".into()).spawn(move || {
        let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        // Nobody listens any more when it took too long.
        let _ = sender.send(found);
    });
    mask.thread_set_mask()?;
    let thread = thread?;
    let found = match receiver.recv_timeout(by.remaining()) {
        Ok(found) => found?,
        Err(_) => return Err(Io::TimedOut.into()),
    };
    // It has sent its answer: this takes no time, and leaves no thread behind.
    let _ = thread.join();
    match found.is_empty() {
        true => Err(io::Error::new(Io::NotFound, "the name has no address")),
        false => Ok(found),
    }
}

/// Connects without blocking: a listener whose queue is full would block for as long as it likes.
fn dial_unix(path: &std::path::Path, by: Deadline) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let address = UnixAddr::new(path)?;
    loop {
        match socket::connect(socket.as_raw_fd(), &address) {
            Ok(()) => break,
            Err(Errno::EAGAIN) if !by.passed() => std::thread::sleep(Duration::from_millis(2)),
            Err(Errno::EAGAIN) => return Err(Io::TimedOut.into()),
            Err(errno) => return Err(errno.into()),
        }
    }
    let blocking = OFlag::from_bits_truncate(fcntl(&socket, FcntlArg::F_GETFL)?) - OFlag::O_NONBLOCK;
    fcntl(&socket, FcntlArg::F_SETFL(blocking))?;
    Ok(socket)
}

fn prepare(socket: &OwnedFd, address: &Address, patience: Duration) -> nix::Result<()> {
    let patience = patience.max(Duration::from_millis(1));
    setsockopt(
        socket,
        sockopt::ReceiveTimeout,
        &TimeVal::new(patience.as_secs() as _, patience.subsec_micros() as _),
    )?;
    if matches!(address, Address::Tcp { .. }) {
        // A peer that vanished behind a firewall is noticed between requests, not in one.
        setsockopt(socket, sockopt::KeepAlive, &true)?;
        #[cfg(target_os = "linux")]
        {
            setsockopt(socket, sockopt::TcpKeepIdle, &60)?;
            setsockopt(socket, sockopt::TcpKeepInterval, &10)?;
            setsockopt(socket, sockopt::TcpKeepCount, &3)?;
        }
    }
    Ok(())
}

/// An open connection; of no further use once a call of it has failed.
#[derive(Debug)]
pub(crate) struct Conn {
    socket: OwnedFd,
    patience: Duration,
    tls: Option<Box<rustls::ClientConnection>>,
}

impl Conn {
    /// Sends all of these bytes.
    pub(crate) fn send(&mut self, mut bytes: &[u8], by: Deadline) -> io::Result<()> {
        let mut wire = Wire { socket: &self.socket, patience: self.patience, by, slow: false };
        match &mut self.tls {
            None => wire.write_all(bytes),
            Some(tls) => {
                // The writer takes a limited number of bytes at once.
                while !bytes.is_empty() {
                    let taken = tls.writer().write(bytes)?;
                    bytes = &bytes[taken..];
                    while tls.wants_write() {
                        tls.write_tls(&mut wire)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Receives at least one byte; 0 means that the peer has closed the connection.
    pub(crate) fn receive(&mut self, buffer: &mut [u8], by: Deadline) -> io::Result<usize> {
        let mut wire = Wire { socket: &self.socket, patience: self.patience, by, slow: false };
        let Some(tls) = &mut self.tls else {
            return wire.read(buffer);
        };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == Io::WouldBlock => {}
                done => return done,
            }
            if tls.read_tls(&mut wire)? == 0 {
                return Ok(0);
            }
            tls.process_new_packets().map_err(|error| io::Error::new(Io::InvalidData, error))?;
            while tls.wants_write() {
                tls.write_tls(&mut wire)?;
            }
        }
    }

    /// Whether each [`send`](Self::send) begins a TLS record of its own.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether the connection still looks open, with nothing on it that nobody asked for. Costs one system call.
    pub(crate) fn is_quiet(&self) -> bool {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        match socket::recv(self.socket.as_raw_fd(), &mut [0], flags) {
            Err(Errno::EAGAIN | Errno::EINTR) => true,
            // TLS has messages of its own: tickets, key updates.
            Ok(1) => self.tls.is_some(),
            _ => false,
        }
    }
}

/// The socket under a deadline.
struct Wire<'a> {
    socket: &'a OwnedFd,
    patience: Duration,
    by: Deadline,
    /// Whether a call came back without having done its work: the time left must be kept to from now on.
    slow: bool,
}

impl Wire<'_> {
    fn wait(&mut self, events: PollFlags) -> io::Result<()> {
        self.slow = true;
        loop {
            let left = self.by.remaining();
            // What has come is not late, though this process may be, which stood still: it is looked for once more.
            if left.is_zero() && events != PollFlags::POLLIN {
                return Err(Io::TimedOut.into());
            }
            // Rounded up: poll counts in milliseconds, and a busy loop would spend the last one.
            let limit = PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.socket.as_fd(), events)], limit) {
                Ok(0) if left.is_zero() => return Err(Io::TimedOut.into()),
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            // The socket's own timeout may end a little after the deadline; poll keeps to it exactly.
            let covered = self.by.remaining() + Duration::from_millis(20) >= self.patience;
            if self.slow || !covered {
                self.wait(PollFlags::POLLIN)?;
            }
            match socket::recv(self.socket.as_raw_fd(), buffer, MsgFlags::empty()) {
                Ok(read) => {
                    // The next read is of the same answer, and shares its deadline.
                    self.slow = true;
                    return Ok(read);
                }
                Err(Errno::EINTR | Errno::EAGAIN) => self.slow = true,
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match buffers.iter_mut().find(|buffer| !buffer.is_empty()) {
            Some(buffer) => self.read(buffer),
            None => Ok(0),
        }
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            // No SIGPIPE: PHP leaves it deadly.
            let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
            match socket::send(self.socket.as_raw_fd(), bytes, flags) {
                Ok(written) => return Ok(written),
                Err(Errno::EAGAIN) => self.wait(PollFlags::POLLOUT)?,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
