//! Everything unsafe: PHP's declarations, its callbacks, and safe access to what the callbacks need of PHP.
//!
//! Two rules hold in every function here:
//! - No panic leaves Rust: [`with_handler`] catches it.
//! - PHP may leave any call that allocates, reports or throws by `longjmp`. Such a call is made only while nothing
//!   that needs dropping is alive and [`HANDLER`] is not borrowed: first all of ours, then PHP.
//!
//! Under ZTS each thread has its own [`HANDLER`], PHP's globals are reached only through its exported functions, and
//! what is shared between threads is immutable once MINIT has run.

mod caller;
#[cfg(test)]
mod layout;
mod module;
mod php;
mod settings;

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use cloakroom::{Environment, Error, ErrorKind, Result};

use crate::drop_in::{NATIVES, Native};
use crate::handler::{Handler, SavePathSetting, Writer};
use crate::ini::OnWriteFailure;
use crate::report::{Text, message};
use caller::{active_function, caller};
use module::session_functions;
use php::*;
use settings::{config, configured, is_configured, temporary_directory};

thread_local! {
    static HANDLER: RefCell<Option<Handler>> = const { RefCell::new(None) };
    /// What `read` returns, out of the way of a `longjmp`.
    static READ: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// How many forks lie between this process and the one that loaded the module. Asking the kernel for the process's
/// number instead would be a system call in every callback.
static FORKS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// The environment at MINIT: PHP-FPM clears it in its workers.
static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();

fn environment() -> &'static Environment {
    ENVIRONMENT.get_or_init(Environment::of_process)
}

fn with_handler<T>(run: impl FnOnce(&mut Handler) -> Result<T>) -> Result<T> {
    let bug = || Error::new(ErrorKind::Bug, "the session handler is not available here");
    let caught = HANDLER.try_with(|handler| {
        let mut handler = handler.try_borrow_mut().map_err(|_| bug())?;
        let handler = handler.get_or_insert_with(|| Handler::new(environment(), &FORKS));
        catch_unwind(AssertUnwindSafe(|| run(&mut *handler))).unwrap_or_else(|_| {
            handler.distrust();
            Err(Error::new(
                ErrorKind::Bug,
                "Cloakroom failed; its own message is in the error log of the server",
            )
            .hint("report it, with that message"))
        })
    });
    caught.unwrap_or_else(|_| Err(bug()))
}

/// Ends a callback: an error becomes one warning, now that nothing needs dropping any more.
fn finish(done: Result<()>) -> c_int {
    match done {
        Ok(()) => SUCCESS,
        Err(error) => {
            let text = message(&error);
            drop(error);
            warn(text);
            FAILURE
        }
    }
}

/// Ends a callback that changes the session: PHP ignores the result, so an exception is the only way to stop a script.
fn finish_change(done: Result<()>) -> c_int {
    match done {
        Ok(()) => SUCCESS,
        Err(error) => {
            let text = message(&error);
            drop(error);
            warn(text);
            // Without a function there is no frame to throw into: the request has ended.
            if active_function().is_some()
                && configured(|config| config.on_write_failure == OnWriteFailure::Exception)
            {
                // SAFETY: the class entry is PHP's own and the text is NUL-terminated; PHP copies it.
                unsafe { zend_throw_exception(spl_ce_RuntimeException, text.as_ptr(), 0) };
            }
            FAILURE
        }
    }
}

fn warn<const N: usize>(text: Text<N>) {
    const E_WARNING: c_int = 2;
    // SAFETY: "%s" takes one NUL-terminated string. PHP may not return; nothing of ours needs dropping.
    unsafe { php_error_docref(null(), E_WARNING, c"%s".as_ptr(), text.as_ptr()) };
}

/// Opens the handler on the settings as they are.
fn open_handler(save_path: &str, session_name: &[u8], native: Option<&'static Native>) -> Result<()> {
    let text = save_path.trim();
    let setting = SavePathSetting { text, session_name, native, is_configured, temporary_directory };
    let config = config(native)?;
    with_handler(|handler| handler.open(&setting, config))
}

// --- the save handler --------------------------------------------------------------------------------------------

static SAVE_HANDLER: SaveHandler = save_handler(c"cloakroom", s_open);

/// Under the names of [`NATIVES`], and in their order.
static NATIVE_HANDLERS: [SaveHandler; NATIVES.len()] = [
    save_handler(NATIVES[0].name, s_open_native::<0>),
    save_handler(NATIVES[1].name, s_open_native::<1>),
    save_handler(NATIVES[2].name, s_open_native::<2>),
];

/// Only `open` tells by which name PHP calls: the rest is about the session that it opened.
const fn save_handler(name: &'static CStr, open: OpenCallback) -> SaveHandler {
    SaveHandler {
        name: name.as_ptr(),
        open,
        close: s_close,
        read: s_read,
        write: s_write,
        destroy: s_destroy,
        gc: s_gc,
        create_sid: s_create_sid,
        validate_sid: s_validate_sid,
        update_timestamp: s_update_timestamp,
    }
}

extern "C" fn s_open(data: Data, save_path: *const c_char, name: *const c_char) -> c_int {
    open_as(None, data, save_path, name)
}

extern "C" fn s_open_native<const NATIVE: usize>(
    data: Data,
    save_path: *const c_char,
    name: *const c_char,
) -> c_int {
    open_as(Some(&NATIVES[NATIVE]), data, save_path, name)
}

