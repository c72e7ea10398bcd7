//! PHP's session callbacks, without PHP: what each one means for the store.
//!
//! PHP's order (facts that only PHP's source tells):
//! - start: `open`, then in strict mode `validate` of the visitor's id, then `read`; `create_id` where there is no id
//!   or `validate` refused it.
//! - end: `write`, or `touch` where the bytes are those that were read, then `close`. After an abort, a failed read or
//!   a `destroy` only `close` comes.
//! - `session_regenerate_id()`: `write` or `destroy`, `close`, `open`, `create_id`, `validate`, `read`.
//! - `session_reset()`: `open`, `validate` and `read` while the session is still open.
//! - PHP opens sessions before our request start and writes them after our request end, so that neither is used.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cloakroom::envelope::Compression;
use cloakroom::{
    Access, Change, Committed, Counters, Deadline, Environment, Error, ErrorKind, Guarantees, Hold, Opened,
    Outcome, Record, Result, Seen, SessionId, Unknown,
};

use crate::connected::{Bill, Connected};
use crate::drop_in::Native;
use crate::ini::{Config, OnLockTimeout, time_to_live};
use crate::renewer::{Renewer, Renewing};

/// What PHP is doing while it calls back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) from: From,
    /// `session_start(['read_and_close' => true])`.
    pub(crate) read_and_close: bool,
    /// The request is a GET or HEAD.
    pub(crate) safe_method: bool,
}

/// The PHP function underneath a callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// `session_start()`, `session_reset()`, or PHP itself (`session.auto_start`, the end of the request).
    StartOrPhp,
    /// Anything else.
    Script,
}

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writer {
    /// PHP, once per session.
    Php,
    /// A handler of the script's own, which may write again.
    Script,
}

/// `session.save_path` as PHP gives it to `open`, and what it would mean if it were empty.
pub(crate) struct SavePathSetting<'a> {
    pub(crate) text: &'a str,
    /// `session.name`, whatever bytes those are.
    pub(crate) session_name: &'a [u8],
    /// The native handler that PHP calls, if Cloakroom stands in for one.
    pub(crate) native: Option<&'static Native>,
    /// Whether a configuration file sets it; otherwise it may be what PHP was compiled with.
    pub(crate) is_configured: fn() -> bool,
    pub(crate) temporary_directory: fn() -> String,
}

/// How the last change of this request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LastCommit {
    None,
    Written,
    Refused,
    Unknown,
}

/// What `cloakroom_status()` tells.
pub(crate) struct Status {
    pub(crate) store: Option<String>,
    pub(crate) detected: Option<String>,
    pub(crate) guarantees: Option<Guarantees>,
    pub(crate) counters: Counters,
    pub(crate) billed: Bill,
    pub(crate) last_commit: LastCommit,
}

/// The sessions of one worker: of a process, or of a thread under ZTS.
pub(crate) struct Handler {
    /// Counts the forks since the module was loaded, and how many there were when this was made.
    forks: &'static AtomicU32,
    made_after: u32,
    config: Option<Config>,
    stores: Connected,
    held: Option<Held>,
    /// Ids that PHP made in this request: nobody can have stored them, so they are not looked up.
    created: Vec<Vec<u8>>,
    /// Why `validate` could not tell; `read` of the same id fails with it.
    deferred: Option<(SessionId, Error)>,
    renewer: Renewer,
    last_commit: LastCommit,
    /// What is to be said at the next close.
    notice: Option<String>,
}

/// The session that this request has open.
struct Held {
    id: SessionId,
    /// What `validate` has read for the `read` that follows.
    unread: Option<Option<Record>>,
    /// `None` once committed.
    hold: Option<Hold>,
    renewing: Option<Renewing>,
    /// Why the session is open without its lock; a change is refused with it.
    without_lock: Option<String>,
    /// The record as it is stored, where that is not as PHP has it: a touch has nothing to compress again.
    packed: Option<Vec<u8>>,
    /// What a handler of the script's own wrote last: it may write again.
    written: Option<Seen>,
}

/// How long PHP's gc may keep a visitor's request; the next one goes on where this one stopped.
const SWEEP: Duration = Duration::from_millis(200);

impl Drop for Handler {
    /// A thread of PHP ends (ZTS), without the end of the module.
    fn drop(&mut self) {
        if self.is_forked() {
            self.abandon();
        }
    }
}

