//! The scripts: each decides and acts in one step on the server.
//!
//! `KEYS` are the session's key and the lock's, from which those of the other keys follow (see [`super`]): a proxy routes
//! by the first, a cluster by both. Where only the lock's is declared, the session's is the last of `ARGV`. A waiter is named
//! by its lock value, `cloakroom:<32 hex>:<host>:<pid>`.

use std::sync::LazyLock;

use super::keys::Keys;
use super::wire::Request;

/// A script's text, and the hash that the server knows it by.
#[derive(Debug)]
pub(super) struct Script {
    text: &'static str,
    hash: String,
}

impl Script {
    fn new(text: &'static str) -> Self {
        Script { text, hash: redis::Script::new(text).get_hash().to_owned() }
    }
}

/// What a script works on. A cluster lets a script run where it declares keys that are all there, and stops it at the
/// first other key that is not, while their slot is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// The session, its lock, and the keys beside it: only where all of them are, so not while their slot is moved. A
    /// waiter's key that is made at the slot's new place would stop the one at its old place from being moved.
    Queue,
    /// The session and its lock, which are both there. A session that was written anew at the slot's new place would be
    /// overwritten by the one that is still at the old place.
    Both,
    /// The lock, and a session that is nowhere.
    Lock,
}

/// A script, and what it is run with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) script: &'a Script,
    pub(super) keys: &'a Keys,
    pub(super) scope: Scope,
    pub(super) arguments: &'a [&'a [u8]],
}

impl Call<'_> {
    /// The request that runs it.
    pub(super) fn request(&self, by: By) -> Request {
        let (name, text): (&[u8], _) = match by {
            By::Hash => (b"EVALSHA", self.script.hash.as_str()),
            By::Text => (b"EVAL", self.script.text),
        };
        let (session, lock) = (self.keys.session.as_slice(), self.keys.lock.as_slice());
        let mut request = Request::default();
        match self.scope {
            Scope::Queue | Scope::Both => {
                request.push(&[name, text.as_bytes(), b"2", session, lock], self.arguments);
            }
            Scope::Lock => {
                let arguments = [self.arguments, &[session]].concat();
                request.push(&[name, text.as_bytes(), b"1", lock], &arguments);
            }
        }
        request
    }
}

/// How a script is named in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// By its hash, which a server may not know (yet, or after a restart).
    Hash,
    /// By its text.
    Text,
}

/// What a waiter does with [`ACQUIRE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Take the lock if it is this waiter's turn, else stand in the queue.
    Join,
    /// Leave the queue; a lock that was handed over meanwhile is taken.
    Leave,
}

