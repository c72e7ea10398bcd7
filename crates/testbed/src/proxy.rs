//! A TCP proxy that makes a network slow or broken, and counts what goes over it.
//!
//! An *exchange* is what a client sends in one go and the answer to it: client bytes that follow server bytes, or
//! the start of the connection, begin the next one. A client that awaits N answers makes N exchanges.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::thread::spawn;
use std::time::{Duration, Instant};

use nix::libc::linger;
use nix::sys::socket::{setsockopt, shutdown, sockopt::Linger};

use crate::{START, free_port, place};

/// A proxy in front of one server; it ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

/// How a cut ends a connection, on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With a reset, as a host or a firewall that has forgotten the connection.
    Reset,
    /// With an orderly close, as a server that shuts down.
    Close,
}

/// One exchange as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// Which connection it was on, counted from 0 since the proxy started.
    pub connection: usize,
    /// The client's bytes, as many as the proxy took.
    pub request: Vec<u8>,
    /// The server's bytes, as many as the proxy took.
    pub reply: Vec<u8>,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    delay: Duration,
    jitter: Duration,
    random: u64,
    stall: bool,
    hold_replies: bool,
    cut: Option<Cut>,
    ending: Ending,
    closing: bool,
    listener: Option<Arc<TcpListener>>,
    open: Vec<Open>,
    accepted: usize,
    /// How often the counts were reset.
    generation: usize,
    connections: usize,
    exchanges: usize,
    recorded: Vec<Exchange>,
}

/// Where the next connection that gets there is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    RequestBytes(usize),
    ReplyBytes(usize),
    Request(usize),
    Reply(usize),
}

/// More than any test looks at; a load test must not fill the memory.
const RECORDED: usize = 20_000;