impl Handler {
    pub(crate) fn new(environment: &'static Environment, forks: &'static AtomicU32) -> Self {
        Handler {
            forks,
            made_after: forks.load(Ordering::Relaxed),
            config: None,
            stores: Connected::new(environment),
            held: None,
            created: Vec::new(),
            deferred: None,
            renewer: Renewer::new(),
            last_commit: LastCommit::None,
            notice: None,
        }
    }

    /// `session.save_path` becomes a store. Nothing is connected yet.
    pub(crate) fn open(&mut self, save_path: &SavePathSetting<'_>, config: Config) -> Result<()> {
        if self.is_forked() {
            self.abandon();
        }
        self.deferred = None;
        // A session that is open in another store, at a second open without a close.
        let released = if self.stores.is_current(save_path, &config) { Ok(()) } else { self.release() };
        self.stores.choose(save_path, &config)?;
        self.config = Some(config);
        self.stores.store()?.name_sessions(save_path.session_name)?;
        released
    }

    /// PHP made this id.
    pub(crate) fn created(&mut self, id: &[u8]) {
        // Far more than one request makes; a script that makes ids in a loop must not fill the memory.
        if self.created.len() < 64 {
            self.created.push(id.to_vec());
        }
    }

    /// Whether the id is known. In strict mode PHP refuses an unknown one *before* it reads, so that an error must
    /// not look like one: the visitor would get a new cookie. It is kept for the read.
    pub(crate) fn validate(&mut self, id: &[u8], caller: Caller) -> Result<bool> {
        let Ok(id) = SessionId::parse(id) else {
            return Ok(false);
        };
        if self.is_forked() {
            return Ok(true);
        }
        if self.created.iter().any(|created| created == id.as_str().as_bytes()) {
            return Ok(false);
        }
        match &self.held {
            // session_reset(): the lock is ours, only the record may be missing.
            Some(held) if held.id == id => return self.exists(&id).or(Ok(true)),
            // session_create_id() looks for a collision while another session is open.
            Some(held) if held.unread.is_none() && caller.from == From::Script => {
                return self.exists(&id).or(Ok(true));
            }
            _ => {}
        }
        match self.lock_and_read(&id, Unknown::Refuse, caller) {
            Ok(known) => Ok(known),
            Err(error) => {
                self.deferred = Some((id, error));
                Ok(true)
            }
        }
    }

    /// Locks and reads the session; an unknown one is empty.
    pub(crate) fn read(&mut self, id: &[u8], caller: Caller) -> Result<Vec<u8>> {
        self.created.retain(|created| created != id);
        let id = SessionId::parse(id)?;
        if self.is_forked() {
            return Err(after_fork());
        }
        match self.deferred.take() {
            Some((failed, error)) if failed == id => return Err(error),
            _ => {}
        }
        let another_is_open = self.held.as_ref().is_some_and(|held| held.id != id && held.unread.is_none());
        if another_is_open && caller.from == From::Script {
            // A handler of the script's own looks at another session, for session_create_id() perhaps. The lock of
            // the one that is open must not be given away for it.
            let by = self.deadline(Duration::ZERO)?;
            return self.open_record(&id, Access::ReadOnly, by).map(|(opened, _)| bytes(opened.record));
        }
        // After a session_reset() the session is opened again: what was changed is given up, so that nothing is lost
        // if another request comes first.
        if !self.held.as_ref().is_some_and(|held| held.id == id && held.unread.is_some()) {
            self.lock_and_read(&id, Unknown::Lock, caller)?;
        }
        let unread = self.held.as_mut().and_then(|held| held.unread.take());
        Ok(bytes(unread.flatten()))
    }

    /// Stores the session and releases its lock.
    pub(crate) fn write(&mut self, id: &[u8], data: &[u8], lifetime: i64, writer: Writer) -> Result<()> {
        self.change(id, Change::Write(data, time_to_live(lifetime)), writer)
    }

    /// Prolongs an unchanged session and releases its lock.
    pub(crate) fn touch(&mut self, id: &[u8], data: &[u8], lifetime: i64) -> Result<()> {
        self.change(id, Change::Touch(data, time_to_live(lifetime)), Writer::Php)
    }