/// Takes the lock, or a place in the queue.
///
/// ARGV: lock value, lease (ms), life of the waiter's mark (ms), most waiters (0 = any number), join or leave,
/// how many keys to make beside the session's (see [`super::queue::Route`]).
/// Answers {1, record} with the lock, {2, place, poll, ms} when it has to wait (`poll` not 0: nobody will wake it, since
/// 1 the lock is free, 2 a native handler has it; `ms` until the lock or the gap ends), {3, waiters} when too many wait, {0} after leaving. A 1 at the end of the
/// first two says that native handlers use this session too.
pub(super) static ACQUIRE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local session, lock = KEYS[1], KEYS[2]
if not lock then session, lock = ARGV[#ARGV], session end
local me = ARGV[1]
local queue = lock .. '_QUEUE'
local function mark(waiter) return lock .. '_WAIT_' .. string.sub(waiter, 11, 42) end
local function grant(waiter) return lock .. '_GRANT_' .. string.sub(waiter, 11, 42) end
local function nudge(waiter)
  if redis.call('exists', grant(waiter)) == 0 then
    redis.call('rpush', grant(waiter), 'P')
    redis.call('pexpire', grant(waiter), 3000)
  end
end
local function mine(foreign)
  redis.call('del', mark(me), grant(me))
  return {1, redis.call('get', session), foreign}
end

-- Names that differ at their end alone stay together under some hashes.
for number = 1, tonumber(ARGV[6]) do redis.call('set', lock .. '_' .. number .. '_ROUTE', 1, 'PX', 1000) end
local holder = redis.call('get', lock)
if holder == me or holder == me .. '*' then
  local more = ''
  if redis.call('lrem', queue, 0, me) == 1 and redis.call('exists', queue) == 1 then more = '*' end
  if more == '*' then redis.call('set', lock, me .. more, 'PX', ARGV[2]) else redis.call('pexpire', lock, ARGV[2]) end
  return mine(0)
end
local head = redis.call('lindex', queue, 0)
while head and head ~= me and redis.call('exists', mark(head)) == 0 do
  redis.call('lpop', queue)
  head = redis.call('lindex', queue, 0)
end
local foreign = holder and string.sub(holder, 1, 10) ~= 'cloakroom:'

if ARGV[5] == 'leave' then
  redis.call('lrem', queue, 0, me)
  redis.call('del', mark(me), grant(me))
  if head == me and (foreign or not holder) then
    head = redis.call('lindex', queue, 0)
    if head then nudge(head) end
  end
  return {0}
end

local marked = redis.call('exists', lock .. '_FOREIGN')
local ends
if holder then
  if foreign then
    marked = 1
    redis.call('set', lock .. '_FOREIGN', 5, 'PX', 60000)
    redis.call('del', lock .. '_GAP')
  end
  ends = redis.call('pttl', lock)
else
  ends = redis.call('pttl', lock .. '_GAP')
  if ends < 0 then
    if not head or head == me then
      local more = ''
      if head then
        redis.call('lpop', queue)
        if redis.call('exists', queue) == 1 then more = '*' end
      end
      redis.call('set', lock, me .. more, 'PX', ARGV[2])
      return mine(marked)
    end
    nudge(head)
  end
end

-- Before the queue is touched: a user without the right to it leaves nothing there.
if holder and not foreign and string.sub(holder, -1) ~= '*' then redis.call('append', lock, '*') end
local place = redis.call('lpos', queue, me)
if not place then
  local most = tonumber(ARGV[4])
  if most > 0 and redis.call('llen', queue) >= most then
    for _, waiter in ipairs(redis.call('lrange', queue, 0, -1)) do
      if redis.call('exists', mark(waiter)) == 0 then redis.call('lrem', queue, 0, waiter) end
    end
    if redis.call('llen', queue) >= most then return {3, redis.call('llen', queue)} end
  end
  place = redis.call('rpush', queue, me) - 1
end
redis.call('pexpire', queue, 60000)
redis.call('set', mark(me), 1, 'PX', ARGV[3])
local poll = 0
if place == 0 and foreign then poll = 2 elseif place == 0 and not holder then poll = 1 end
return {2, place, poll, ends, marked}
",
    )
});

