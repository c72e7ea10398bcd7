//! How the server that has a session is reached, and found again.

use std::time::Duration;

use redis::Value;

use super::cluster::{Asking, Cluster};
use super::keys::Keys;
use super::scripts::{By, Call, Scope};
use super::sentinel::Sentinel;
use super::wire::{Client, Failure, Opening, Request, sound};
use crate::{Counters, Deadline, Error, Result};

/// The way to a server, or to those that share the sessions.
#[derive(Debug)]
pub(super) enum Reach {
    /// One server at one address.
    Server(Client),
    /// The server that sentinels name.
    Sentinel(Sentinel),
    /// The nodes of a cluster.
    Cluster(Cluster),
}

/// What became of an operation's attempts so far.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// Those whose connection ended before the answer.
    cuts: u32,
    /// Those that were followed by another.
    repeated: u32,
}

impl Attempts {
    /// Whether an earlier attempt may have been carried out.
    pub(super) fn again(&self) -> Again {
        match self.cuts {
            0 => Again::No,
            _ => Again::Yes,
        }
    }

    /// Whether there was an earlier attempt at all: some part of it may have been carried out.
    pub(super) fn repeated(&self) -> Again {
        match self.cuts + self.repeated {
            0 => Again::No,
            _ => Again::Yes,
        }
    }

    /// How many attempts were followed by another.
    pub(super) fn count(&self) -> u32 {
        self.repeated
    }

    /// Lets a moment pass before the next attempt, unless it is the second; the answer is false when time is up.
    pub(super) fn pause(&mut self, by: Deadline) -> bool {
        const PAUSES: [u64; 6] = [0, 1, 2, 5, 10, 20];
        // With less time, an attempt would only hide why the one before it failed.
        const ENOUGH: Duration = Duration::from_millis(5);
        let pause = PAUSES.get(self.repeated as usize).or(PAUSES.last()).copied().unwrap_or_default();
        let pause = Duration::from_millis(pause);
        self.repeated += 1;
        if by.remaining() <= pause + ENOUGH {
            return false;
        }
        std::thread::sleep(pause);
        by.remaining() >= ENOUGH
    }
}

/// Whether an exchange had to be repeated that may have been carried out the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    Yes,
    No,
}

/// What goes out in one write with a script.
#[derive(Debug, Clone, Copy)]
pub(super) enum Next<'a> {
    Nothing,
    /// A command of its own.
    Command(&'a [&'a [u8]]),
    /// A command about what the script did: it goes wherever the script goes.
    About(&'a [&'a [u8]]),
}

impl Next<'_> {
    pub(super) fn push_to(self, request: &mut Request) {
        match self {
            Next::Nothing => {}
            Next::Command(command) => request.push(command, &[]),
            Next::About(command) => request.push_about(command),
        }
    }
}

impl Again {
    /// The error, with the outcome unknown where it is.
    pub(super) fn about(self, error: Error) -> Error {
        match self {
            Again::Yes => error.maybe_applied(),
            Again::No => error,
        }
    }
}

impl Reach {
    /// The names of the session's keys.
    pub(super) fn keys(&self, session: Vec<u8>) -> Keys {
        match self {
            Reach::Server(_) | Reach::Sentinel(_) => Keys::plain(session),
            Reach::Cluster(_) => Keys::in_cluster(session),
        }
    }

    /// Another way to the same servers, for another thread.
    pub(super) fn another(&self) -> Reach {
        match self {
            Reach::Server(client) => Reach::Server(client.another()),
            Reach::Sentinel(sentinel) => Reach::Sentinel(sentinel.another()),
            Reach::Cluster(cluster) => Reach::Cluster(cluster.another()),
        }
    }

    /// Every server that has sessions: together they have all of them.
    pub(super) fn servers(&mut self, by: Deadline) -> Result<Vec<&mut Client>> {
        match self {
            Reach::Server(client) => Ok(vec![client]),
            Reach::Sentinel(sentinel) => sentinel.servers(by),
            Reach::Cluster(cluster) => cluster.masters(by),
        }
    }

    /// Those of them that have been asked something.
    pub(super) fn known(&mut self) -> Vec<&mut Client> {
        match self {
            Reach::Server(client) => vec![client],
            Reach::Sentinel(sentinel) => sentinel.known_mut().into_iter().collect(),
            Reach::Cluster(cluster) => cluster.known(),
        }
    }

    /// What was done over it.
    pub(super) fn counters(&self) -> Counters {
        match self {
            Reach::Server(client) => client.counters(),
            Reach::Sentinel(sentinel) => sentinel.counters(),
            Reach::Cluster(cluster) => cluster.counters(),
        }
    }

    /// How often a server was lost that another one may have taken over from since.
    pub(super) fn losses(&self) -> u64 {
        match self {
            Reach::Server(_) => 0,
            Reach::Sentinel(sentinel) => sentinel.losses(),
            Reach::Cluster(cluster) => cluster.losses(),
        }
    }

    /// One exchange about a session, within the time limit of one.
    pub(super) fn ask(
        &mut self,
        keys: &Keys,
        request: &Request,
        opening: Opening,
        by: Deadline,
    ) -> Result<Vec<Value>, Failure> {
        self.ask_there(keys, request, opening, Asking::Follow, Duration::ZERO, by)
    }