    /// Removes the session. PHP also calls this for a session that it could not decode (another serializer, a torn
    /// read): that one is kept.
    pub(crate) fn destroy(&mut self, id: &[u8], caller: Caller) -> Result<()> {
        let is_held = self.held.as_ref().is_some_and(|held| held.id.as_str().as_bytes() == id);
        if caller.from == From::StartOrPhp && is_held && !self.is_forked() {
            self.release()?;
            let what = "PHP could not decode the session; it is kept as it is";
            return Err(Error::new(ErrorKind::Corrupt, what)
                .on(self.stores.name().unwrap_or_default())
                .hint("look for another session.serialize_handler or compression on one of the servers"));
        }
        self.change(id, Change::Delete, Writer::Php)
    }

    /// Removes expired sessions where the store does not do so itself, and says how many.
    pub(crate) fn collect(&mut self, lifetime: i64) -> Result<u64> {
        if self.is_forked() {
            return Ok(0);
        }
        if self.stores.store()?.guarantees().sweeping != cloakroom::Sweeping::Needed {
            return Ok(0);
        }
        let swept = self.stores.store()?.sweep(time_to_live(lifetime), Deadline::after(SWEEP));
        swept.map_err(|error| self.stores.failed(error))
    }

    /// Releases what is still held: the session was only read, aborted, or destroyed.
    pub(crate) fn close(&mut self) -> Result<()> {
        if self.is_forked() {
            self.held = None;
            return Ok(());
        }
        match self.release() {
            // Nothing was to be written, so nothing is lost with the lock.
            Err(error) if error.kind() == ErrorKind::LockLost => Ok(()),
            done => done,
        }
    }

    /// Looks once in the worker's life, between two requests, whether how the store is set up endangers sessions.
    ///
    /// # Errors
    /// Where there was no session yet.
    pub(crate) fn look_around(&mut self) -> Result<()> {
        let by = self.deadline(Duration::ZERO)?;
        let mut said: Vec<String> = self.stores.dangers(by).iter().map(ToString::to_string).collect();
        said.extend_from_slice(self.stores.notices());
        if !said.is_empty() {
            self.notice = Some(format!("cloakroom: {}", said.join(". ").replace('\n', "; ")));
        }
        Ok(())
    }

    /// What PHP's log is to say of it; between two requests nobody can write there.
    pub(crate) fn notice(&mut self) -> Option<String> {
        self.notice.take()
    }

    /// The request is over, whatever became of it.
    pub(crate) fn end_request(&mut self) {
        if self.is_forked() {
            self.abandon();
        }
        // After a fatal error PHP does not come back for the close. There is nobody left to tell.
        let _ = self.release();
        self.created.clear();
        self.deferred = None;
        self.last_commit = LastCommit::None;
    }

    /// The process ends.
    pub(crate) fn shut_down(&mut self) {
        if self.is_forked() {
            self.abandon();
        }
        self.end_request();
        self.renewer.stop();
        self.stores.clear();
    }

    /// After a panic nothing of this worker is trusted any more; the leases of its locks run out.
    pub(crate) fn distrust(&mut self) {
        if let Some(renewing) = self.held.take().and_then(|held| held.renewing) {
            self.renewer.end(renewing);
        }
        self.deferred = None;
        self.stores.clear();
    }

    /// What `cloakroom_status()` tells.
    pub(crate) fn status(&self) -> Status {
        Status {
            store: self.stores.name().map(str::to_owned),
            detected: self.stores.detected().map(str::to_owned),
            guarantees: self.stores.peek().map(cloakroom::Store::guarantees),
            counters: self.stores.counters(),
            billed: self.stores.billed(),
            last_commit: self.last_commit,
        }
    }

    /// Opens the session as the settings and the caller ask, and says whether it is known.
    fn lock_and_read(&mut self, id: &SessionId, unknown: Unknown, caller: Caller) -> Result<bool> {
        self.close()?;
        let &Config { lock, lock_wait, on_lock_timeout, .. } = self.config()?;
        let access = if caller.read_and_close {
            Access::ReadOnly
        } else if lock {
            Access::Exclusive { wait: lock_wait, unknown }
        } else {
            Access::Unlocked
        };
        let by = self.deadline(lock_wait)?;
        let ((opened, packed), without_lock) = match self.open_record(id, access, by) {
            Err(busy) if busy.kind() == ErrorKind::LockBusy && reads_on(on_lock_timeout, caller) => {
                let by = self.deadline(Duration::ZERO)?;
                (self.open_record(id, Access::ReadOnly, by)?, Some(busy.to_string()))
            }
            opened => (opened?, None),
        };
        let Opened { record, hold, renewal } = opened;
        let known = record.is_some();
        if !known && unknown == Unknown::Refuse && matches!(hold, Hold::ReadOnly | Hold::Unlocked(_)) {
            return Ok(false);
        }
        let settings = self.config.as_ref().map(|config| &config.store);
        let renewing = renewal.zip(settings).map(|(renewal, settings)| self.renewer.begin(renewal, settings));
        self.held = Some(Held {
            id: id.clone(),
            unread: Some(record),
            hold: Some(hold),
            renewing,
            without_lock,
            packed,
            written: None,
        });
        Ok(known)
    }

