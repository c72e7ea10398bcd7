//! Taking the lock: at once, in the queue, or by asking again and again.
//!
//! A waiter stands in `<key>_LOCK_QUEUE` and listens (BLPOP) at a key of its own; whoever releases the lock hands it,
//! together with the record, to the first waiter that is alive. Alive is who refreshed its mark,
//! `<key>_LOCK_WAIT_<digits>`: it ends soon after its worker died. A lock that was handed over has a short lease
//! until the renewal prolongs it, since its new holder may have died without anybody knowing.
//!
//! Nobody hands over a lock that a native handler held, or whose holder died: the first waiter asks for it.

use std::time::{Duration, Instant};

use redis::Value;

use super::keys::Keys;
use super::member::Member;
use super::milliseconds;
use super::reach::{Again, Attempts, Next, Reach};
use super::reply::{Refusal, unexpected};
use super::scripts::{ACQUIRE, Call, Scope, Turn};
use super::wire::{Failure, Opening, Request, number, one, sound, stored};
use crate::stores::pause::Pause;
use crate::stores::refused;
use crate::stores::token::Token;
use crate::{Deadline, Error, ErrorKind, Record, Result};

/// How many keys show whether a proxy spreads them: over two servers, all stay on one by chance once in 4096 times.
const ROUTES: u32 = 12;
/// How long a waiter listens before it shows that it is alive.
const SLICE: Duration = Duration::from_secs(1);
/// How long a waiter counts as alive after that.
const MARK: Duration = Duration::from_secs(2);
/// The lease of a lock that is handed over.
pub(super) const GRANT: Duration = Duration::from_secs(3);
/// How late a server may end a BLPOP: it looks at its clock ten times a second.
const LATE: Duration = Duration::from_millis(120);
/// How long workers queue at once, without trying the lock first, after they met others there.
const CROWDED: Duration = Duration::from_secs(2);
/// The same after a native handler was met, which no worker of ours must push aside in its gap.
const SHARED: Duration = Duration::from_secs(30);
/// How often the first waiter looks whether a gap is over, which the scripts leave for 22 ms: native handlers ask every
/// 20 ms.
const IN_GAP: Duration = Duration::from_micros(1500);

/// How often the first waiter asks in quick succession. A native handler in a loop leaves the lock free for a tenth of a
/// millisecond between two of its requests; meanwhile those behind the first do not ask at all.
const QUICK: u32 = 128;

/// How the lock's key is reached; what is not the usual is asked for again after a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// Nothing is known yet: the first exclusive open goes by the script, which makes some keys more, and deletes them in
    /// the same write as a client does: all of them are found, or a proxy spreads the keys over servers. A server without
    /// scripts is found out, too, before a lock is taken that could not be released.
    Unknown,
    /// Like any key.
    Direct,
    /// By scripts alone: a proxy sends the lock's key to another server than the session's.
    ByScript,
}

/// What the server was found to allow; what it refused is asked for again after a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Queueing {
    /// Queue and listen; `cuts` counts connections that ended while listening, until one did not.
    Listen { cuts: u8 },
    /// Stand in the queue, and ask whether it is one's turn: BLPOP is refused.
    Ask,
    /// No queue either: try the lock again and again.
    Try,
}

/// The lock, and the record under it.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) record: Option<Record>,
    /// How long the lock holds if nothing prolongs it.
    pub(super) lease: Duration,
}

/// What [`ACQUIRE`] answered.
enum Turned {
    Taken(Taken),
    Wait {
        place: u32,
        woken: Woken,
        ends: Option<Duration>,
    },
    Full(i64),
    Left,
    /// The server does not let us queue.
    NoQueue,
    /// The slot of a cluster is being moved: the queue is in two places.
    Moving,
}

/// Who tells a waiter that it is its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    /// Whoever has the lock.
    ByHolder,
    /// Nobody: the lock is free, or will be when the gap ends.
    Free,
    /// Nobody: a native handler has it.
    Foreign,
}