fn open_as(
    native: Option<&'static Native>,
    data: Data,
    save_path: *const c_char,
    name: *const c_char,
) -> c_int {
    let opened = {
        // SAFETY: PHP passes NUL-terminated strings that stay for the call, or null where there is none.
        let text = |text: *const c_char| unsafe { if text.is_null() { c"" } else { CStr::from_ptr(text) } };
        open_handler(&text(save_path).to_string_lossy(), text(name).to_bytes(), native)
    };
    if opened.is_ok() {
        // PHP calls the other callbacks only when this is not null; the state itself is in HANDLER.
        // SAFETY: PHP passes the address of its own pointer.
        unsafe { *data = (&raw const SAVE_HANDLER).cast_mut().cast() };
    }
    finish(opened)
}

extern "C" fn s_close(data: *mut *mut c_void) -> c_int {
    // SAFETY: PHP passes the address of its own pointer.
    unsafe { *data = null_mut() };
    let closed = with_handler(Handler::close);
    let notice = with_handler(|handler| Ok(handler.notice())).ok().flatten().map(Text::<1024>::new);
    if let Some(text) = notice {
        const LOG_NOTICE: c_int = 5;
        // For the log alone: scripts may turn PHP's own notices into exceptions.
        // SAFETY: the text is NUL-terminated; PHP copies it.
        unsafe { php_log_err_with_severity(text.as_ptr(), LOG_NOTICE) };
    }
    finish(closed)
}

extern "C" fn s_read(
    _data: *mut *mut c_void,
    id: *mut ZendString,
    value: *mut *mut ZendString,
    _lifetime: i64,
) -> c_int {
    let caller = caller();
    // SAFETY: PHP keeps the id alive for the call.
    let id = unsafe { bytes(id) };
    let read = with_handler(|handler| handler.read(id, caller));
    let read = read.map(|record| READ.with(|slot| *slot.borrow_mut() = record));
    if read.is_ok() {
        let (start, length) = READ.with(|slot| {
            let slot = slot.borrow();
            (slot.as_ptr(), slot.len())
        });
        // SAFETY: PHP copies the bytes, which stay where they are until the next read of this thread. It may run out
        // of memory and not return; the bytes are not ours alone to free.
        unsafe { *value = new_string(start, length) };
        // Not kept: one large session must not stay in memory.
        READ.with(|slot| *slot.borrow_mut() = Vec::new());
    }
    finish(read)
}

extern "C" fn s_write(
    _data: *mut *mut c_void,
    id: *mut ZendString,
    value: *mut ZendString,
    lifetime: i64,
) -> c_int {
    // SAFETY: PHP keeps both strings alive for the call.
    let (id, value) = unsafe { (bytes(id), bytes(value)) };
    // SessionHandler::write(), which a class of the script calls.
    let writer = if active_function() == Some(b"write") { Writer::Script } else { Writer::Php };
    finish_change(with_handler(|handler| handler.write(id, value, lifetime, writer)))
}

extern "C" fn s_update_timestamp(
    _data: *mut *mut c_void,
    id: *mut ZendString,
    value: *mut ZendString,
    lifetime: i64,
) -> c_int {
    // SAFETY: PHP keeps both strings alive for the call.
    let (id, value) = unsafe { (bytes(id), bytes(value)) };
    finish_change(with_handler(|handler| handler.touch(id, value, lifetime)))
}

extern "C" fn s_destroy(_data: *mut *mut c_void, id: *mut ZendString) -> c_int {
    let caller = caller();
    // SAFETY: PHP keeps the id alive for the call.
    let id = unsafe { bytes(id) };
    finish_change(with_handler(|handler| handler.destroy(id, caller)))
}

extern "C" fn s_gc(_data: *mut *mut c_void, lifetime: i64, removed: *mut i64) -> i64 {
    match with_handler(|handler| handler.collect(lifetime)) {
        Ok(count) => {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            // SAFETY: PHP passes the address of its own counter.
            unsafe { *removed = count };
            count
        }
        Err(error) => i64::from(finish(Err(error))),
    }
}

extern "C" fn s_create_sid(data: *mut *mut c_void) -> *mut ZendString {
    let Some(create) = session_functions().map(|functions| functions.create_id) else {
        return null_mut();
    };
    // SAFETY: PHP's own function with PHP's own argument. It may throw and return null.
    let id = unsafe { create(data) };
    // SAFETY: PHP returns null or a string that is alive.
    if let Some(id) = unsafe { id.as_ref() } {
        // SAFETY: as above.
        let id = unsafe { bytes(id) };
        // It can only fail where `open` has failed before, and the read then says so.
        let _ = with_handler(|handler| {
            handler.created(id);
            Ok(())
        });
    }
    id
}

extern "C" fn s_validate_sid(_data: *mut *mut c_void, id: *mut ZendString) -> c_int {
    let caller = caller();
    // SAFETY: PHP keeps the id alive for the call.
    let id = unsafe { bytes(id) };
    match with_handler(|handler| handler.validate(id, caller)) {
        Ok(true) => SUCCESS,
        Ok(false) => FAILURE,
        // Never "unknown" because of an error: the read that follows reports it.
        Err(_) => SUCCESS,
    }
}