    fn exists(&mut self, id: &SessionId) -> Result<bool> {
        let by = self.deadline(Duration::ZERO)?;
        self.stores.store()?.exists(id, by)
    }

    /// Reads the record as PHP has it, and as it is stored where that is something else.
    fn open_record(
        &mut self,
        id: &SessionId,
        access: Access,
        by: Deadline,
    ) -> Result<(Opened, Option<Vec<u8>>)> {
        let opened = self.stores.store()?.open(id, access, by);
        let mut opened = opened.map_err(|error| self.stores.failed(error))?;
        let compression = self.config()?.compression;
        let mut packed = None;
        if let Some(Record(stored)) = &mut opened.record
            && let Cow::Owned(data) = compression.unpack(stored)
        {
            packed = Some(std::mem::replace(stored, data));
        }
        Ok((opened, packed))
    }

    fn change(&mut self, id: &[u8], change: Change<'_>, writer: Writer) -> Result<()> {
        // The session belongs to the parent, which goes on with it.
        if self.is_forked() {
            return Ok(());
        }
        let adds_nothing =
            |held: &Held| matches!((&held.hold, change), (Some(Hold::ReadOnly), Change::Touch(..)));
        let mut held = self.held.take_if(|held| held.id.as_str().as_bytes() == id);
        if held.as_ref().is_some_and(adds_nothing) {
            // Whoever has the lock prolongs the session.
            self.held = held;
            return Ok(());
        }
        let compression = self.config.as_ref().map_or(Compression::None, |config| config.compression);
        let stored = match (change, held.as_mut().and_then(|held| held.packed.take())) {
            (Change::Touch(..), Some(packed)) => Cow::Owned(packed),
            (Change::Write(data, _) | Change::Touch(data, _), _) => compression.pack(data),
            (Change::Delete | Change::Keep, _) => Cow::default(),
        };
        let change = with_bytes(change, &stored);
        let done = match held {
            Some(mut held) => {
                let done = self.change_held(&mut held, change, writer);
                self.held = Some(held);
                done
            }
            None => SessionId::parse(id).and_then(|id| self.change_unopened(&id, change, None)),
        };
        self.last_commit = match &done {
            Ok(()) => LastCommit::Written,
            Err(error) => match error.outcome() {
                Outcome::Refused => LastCommit::Refused,
                Outcome::Unknown => LastCommit::Unknown,
            },
        };
        done
    }

    fn change_held(&mut self, held: &mut Held, change: Change<'_>, writer: Writer) -> Result<()> {
        let becomes = || match change {
            Change::Write(data, _) | Change::Touch(data, _) => Some(Seen::of(Some(data))),
            Change::Delete => Some(Seen::of(None)),
            Change::Keep => None,
        };
        let done = match held.hold.take() {
            Some(Hold::ReadOnly) => {
                held.hold = Some(Hold::ReadOnly);
                let error = read_only(held.without_lock.as_deref());
                return Err(self.stores.failed(error));
            }
            Some(Hold::Unlocked(seen)) => {
                held.hold = Some(Hold::Unlocked(becomes().unwrap_or_else(|| seen.clone())));
                self.commit(&held.id, Hold::Unlocked(seen), change, None)
            }
            Some(hold) => self.commit(&held.id, hold, change, held.renewing.take()),
            // A second write of the same session, after the first one released the lock.
            None => self.change_unopened(&held.id, change, held.written.take()),
        };
        held.written = match writer {
            Writer::Script if change != Change::Delete => becomes(),
            _ => None,
        };
        done
    }