/// What a waiter heard.
enum Heard {
    Taken(Taken),
    /// To ask now.
    Nudge,
    Nothing,
}

impl Member {
    /// Takes the lock of `session`.
    pub(super) fn take(&mut self, keys: &Keys, token: &Token, wait: Duration, by: Deadline) -> Result<Taken> {
        let crowded = self.crowded_until.is_some_and(|until| Instant::now() < until);
        if self.route == Route::Direct && !crowded {
            if let Some(taken) = self.try_lock(keys, token, Again::No, by)? {
                return Ok(taken);
            }
            if wait.is_zero() {
                return Err(self.busy(wait));
            }
        }
        let started = Instant::now();
        let result = self.wait(keys, token, wait, Deadline::after(wait).min(by), by);
        if self.waited_in_line {
            self.waited_in_line = false;
            self.counted.waits += 1;
            self.counted.waited += started.elapsed();
        }
        result
    }

    /// The usual way: nobody is there. `again` says whether the lock may be ours already.
    fn try_lock(&mut self, keys: &Keys, token: &Token, again: Again, by: Deadline) -> Result<Option<Taken>> {
        let lease = milliseconds(self.settings.lease).to_string();
        let mut request =
            Request::of(&[b"SET", &keys.lock, token.as_bytes(), b"NX", b"PX", lease.as_bytes()])
                .and(&[b"GET", &keys.session]);
        let life = self.life_from_reading();
        if let Some(life) = &life {
            request = request.and(&[b"EXPIRE", &keys.session, life.as_bytes()]);
        }
        let commands = request.len();
        let mut attempts = Attempts::default();
        loop {
            // Perhaps the lock was taken. Then it is taken with our token, which the same question shows.
            if (again == Again::Yes || attempts.repeated() == Again::Yes) && request.len() == commands {
                request = request.and(&[b"GET", &keys.lock]);
            }
            let replies = self.reach.ask(keys, &request, Opening::WithRequest, by);
            let failure = match replies.and_then(|replies| self.tried(replies, commands, token)) {
                Ok(taken) => return Ok(taken),
                Err(failure) => failure,
            };
            if !self.reach.heal(&mut attempts, &failure, by) {
                return Err(attempts.repeated().about(self.reach.error(failure)));
            }
        }
    }

    /// What the replies say; behind so many, there may be one about who has the lock.
    fn tried(&self, replies: Vec<Value>, commands: usize, token: &Token) -> Result<Option<Taken>, Failure> {
        let mut replies = replies.into_iter();
        let (set, record) = (replies.next().unwrap_or_default(), replies.next().unwrap_or_default());
        let holder = replies.nth(commands - 2).unwrap_or_default();
        let taken = match sound(set)? {
            Value::Okay => true,
            Value::Nil => matches!(sound(holder)?, Value::BulkString(holder) if token.holds(&holder)),
            other => return Err(Failure::Failed(unexpected(&other))),
        };
        // A read that fails under the lock is an error of the whole; the caller releases.
        match taken {
            true => Ok(Some(Taken { record: stored(record)?.map(Record), lease: self.settings.lease })),
            false => Ok(None),
        }
    }