impl Proxy {
    /// In front of `host:port`.
    pub fn to(address: impl Into<String>) -> Proxy {
        let port = free_port();
        let shared = Arc::new(Shared {
            upstream: address.into(),
            state: Mutex::new(State {
                delay: Duration::ZERO,
                jitter: Duration::ZERO,
                random: 0x9E37_79B9_7F4A_7C15,
                stall: false,
                hold_replies: false,
                cut: None,
                ending: Ending::Reset,
                closing: false,
                listener: None,
                open: Vec::new(),
                accepted: 0,
                generation: 0,
                connections: 0,
                exchanges: 0,
                recorded: Vec::new(),
            }),
            changed: Condvar::new(),
        });
        let proxy = Proxy { port, shared };
        proxy.refuse(false);
        proxy
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Delays what goes through, in each direction, by `base` and a random part of `jitter`. Order is kept, and
    /// so is bandwidth: as a long cable does, not as a slow server.
    pub fn delay(&self, base: Duration, jitter: Duration) {
        let mut state = self.shared.lock();
        (state.delay, state.jitter) = (base, jitter);
    }

    /// Cuts the connection on which exactly `bytes` more bytes of clients have reached the server.
    pub fn cut_after_request(&self, bytes: usize) {
        self.shared.lock().cut = Some(Cut::RequestBytes(bytes));
    }

    /// Cuts the connection on which exactly `bytes` more bytes of the server have reached clients.
    pub fn cut_after_reply(&self, bytes: usize) {
        self.shared.lock().cut = Some(Cut::ReplyBytes(bytes));
    }

    /// Cuts the connection instead of passing on the `nth` request from now (1 is the next): the server never
    /// sees it.
    pub fn cut_at_request(&self, nth: usize) {
        assert!(nth > 0, "requests are counted from 1");
        self.shared.lock().cut = Some(Cut::Request(nth));
    }

    /// Cuts the connection instead of passing on the `nth` reply from now (1 is the next): the server has done
    /// what it was asked for, and the client never learns it.
    pub fn cut_at_reply(&self, nth: usize) {
        assert!(nth > 0, "replies are counted from 1");
        self.shared.lock().cut = Some(Cut::Reply(nth));
    }

    /// Whether a cut that was asked for is still to come.
    pub fn cut_pending(&self) -> bool {
        self.shared.lock().cut.is_some()
    }

    /// How cuts end a connection; a reset unless said otherwise.
    pub fn ending(&self, ending: Ending) {
        self.shared.lock().ending = ending;
    }

    /// Cuts all connections that are open now, and waits until that was done; what is still on its way over them is lost.
    #[track_caller]
    pub fn cut_now(&self) {
        for open in self.end_all() {
            let ended = open.gone.recv_timeout(START);
            assert_eq!(ended, Err(RecvTimeoutError::Disconnected), "a connection is not cut after {START:?}");
        }
    }

    fn end_all(&self) -> Vec<Open> {
        let mut state = self.shared.lock();
        let (ending, open) = (state.ending, std::mem::take(&mut state.open));
        for connection in open.iter().filter_map(|open| open.connection.upgrade()) {
            connection.end(ending);
        }
        drop(state);
        self.shared.changed.notify_all();
        open
    }

    /// Refuses new connections (connection refused), or takes them again. Open ones live on.
    pub fn refuse(&self, refuse: bool) {
        let mut state = self.shared.lock();
        if let Some(listener) = state.listener.take() {
            // The accepting thread holds it too, and sees this as an error.
            let _ = shutdown(listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        }
        if !refuse {
            let listener = Arc::new(place::listen(self.port));
            state.listener = Some(Arc::clone(&listener));
            let shared = Arc::clone(&self.shared);
            spawn(move || accept(&shared, &listener));
        }
    }

    /// Holds back all bytes, in both directions, or lets them go on. Connections are still accepted.
    pub fn stall(&self, stall: bool) {
        self.shared.lock().stall = stall;
        self.shared.changed.notify_all();
    }

    /// Holds back what the server says, or lets it go on. What clients say goes through.
    pub fn hold_replies(&self, hold: bool) {
        self.shared.lock().hold_replies = hold;
        self.shared.changed.notify_all();
    }

    /// Awaited exchanges since the start or [`Proxy::reset_counts`].
    pub fn exchanges(&self) -> usize {
        self.shared.lock().exchanges
    }

    /// Connections accepted since then.
    pub fn connections(&self) -> usize {
        self.shared.lock().connections
    }

    /// Connections that are open now.
    pub fn open_connections(&self) -> usize {
        let state = self.shared.lock();
        let open = state.open.iter().filter_map(|open| open.connection.upgrade());
        open.filter(|connection| !connection.ended.load(Ordering::SeqCst)).count()
    }

    /// Counts from 0 again and forgets what was recorded.
    pub fn reset_counts(&self) {
        let mut state = self.shared.lock();
        (state.exchanges, state.connections) = (0, 0);
        state.generation += 1;
        state.recorded.clear();
    }

    /// What was seen since then, in the order in which the exchanges began.
    pub fn recorded(&self) -> Vec<Exchange> {
        self.shared.lock().recorded.clone()
    }

    /// The requests of that.
    pub fn requests(&self) -> Vec<Vec<u8>> {
        self.shared.lock().recorded.iter().map(|exchange| exchange.request.clone()).collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.refuse(true);
        self.end_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl State {
    /// When bytes that arrive now are to go on.
    fn due(&mut self) -> Instant {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let part = (self.random >> 32) as u32;
        Instant::now() + self.delay + self.jitter.mul_f64(f64::from(part) / f64::from(u32::MAX))
    }

    /// Counts and records `bytes`, and answers how many of them may pass before the connection is cut.
    fn admit(&mut self, connection: &Connection, direction: Direction, bytes: &[u8]) -> Option<usize> {
        let mut flow = connection.flow.lock().unwrap();
        let turned = flow.last != direction;
        flow.last = direction;
        if turned && direction == Direction::Request {
            self.exchanges += 1;
            flow.exchange = (self.generation, self.recorded.len());
            if self.recorded.len() < RECORDED {
                let (request, reply) = (Vec::new(), Vec::new());
                self.recorded.push(Exchange { connection: connection.number, request, reply });
            }
        }
        let (generation, index) = flow.exchange;
        if let Some(exchange) = self.recorded.get_mut(index).filter(|_| generation == self.generation) {
            match direction {
                Direction::Request => exchange.request.extend(bytes),
                Direction::Reply => exchange.reply.extend(bytes),
            }
        }
        let pass = match (&mut self.cut, direction) {
            (Some(Cut::RequestBytes(left)), Direction::Request)
            | (Some(Cut::ReplyBytes(left)), Direction::Reply) => {
                let pass = (*left).min(bytes.len());
                *left -= pass;
                (*left == 0).then_some(pass)
            }
            (Some(Cut::Request(left)), Direction::Request) | (Some(Cut::Reply(left)), Direction::Reply)
                if turned =>
            {
                *left -= 1;
                (*left == 0).then_some(0)
            }
            _ => None,
        };
        if pass.is_some() {
            self.cut = None;
        }
        pass
    }
}

#[derive(Debug)]
struct Connection {
    number: usize,
    client: TcpStream,
    server: TcpStream,
    flow: Mutex<Flow>,
    ended: AtomicBool,
    /// Dropped last: who waits for its end then finds the sockets closed.
    _gone: Sender<()>,
}

#[derive(Debug)]
struct Open {
    connection: Weak<Connection>,
    /// Disconnected once the connection's sockets are closed.
    gone: Receiver<()>,
}

#[derive(Debug)]
struct Flow {
    last: Direction,
    /// The generation and index of the exchange that bytes belong to now.
    exchange: (usize, usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Reply,
}

impl Connection {
    fn end(&self, ending: Ending) {
        self.ended.store(true, Ordering::SeqCst);
        for stream in [&self.client, &self.server] {
            match ending {
                Ending::Close => drop(stream.shutdown(Shutdown::Both)),
                // The reset goes out when the last of our threads drops the connection; this wakes them up
                // without sending anything.
                Ending::Reset => {
                    let _ = setsockopt(stream, Linger, &linger { l_onoff: 1, l_linger: 0 });
                    let _ = stream.shutdown(Shutdown::Read);
                }
            }
        }
    }
}

/// What a reading thread hands to the writing one of its direction.
enum Step {
    Bytes(Vec<u8>),
    Finished,
    End(Ending),
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    while let Ok((client, _)) = listener.accept() {
        let upstream = TcpStream::connect(&shared.upstream);
        let mut state = shared.lock();
        state.connections += 1;
        state.accepted += 1;
        let Ok(server) = upstream else {
            // The server is down: dropped with linger 0, the client gets a reset.
            let _ = setsockopt(&client, Linger, &linger { l_onoff: 1, l_linger: 0 });
            continue;
        };
        if state.closing {
            return;
        }
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
        }
        let (_gone, gone) = channel();
        let connection = Arc::new(Connection {
            number: state.accepted - 1,
            client,
            server,
            flow: Mutex::new(Flow { last: Direction::Reply, exchange: (0, usize::MAX) }),
            ended: AtomicBool::new(false),
            _gone,
        });
        state.open.retain(|open| open.connection.strong_count() > 0);
        state.open.push(Open { connection: Arc::downgrade(&connection), gone });
        for direction in [Direction::Request, Direction::Reply] {
            let (sender, receiver) = channel();
            let (to_read, to_write) = (Arc::clone(&connection), Arc::clone(&connection));
            let (of_reader, of_writer) = (Arc::clone(shared), Arc::clone(shared));
            spawn(move || read(&of_reader, &to_read, direction, &sender));
            spawn(move || write(&of_writer, &to_write, direction, &receiver));
        }
    }
}

fn read(shared: &Shared, connection: &Connection, direction: Direction, sender: &Sender<(Instant, Step)>) {
    let mut from = match direction {
        Direction::Request => &connection.client,
        Direction::Reply => &connection.server,
    };
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut buffer);
        let mut state = shared.lock();
        let due = state.due();
        let step = match read {
            _ if connection.ended.load(Ordering::SeqCst) => return,
            Ok(0) => Step::Finished,
            Err(_) => Step::End(Ending::Reset),
            Ok(length) => {
                let bytes = &buffer[..length];
                if let Some(pass) = state.admit(connection, direction, bytes) {
                    let _ = sender.send((due, Step::Bytes(bytes[..pass].to_vec())));
                    let _ = sender.send((due, Step::End(state.ending)));
                    return;
                }
                Step::Bytes(bytes.to_vec())
            }
        };
        drop(state);
        let last = !matches!(step, Step::Bytes(_));
        if sender.send((due, step)).is_err() || last {
            return;
        }
    }
}

fn write(
    shared: &Shared,
    connection: &Connection,
    direction: Direction,
    receiver: &Receiver<(Instant, Step)>,
) {
    let mut to = match direction {
        Direction::Request => &connection.server,
        Direction::Reply => &connection.client,
    };
    // The kernel may prolong a sleep by 50 microseconds unless told otherwise: a tenth of a fast network's delay.
    let _ = std::fs::write(format!("/proc/{}/timerslack_ns", nix::unistd::gettid()), "1");
    for (due, step) in receiver {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let ended = || connection.ended.load(Ordering::SeqCst);
        let held = |state: &mut State| {
            !ended() && (state.stall || (state.hold_replies && direction == Direction::Reply))
        };
        drop(shared.changed.wait_while(shared.lock(), held).unwrap());
        if ended() {
            return;
        }
        match step {
            Step::Bytes(bytes) => {
                if to.write_all(&bytes).is_err() {
                    return;
                }
            }
            Step::Finished => drop(to.shutdown(Shutdown::Write)),
            Step::End(ending) => {
                // Who waits for leave to go on in the other direction sees it.
                let _state = shared.lock();
                connection.end(ending);
                shared.changed.notify_all();
            }
        }
    }
}
