//! How the server that has a session is reached, and found again.

use std::time::Duration;

use redis::Value;

use super::keys::Keys;
use super::scripts::{By, Script};
use super::wire::{Client, Failure, Opening, Request, sound};
use crate::{Counters, Deadline, Error, Result};

/// The way to a server, or to those that share the sessions.
#[derive(Debug)]
pub(super) enum Reach {
    /// One server at one address.
    Server(Client),
}

/// What became of an operation's attempts so far.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// Those whose connection ended before the answer.
    cuts: u32,
}

impl Attempts {
    /// Whether an earlier attempt may have been carried out.
    pub(super) fn again(&self) -> Again {
        match self.cuts {
            0 => Again::No,
            _ => Again::Yes,
        }
    }
}

/// Whether an exchange had to be repeated that may have been carried out the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    Yes,
    No,
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
            Reach::Server(_) => Keys::plain(session),
        }
    }

    /// Another way to the same servers, for another thread.
    pub(super) fn another(&self) -> Reach {
        match self {
            Reach::Server(client) => Reach::Server(client.another()),
        }
    }

    /// Every server that has sessions: together they have all of them.
    pub(super) fn servers(&mut self) -> Vec<&mut Client> {
        match self {
            Reach::Server(client) => vec![client],
        }
    }

    /// What was done over it.
    pub(super) fn counters(&self) -> Counters {
        match self {
            Reach::Server(client) => client.counters(),
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
        self.ask_patiently(keys, request, opening, Duration::ZERO, by)
    }

    /// One exchange that the server may take this much longer to answer.
    pub(super) fn ask_patiently(
        &mut self,
        _keys: &Keys,
        request: &Request,
        opening: Opening,
        longer: Duration,
        by: Deadline,
    ) -> Result<Vec<Value>, Failure> {
        match self {
            Reach::Server(client) => client.ask_patiently(request, opening, longer, by),
        }
    }

    /// Whether another attempt makes sense after this failure; everything is ready for it then.
    pub(super) fn heal(&mut self, attempts: &mut Attempts, failure: &Failure, _by: Deadline) -> bool {
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
        }
    }

    /// Drops connections that died while they were idle: what is sent next is then known not to be lost with them.
    pub(super) fn look_alive(&mut self, _keys: &Keys) {
        match self {
            Reach::Server(client) => client.look_alive(),
        }
    }

    /// Leaves connections alone that another process opened: a forked child has copies of its parent's.
    pub(super) fn look_around(&mut self) {
        match self {
            Reach::Server(client) => client.look_around(),
        }
    }

    /// Ends a request; see [`Client::rest`].
    pub(super) fn rest(&mut self, by: Deadline) {
        match self {
            Reach::Server(client) => client.rest(by),
        }
    }

    /// The failure as the user's error.
    pub(super) fn error(&self, failure: Failure) -> Error {
        match self {
            Reach::Server(client) => client.error(failure),
        }
    }

    /// The error with the store's name.
    pub(super) fn locate(&self, error: Error) -> Error {
        match self {
            Reach::Server(client) => client.locate(error),
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
    pub(super) fn run(
        &mut self,
        script: &Script,
        keys: &Keys,
        arguments: &[&[u8]],
        opening: Opening,
        by: Deadline,
    ) -> Result<Value, Failure> {
        self.run_and(script, keys, arguments, &[], opening, by).map(|(answer, _)| answer)
    }

    /// Runs a script and, in the same write, another command, unless that is empty.
    pub(super) fn run_and(
        &mut self,
        script: &Script,
        keys: &Keys,
        arguments: &[&[u8]],
        other: &[&[u8]],
        opening: Opening,
        by: Deadline,
    ) -> Result<(Value, Option<Value>), Failure> {
        let mut run = |called| {
            let mut request = script.call(called, keys, arguments);
            if !other.is_empty() {
                request.push(other, &[]);
            }
            let mut replies = self.ask(keys, &request, opening, by)?.into_iter();
            Ok((sound(replies.next().unwrap_or_default())?, replies.next()))
        };
        match run(By::Hash) {
            Err(Failure::Refused(refusal)) if refusal.unknown_script() => run(By::Text),
            answers => answers,
        }
    }
}
