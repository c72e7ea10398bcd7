//! Looking at sessions and locks, and taking a lock away.

use std::time::Duration;

use redis::Value;

use super::member::{Member, scan};
use super::milliseconds;
use super::reach::Again;
use super::reply::unexpected;
use super::scripts::{COMMIT, Call, PEEK, Scope};
use super::wire::{Failure, Opening, Request, number, stored};
use crate::{Broken, Deadline, Ends, Error, ErrorKind, Life, Lock, Peeked, Record, Result, SessionId};

/// What a lock's key ends with.
const ENDING: &str = "_LOCK";

impl Member {
    /// See [`crate::Store::peek`].
    pub(super) fn peek(&mut self, id: &SessionId, by: Deadline) -> Result<Peeked> {
        self.reach.look_around();
        let keys = self.keys(id);
        let call = Call { script: &PEEK, keys: &keys, scope: Scope::Both, arguments: &[] };
        let asked = self.reach.insist(by, |reach| {
            match reach.run(call, Opening::WithRequest, by) {
                // Without the right to scripts nobody locks, and there is no queue.
                Err(Failure::Refused(refusal)) if refusal.forbidden() => {
                    let request = Request::of(&[b"GET", &keys.session])
                        .and(&[b"PTTL", &keys.session])
                        .and(&[b"GET", &keys.lock])
                        .and(&[b"PTTL", &keys.lock]);
                    reach.ask(&keys, &request, Opening::WithRequest, by).map(Value::Array)
                }
                answer => answer,
            }
        });
        asked.and_then(|(answer, _)| peeked(answer)).map_err(|failure| self.reach.error(failure))
    }

    /// See [`crate::Store::locks`]; the answer says whether `each` wants more.
    pub(super) fn locks(
        &mut self,
        each: &mut dyn FnMut(SessionId, Lock) -> bool,
        by: Deadline,
    ) -> Result<bool> {
        self.reach.look_around();
        let prefix = self.endpoint.prefix.clone();
        let mut locked = Vec::new();
        // A cluster's locks begin with a brace, unless the prefix has a tag of its own.
        let tagged = self.reach.keys([prefix.as_bytes(), b"id"].concat()).lock.ends_with(b"}_LOCK");
        let start = if tagged { ["{", &prefix].concat() } else { prefix };
        let end = if tagged { ["}", ENDING].concat() } else { ENDING.to_owned() };
        for server in self.reach.servers(by)? {
            let mut lock = |key: &[u8]| {
                let id = key.strip_prefix(start.as_bytes()).and_then(|key| key.strip_suffix(end.as_bytes()));
                locked.extend(id.and_then(|id| SessionId::parse(id).ok()));
                true
            };
            scan(server, (&start, &end), &mut lock, by).map_err(|failure| server.error(failure))?;
        }
        for id in locked {
            // It may have ended since.
            if let Some(lock) = self.peek(&id, by)?.lock
                && !each(id, lock)
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// See [`crate::Store::break_lock`]: as its holder would release it, so that who waits gets it at once.
    pub(super) fn break_lock(&mut self, id: &SessionId, seen: &Lock, by: Deadline) -> Result<Broken> {
        self.reach.look_around();
        let keys = self.keys(id);
        let value = seen.value.strip_suffix(b"*").filter(|_| seen.is_ours()).unwrap_or(&seen.value);
        let grant = milliseconds(self.grant()).to_string();
        let arguments: [&[u8]; 5] = [value, b"K", b"0", b"", grant.as_bytes()];
        let call = Call { script: &COMMIT, keys: &keys, scope: Scope::Both, arguments: &arguments };
        let answer = self
            .reach
            .insist(by, |reach| reach.run(call, Opening::Before, by).and_then(number))
            .map_err(|failure| self.reach.error(failure))?;
        match answer {
            (1.., _) => Ok(Broken::Done),
            // The first attempt may have done it.
            (_, Again::Yes) => Err(self.locate(Error::new(
                ErrorKind::Unreachable,
                "the server cut the connection while the lock was broken, and has another one or none now",
            ).hint("look at the session again").maybe_applied())),
            (_, Again::No) => Ok(Broken::Changed),
        }
    }
}

fn peeked(answer: Value) -> Result<Peeked, Failure> {
    let Value::Array(items) = answer else {
        return Err(Failure::Failed(unexpected(&answer)));
    };
    let mut items = items.into_iter();
    let mut next = || items.next().unwrap_or_default();
    let record = stored(next())?.map(Record);
    let life = match number(next())? {
        -1 => Life::Endless,
        left => milliseconds_of(left).map_or(Life::Unknown, Life::Left),
    };
    let value = stored(next())?;
    let ends = match number(next())? {
        -1 => Ends::Never,
        left => milliseconds_of(left).map_or(Ends::Unknown, Ends::After),
    };
    let waiting = match next() {
        Value::Nil => Some(0),
        waiting => u32::try_from(number(waiting)?).ok(),
    };
    Ok(Peeked { record, life, lock: value.map(|value| Lock::of(value, 0, ends, waiting)) })
}

/// `None` for what is not there.
fn milliseconds_of(left: i64) -> Option<Duration> {
    u64::try_from(left).ok().map(Duration::from_millis)
}