    fn wait(
        &mut self,
        keys: &Keys,
        token: &Token,
        wait: Duration,
        wait_by: Deadline,
        by: Deadline,
    ) -> Result<Taken> {
        let (mut asking, mut watching) = (Pause::new(token, 0), Pause::new(token, QUICK));
        while self.queueing != Queueing::Try {
            // It may be our own of before.
            self.release_again(keys, by);
            let (place, woken, ends) = match self.turn(keys, token, Turn::Join, by)? {
                Turned::Taken(taken) => return Ok(taken),
                Turned::Full(waiters) => {
                    return Err(refused::full(waiters).on(self.endpoint.shown.as_str()));
                }
                Turned::Wait { place, woken, ends } => (place, woken, ends),
                Turned::NoQueue => break,
                Turned::Moving => {
                    if let Some(taken) = self.try_lock(keys, token, Again::Yes, by)? {
                        self.leave_quietly(keys, token, by);
                        return Ok(taken);
                    }
                    self.waited_in_line = true;
                    let left = wait_by.remaining();
                    if left.is_zero() {
                        self.leave_quietly(keys, token, by.max(Deadline::after(LATE)));
                        return Err(self.busy(wait));
                    }
                    std::thread::sleep(asking.next(0).min(left));
                    continue;
                }
                Turned::Left => return Err(self.busy(wait)),
            };
            self.waited_in_line = true;
            self.crowd(CROWDED);
            let left = wait_by.remaining();
            if left.is_zero() {
                // A lock that is handed over in this moment is taken all the same.
                let grace = by.max(Deadline::after(LATE));
                return match self.turn(keys, token, Turn::Leave, grace)? {
                    Turned::Taken(taken) => Ok(taken),
                    Turned::Moving => {
                        let taken = self.try_lock(keys, token, Again::Yes, grace)?;
                        self.leave_quietly(keys, token, grace);
                        taken.ok_or_else(|| self.busy(wait))
                    }
                    _ => Err(self.busy(wait)),
                };
            }
            let listens = matches!(self.queueing, Queueing::Listen { .. });
            match woken {
                Woken::ByHolder if listens && left > LATE + LATE => {
                    let slice =
                        SLICE.min(left - LATE).min(ends.unwrap_or(SLICE).max(Duration::from_millis(10)));
                    match self.listen(keys, token, slice, by)? {
                        Heard::Taken(taken) => return Ok(taken),
                        Heard::Nudge => watching = Pause::new(token, QUICK),
                        Heard::Nothing => {}
                    }
                }
                Woken::ByHolder => std::thread::sleep(asking.next(place).min(left)),
                // Looked at now and then: a native handler that takes the lock ends the gap.
                Woken::Free => std::thread::sleep(ends.unwrap_or(IN_GAP).min(IN_GAP).min(left)),
                Woken::Foreign => self.watch(keys, token, &mut watching, wait_by, by)?,
            }
        }
        self.try_until(keys, token, wait, wait_by, by)
    }