    /// Changes a session that is not open: locks it for the change alone. `expected` is what it must still hold.
    fn change_unopened(&mut self, id: &SessionId, change: Change<'_>, expected: Option<Seen>) -> Result<()> {
        let &Config { lock, lock_wait, .. } = self.config()?;
        let by = self.deadline(lock_wait)?;
        let access = match lock {
            true => Access::Exclusive { wait: lock_wait, unknown: Unknown::Lock },
            false => Access::Unlocked,
        };
        let opened = self.stores.store()?.open(id, access, by).map_err(|error| self.stores.failed(error))?;
        let found = opened.record.as_ref().map(|record| record.0.as_slice());
        if lock && expected.is_some_and(|expected| !expected.is(found)) {
            self.commit(id, opened.hold, Change::Keep, None)?;
            let what = "another request changed the session after this one had written it";
            let error = Error::new(ErrorKind::LockLost, what)
                .hint("write the session once; the first write has released its lock");
            return Err(self.stores.failed(error));
        }
        self.commit(id, opened.hold, change, None)
    }

    fn commit(
        &mut self,
        id: &SessionId,
        hold: Hold,
        change: Change<'_>,
        renewing: Option<Renewing>,
    ) -> Result<()> {
        if let Some(renewing) = renewing {
            self.renewer.end(renewing);
        }
        let by = self.deadline(Duration::ZERO)?;
        match self.stores.store()?.commit(id, hold, change, by) {
            Ok(Committed::Done | Committed::Rewritten) => Ok(()),
            Ok(Committed::Conflict(_)) => {
                Err(self.stores.failed(Error::new(ErrorKind::Bug, "a conflict without a version")))
            }
            Err(error) => Err(self.stores.failed(error)),
        }
    }

    /// Gives back the lock of the session that is open, if any, and leaves the record as it is.
    fn release(&mut self) -> Result<()> {
        let Some(held) = self.held.take() else {
            return Ok(());
        };
        match held.hold {
            Some(hold @ (Hold::Lease(_) | Hold::Version(_))) => {
                self.commit(&held.id, hold, Change::Keep, held.renewing)
            }
            Some(Hold::ReadOnly | Hold::Unlocked(_)) | None => Ok(()),
        }
    }

    fn config(&self) -> Result<&Config> {
        self.config.as_ref().ok_or_else(not_open)
    }

    /// The deadline of one call: an exchange, perhaps a connection before it, and the wait for the lock.
    fn deadline(&self, wait: Duration) -> Result<Deadline> {
        let settings = &self.config()?.store;
        let time = settings.connect_timeout + settings.timeout;
        // The URL's own limits are per server; what heals, heals within these settings' time at least.
        let theirs = self.stores.peek().and_then(|store| store.time_for_a_call()).unwrap_or_default();
        Ok(Deadline::after(time.max(theirs) + wait))
    }

    fn is_forked(&self) -> bool {
        self.made_after != self.forks.load(Ordering::Relaxed)
    }

    /// In a forked child: lets go of what is the parent's, without a word on its connections and locks.
    fn abandon(&mut self) {
        self.made_after = self.forks.load(Ordering::Relaxed);
        self.renewer.abandon_after_fork();
        self.held = None;
        self.stores.clear();
    }
}

fn reads_on(on_lock_timeout: OnLockTimeout, caller: Caller) -> bool {
    match on_lock_timeout {
        OnLockTimeout::Fail => false,
        OnLockTimeout::ReadOnly => true,
        OnLockTimeout::Auto => caller.safe_method,
    }
}

fn read_only(busy: Option<&str>) -> Error {
    match busy {
        Some(busy) => {
            let what = "the session was opened read-only because its lock was busy, and is not written";
            Error::new(ErrorKind::LockBusy, what).source(busy)
        }
        None => {
            Error::new(ErrorKind::Unsupported, "the session was opened to be read only, and is not written")
                .hint("start it without read_and_close to write it")
        }
    }
}

fn bytes(record: Option<Record>) -> Vec<u8> {
    record.map(|record| record.0).unwrap_or_default()
}

fn with_bytes<'a>(change: Change<'_>, bytes: &'a [u8]) -> Change<'a> {
    match change {
        Change::Write(_, ttl) => Change::Write(bytes, ttl),
        Change::Touch(_, ttl) => Change::Touch(bytes, ttl),
        Change::Delete => Change::Delete,
        Change::Keep => Change::Keep,
    }
}

fn not_open() -> Error {
    Error::new(ErrorKind::Bug, "PHP used the session before it opened it")
}

fn after_fork() -> Error {
    Error::new(ErrorKind::Unsupported, "this session was opened before the process forked")
        .hint("close the session before pcntl_fork(), or start it in the child")
}