/// Applies a change if the lock is still ours, and passes the lock on.
///
/// ARGV: lock value, what (W write, T touch, D delete, K keep), life (s), bytes, lease of a lock that is handed over
/// (ms; 0 = leave the queue alone). Answers 1 done, 2 written again by a touch, 0 lock lost, -1 lock lost and yet the
/// record is as asked; 10 more when a waiter got the lock, or a gap was left.
///
/// A lock that is waited for ends with `*`, which spares the others a look at the queue. With waiters, all reads come
/// before the change: a user without the right to the queue is refused before anything is done, and so is who comes
/// while the slot of a cluster is moved. That is what the unused `exists` is for. A write that finds the memory full
/// is the first that matters, so that it changes nothing.
pub(super) static COMMIT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local session, lock = KEYS[1], KEYS[2]
if not lock then session, lock = ARGV[#ARGV], session end
local held = redis.call('get', lock)
local me, change = ARGV[1], ARGV[2]
local waited, waiter
if held ~= me then
  if held ~= me .. '*' then
    if change == 'K' then return -1 end
    local stored = redis.call('get', session)
    if (change == 'D' and not stored) or (change ~= 'D' and stored == ARGV[4]) then return -1 end
    return 0
  end
  waited = ARGV[5] ~= '0'
end

-- The usual commit, which nobody waits for, makes none of these names.
local queue, fair, foreign, mark, grant, granted, more, state, marked, record
if waited then
  queue, fair, foreign = lock .. '_QUEUE', lock .. '_FAIR', lock .. '_FOREIGN'
  mark = function(name) return lock .. '_WAIT_' .. string.sub(name, 11, 42) end
  state = redis.call('hmget', fair, 'passed', 'due', 'step', 'last')
  waiter = redis.call('lindex', queue, 0)
  while waiter and redis.call('exists', mark(waiter)) == 0 do
    redis.call('lpop', queue)
    waiter = redis.call('lindex', queue, 0)
  end
end
if waiter then
  if redis.call('llen', queue) > 1 then more = '*' else more = '' end
  marked = redis.call('exists', foreign) == 1
  grant = lock .. '_GRANT_' .. string.sub(waiter, 11, 42)
  granted = redis.call('exists', grant) == 1
  redis.call('exists', lock .. '_GAP')
  if change == 'K' then record = redis.call('get', session) end
end

local done = 1
if change == 'W' then
  redis.call('set', session, ARGV[4], 'EX', ARGV[3])
  record = ARGV[4]
elseif change == 'T' then
  if redis.call('expire', session, ARGV[3]) == 0 then
    redis.call('set', session, ARGV[4], 'EX', ARGV[3])
    done = 2
  end
  if waiter then record = redis.call('get', session) end
elseif change == 'D' then
  redis.call('del', session)
end
if not waiter then
  redis.call('del', lock)
  if waited then redis.call('del', fair) end
  return done
end

local time = redis.call('time')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local passed, due, step = tonumber(state[1]) or 0, tonumber(state[2]), tonumber(state[3])
if not due or now - (tonumber(state[4]) or 0) > 2000 then due, step = now + 1000, 4000 end
local gap
if marked then gap = passed >= 3 else gap = now >= due end
if gap then
  redis.call('del', lock)
  redis.call('set', lock .. '_GAP', 1, 'PX', 22)
  passed = 0
  if marked then
    if redis.call('decr', foreign) <= 0 then redis.call('del', foreign) end
  else
    due = now + step
    step = math.min(step * 4, 30000)
  end
  if not granted then redis.call('rpush', grant, 'P') end
  redis.call('pexpire', grant, 3000)
else
  passed = passed + 1
  redis.call('lpop', queue)
  redis.call('set', lock, waiter .. more, 'PX', ARGV[5])
  redis.call('del', mark(waiter))
  redis.call('rpush', grant, record and 'L' .. record or 'N')
  redis.call('pexpire', grant, ARGV[5])
end
redis.call('hset', fair, 'passed', passed, 'due', string.format('%.0f', due), 'step', step,
  'last', string.format('%.0f', now))
redis.call('pexpire', fair, 60000)
return done + 10
",
    )
});

/// Prolongs the lock if it is still ours. ARGV: lock value, lease (ms). Answers 1 or 0.
pub(super) static RENEW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local lock = KEYS[2] or KEYS[1]
local held = redis.call('get', lock)
if held ~= ARGV[1] and held ~= ARGV[1] .. '*' then return 0 end
redis.call('pexpire', lock, ARGV[2])
return 1
",
    )
});

/// Looks, and changes nothing. Answers {record, its life (ms, -1 endless, -2 none), lock, its life, waiters that are alive}.
pub(super) static PEEK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local session, lock = KEYS[1], KEYS[2]
local waiting = 0
for _, waiter in ipairs(redis.call('lrange', lock .. '_QUEUE', 0, -1)) do
  waiting = waiting + redis.call('exists', lock .. '_WAIT_' .. string.sub(waiter, 11, 42))
end
return {redis.call('get', session), redis.call('pttl', session), redis.call('get', lock), redis.call('pttl', lock), waiting}
",
    )
});