    /// Tries to get the lock when a native handler lets it go. The next turn finds it taken, or shows that this waiter
    /// is alive.
    fn watch(
        &mut self,
        keys: &Keys,
        token: &Token,
        pause: &mut Pause,
        wait_by: Deadline,
        by: Deadline,
    ) -> Result<()> {
        let turn = wait_by.within(SLICE / 2);
        for _ in 0..64 {
            let next = pause.next(0).min(turn.remaining());
            if next.is_zero() {
                break;
            }
            std::thread::sleep(next);
            if self.route != Route::Direct || self.try_lock(keys, token, Again::No, by)?.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// Is no longer alive to those who hand over the lock: the queue itself cannot be reached as a whole.
    fn leave_quietly(&mut self, keys: &Keys, token: &Token, by: Deadline) {
        let mark = keys.beside(&format!("_WAIT_{}", token.digits()));
        // Refused or not: the mark ends by itself.
        let _ = self.reach.ask(keys, &Request::of(&[b"DEL", &mark]), Opening::Before, by);
    }

    /// Asks for the lock, or for a place in the queue.
    fn turn(&mut self, keys: &Keys, token: &Token, turn: Turn, by: Deadline) -> Result<Turned> {
        if let Some(refusal) = &self.without_scripts {
            return Err(self.no_scripts(&refusal.clone()));
        }
        let lease = milliseconds(self.settings.lease);
        let most = self.settings.max_waiters.map_or(0, std::num::NonZeroU32::get);
        let what = match turn {
            Turn::Join => "join",
            Turn::Leave => "leave",
        };
        let routes = match (self.route, &self.reach) {
            (Route::Unknown, Reach::Server(_)) => ROUTES,
            _ => 0,
        };
        let numbers = [lease, milliseconds(MARK), u64::from(most), u64::from(routes)].map(|n| n.to_string());
        let [lease, mark, most, count] = &numbers;
        let arguments = [
            token.as_bytes(),
            lease.as_bytes(),
            mark.as_bytes(),
            most.as_bytes(),
            what.as_bytes(),
            count.as_bytes(),
        ];
        let made: Vec<Vec<u8>> =
            (1..=routes).map(|number| keys.beside(&format!("_{number}_ROUTE"))).collect();
        let mut delete: Vec<&[u8]> = made.iter().map(Vec::as_slice).collect();
        if routes > 0 {
            delete.insert(0, b"DEL");
        }
        let call = Call { script: &ACQUIRE, keys, scope: Scope::Queue, arguments: &arguments };
        let next = if delete.is_empty() { Next::Nothing } else { Next::Command(&delete) };
        let answer =
            self.reach.insist(by, |reach| match reach.run_and(call, next, Opening::WithRequest, by) {
                Err(Failure::Refused(refusal)) if refusal.in_motion() => Ok(None),
                answers => answers.map(Some),
            });
        let (answer, found) = match answer {
            Ok((Some(answers), _)) => answers,
            Ok((None, _)) => return Ok(Turned::Moving),
            Err(Failure::Refused(refusal)) if refusal.about_scripts() => {
                let error = self.no_scripts(&refusal);
                self.without_scripts = Some(refusal);
                return Err(error);
            }
            Err(Failure::Refused(refusal)) if refusal.forbidden() => {
                self.queueing = Queueing::Try;
                return Ok(Turned::NoQueue);
            }
            Err(failure) => return Err(self.reach.error(failure)),
        };
        let turned = turned(answer, self.settings.lease).map_err(|failure| self.reach.error(failure))?;
        let (turned, shared) = turned;
        if self.route == Route::Unknown {
            self.route = match found {
                Some(Value::Int(found)) if found != i64::from(routes) => Route::ByScript,
                Some(Value::Int(_)) => Route::Direct,
                // Of a cluster, all keys of a session are in one slot.
                None => Route::Direct,
                Some(_) => Route::ByScript,
            };
        }
        if shared {
            self.crowd(SHARED);
        }
        Ok(turned)
    }

    /// Listens for the lock to be handed over.
    fn listen(&mut self, keys: &Keys, token: &Token, slice: Duration, by: Deadline) -> Result<Heard> {
        let grant = keys.beside(&format!("_GRANT_{}", token.digits()));
        let seconds = format!("{:.3}", slice.as_secs_f64());
        let request = Request::of(&[b"BLPOP", &grant, seconds.as_bytes()]);
        let answer = self.reach.ask_patiently(keys, &request, Opening::Before, slice, by).and_then(one);
        let heard = match answer {
            Ok(Value::Nil) => Heard::Nothing,
            Ok(Value::Array(mut pair)) if pair.len() == 2 => match pair.pop() {
                Some(Value::BulkString(mut said)) if !said.is_empty() => match said.remove(0) {
                    b'L' => Heard::Taken(Taken { record: Some(Record(said)), lease: self.grant() }),
                    b'N' => Heard::Taken(Taken { record: None, lease: self.grant() }),
                    _ => Heard::Nudge,
                },
                _ => return Err(unexpected(&Value::Array(pair)).on(self.endpoint.shown.as_str())),
            },
            Ok(other) => return Err(unexpected(&other).on(self.endpoint.shown.as_str())),
            Err(Failure::Refused(refusal)) if refusal.forbidden() => {
                self.queueing = Queueing::Ask;
                Heard::Nothing
            }
            Err(Failure::Cut(_)) if matches!(self.reach, Reach::Server(_)) => {
                // A proxy that does not know BLPOP hangs up: twice, and it is not asked again. A lock that was handed
                // over on the dead connection is found by the next turn.
                self.counted.retries += 1;
                self.queueing = match self.queueing {
                    Queueing::Listen { cuts: 0 } => Queueing::Listen { cuts: 1 },
                    Queueing::Listen { cuts: 1 } => Queueing::Ask,
                    _ => self.queueing.clone(),
                };
                return Ok(Heard::Nothing);
            }
            // The next turn finds a lock that was handed over meanwhile.
            Err(failure) => match self.reach.heal(&mut Attempts::default(), &failure, by) {
                true => return Ok(Heard::Nothing),
                false => return Err(self.reach.error(failure)),
            },
        };
        if let Queueing::Listen { cuts } = &mut self.queueing {
            // It works here: a cut from now on is a fault of the network.
            *cuts = u8::MAX;
        }
        Ok(heard)
    }

    /// Without a queue: whoever asks at the right moment gets the lock.
    fn try_until(
        &mut self,
        keys: &Keys,
        token: &Token,
        wait: Duration,
        wait_by: Deadline,
        by: Deadline,
    ) -> Result<Taken> {
        let mut pause = Pause::new(token, 0);
        let mut told = Again::No;
        loop {
            if let Some(taken) = self.try_lock(keys, token, Again::No, by)? {
                return Ok(taken);
            }
            self.waited_in_line = true;
            if told == Again::No {
                told = Again::Yes;
                // Workers that may queue hand the lock to each other: they are to leave gaps, as for a native handler.
                // Refused or not, the next try follows.
                let mark = keys.beside("_FOREIGN");
                let request = Request::of(&[b"SET", &mark, b"5", b"PX", b"60000"]);
                let _ = self.reach.ask(keys, &request, Opening::Before, by);
            }
            let left = wait_by.remaining();
            if left.is_zero() {
                return Err(self.busy(wait));
            }
            std::thread::sleep(pause.next(0).min(left));
        }
    }

    /// Goes to the queue at once for this long.
    pub(super) fn crowd(&mut self, long: Duration) {
        let until = Instant::now() + long;
        self.crowded_until = Some(self.crowded_until.map_or(until, |known| known.max(until)));
    }

    /// The lease of a lock that is handed over.
    pub(super) fn grant(&self) -> Duration {
        GRANT.min(self.settings.lease)
    }

    fn busy(&self, wait: Duration) -> Error {
        refused::busy(wait).on(self.endpoint.shown.as_str())
    }

    /// The error about a server that refuses scripts: without them, no write can be fenced.
    pub(super) fn no_scripts(&self, refusal: &Refusal) -> Error {
        Error::new(ErrorKind::Unsupported, "the server lets no script run, and locks need scripts")
            .source(refusal.error(false).to_string().lines().next().unwrap_or_default().to_owned())
            .hint("allow EVAL and EVALSHA to the server's user, or set cloakroom.lock=off and lose concurrent changes")
            .on(self.endpoint.shown.as_str())
    }
}

fn turned(answer: Value, lease: Duration) -> Result<(Turned, bool), Failure> {
    let Value::Array(items) = answer else {
        return Err(Failure::Failed(unexpected(&answer)));
    };
    let mut items = items.into_iter();
    let mut next = || items.next().unwrap_or_default();
    let mut shared = false;
    let turned = match number(next())? {
        0 => Turned::Left,
        1 => {
            let record = stored(next())?.map(Record);
            shared = number(next())? == 1;
            Turned::Taken(Taken { record, lease })
        }
        2 => {
            let place = u32::try_from(number(next())?).unwrap_or(u32::MAX);
            let woken = match number(next())? {
                0 => Woken::ByHolder,
                1 => Woken::Free,
                _ => Woken::Foreign,
            };
            let ends = u64::try_from(number(next())?).ok().map(Duration::from_millis);
            shared = number(next())? == 1;
            Turned::Wait { place, woken, ends }
        }
        _ => Turned::Full(number(next())?),
    };
    Ok((turned, shared))
}