    /// One exchange that the server may take this much longer to answer. While the slot of a cluster is moved, it is
    /// refused: who waits would wait at the wrong place.
    pub(super) fn ask_patiently(
        &mut self,
        keys: &Keys,
        request: &Request,
        opening: Opening,
        longer: Duration,
        by: Deadline,
    ) -> Result<Vec<Value>, Failure> {
        self.ask_there(keys, request, opening, Asking::Refuse, longer, by)
    }

    fn ask_there(
        &mut self,
        keys: &Keys,
        request: &Request,
        opening: Opening,
        asking: Asking,
        longer: Duration,
        by: Deadline,
    ) -> Result<Vec<Value>, Failure> {
        match self {
            Reach::Server(client) => client.ask_patiently(request, opening, longer, by),
            Reach::Sentinel(sentinel) => sentinel.ask_patiently(request, opening, longer, by),
            Reach::Cluster(cluster) => cluster.ask_patiently(keys, request, opening, asking, longer, by),
        }
    }

    /// Whether another attempt makes sense after this failure; everything is ready for it then.
    pub(super) fn heal(&mut self, attempts: &mut Attempts, failure: &Failure, by: Deadline) -> bool {
        if let Failure::Cut(_) = failure {
            attempts.cuts += 1;
        }
        match self {
            // Once: a connection may have died while it was idle.
            Reach::Server(client) => {
                let again = matches!(failure, Failure::Cut(_)) && attempts.cuts == 1;
                if again {
                    client.count_retry();
                }
                again
            }
            Reach::Sentinel(sentinel) => sentinel.heal(attempts, failure, by),
            Reach::Cluster(cluster) => cluster.heal(attempts, failure, by),
        }
    }

    /// Drops connections that died while they were idle: what is sent next is then known not to be lost with them.
    pub(super) fn look_alive(&mut self, keys: &Keys) {
        match self {
            Reach::Server(client) => client.look_alive(),
            Reach::Sentinel(sentinel) => sentinel.look_alive(),
            Reach::Cluster(cluster) => cluster.look_alive(keys),
        }
    }

    /// Leaves connections alone that another process opened: a forked child has copies of its parent's.
    pub(super) fn look_around(&mut self) {
        match self {
            Reach::Server(client) => client.look_around(),
            Reach::Sentinel(sentinel) => sentinel.look_around(),
            Reach::Cluster(cluster) => cluster.look_around(),
        }
    }

    /// Ends a request; see [`Client::rest`].
    pub(super) fn rest(&mut self, by: Deadline) {
        match self {
            Reach::Server(client) => client.rest(by),
            Reach::Sentinel(sentinel) => sentinel.rest(by),
            Reach::Cluster(cluster) => cluster.rest(by),
        }
    }

    /// The failure as the user's error.
    pub(super) fn error(&self, failure: Failure) -> Error {
        match self {
            Reach::Server(client) => client.error(failure),
            Reach::Sentinel(sentinel) => sentinel.error(failure),
            Reach::Cluster(cluster) => cluster.error(failure),
        }
    }

    /// The error with the store's name.
    pub(super) fn locate(&self, error: Error) -> Error {
        match self {
            Reach::Server(client) => client.locate(error),
            Reach::Sentinel(sentinel) => sentinel.locate(error),
            Reach::Cluster(cluster) => cluster.locate(error),
        }
    }

    /// Does something that may be done twice, as often as it makes sense, and says whether an earlier attempt may have
    /// been carried out.
    pub(super) fn insist<T>(
        &mut self,
        by: Deadline,
        mut attempt: impl FnMut(&mut Self) -> Result<T, Failure>,
    ) -> Result<(T, Again), Failure> {
        let mut attempts = Attempts::default();
        loop {
            let failure = match attempt(self) {
                Ok(done) => return Ok((done, attempts.again())),
                Err(failure) => failure,
            };
            if self.heal(&mut attempts, &failure, by) {
                continue;
            }
            return Err(match (failure, attempts.again()) {
                (Failure::Failed(error), again) => Failure::Failed(again.about(error)),
                // The caller has another way to go on.
                (Failure::Refused(refusal), _) if refusal.forbidden() => Failure::Refused(refusal),
                (Failure::Refused(refusal), Again::Yes) => {
                    Failure::Failed(self.error(Failure::Refused(refusal)).maybe_applied())
                }
                (failure, _) => failure,
            });
        }
    }

    /// Runs a script, by its text where the server does not know its hash.
    pub(super) fn run(&mut self, call: Call<'_>, opening: Opening, by: Deadline) -> Result<Value, Failure> {
        self.run_and(call, Next::Nothing, opening, by).map(|(answer, _)| answer)
    }

    /// Runs a script and, in the same write, another command.
    pub(super) fn run_and(
        &mut self,
        mut call: Call<'_>,
        next: Next<'_>,
        opening: Opening,
        by: Deadline,
    ) -> Result<(Value, Option<Value>), Failure> {
        if !matches!(self, Reach::Cluster(_)) {
            // A proxy sends it where the session is.
            call.scope = Scope::Both;
        }
        let asking = if call.scope == Scope::Queue { Asking::Refuse } else { Asking::Follow };
        let mut run = |called| {
            let mut request = call.request(called);
            next.push_to(&mut request);
            let replies = self.ask_there(call.keys, &request, opening, asking, Duration::ZERO, by)?;
            let mut replies = replies.into_iter();
            Ok((sound(replies.next().unwrap_or_default())?, replies.next()))
        };
        match run(By::Hash) {
            Err(Failure::Refused(refusal)) if refusal.unknown_script() => run(By::Text),
            answers => answers,
        }
    }
}
