//! Everything unsafe: PHP's declarations, its callbacks, and safe access to what the callbacks need of PHP.
//!
//! The declarations are those of PHP 8.1 to 8.5; `layout.rs` compares them with the installed headers.
//!
//! Two rules hold in every function here:
//! - No panic leaves Rust: [`with_handler`] catches it.
//! - PHP may leave any call that allocates, reports or throws by `longjmp`. Such a call is made only while nothing
//!   that needs dropping is alive and [`HANDLER`] is not borrowed: first all of ours, then PHP.
//!
//! Under ZTS each thread has its own [`HANDLER`], PHP's globals are reached only through its exported functions, and
//! what is shared between threads is immutable once MINIT has run.

use std::cell::{RefCell, UnsafeCell};
use std::ffi::{CStr, c_char, c_double, c_int, c_uchar, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use cloakroom::{Environment, Error, ErrorKind, Result};

use crate::handler::{Caller, From, Handler, SavePathSetting, Writer};
use crate::ini::{Config, OnLockTimeout, OnWriteFailure, SETTINGS, time_to_live};
use crate::report::{StatusArray, Text, message, rows};

const SUCCESS: c_int = 0;
const FAILURE: c_int = -1;

thread_local! {
    static HANDLER: RefCell<Option<Handler>> = const { RefCell::new(None) };
    /// The settings as they were last read; forgotten when one of them changes.
    static CONFIG: RefCell<Option<Config>> = const { RefCell::new(None) };
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

fn with_handler<T>(run: impl FnOnce(&mut Handler) -> Result<T>) -> Result<T> {
    let bug = || Error::new(ErrorKind::Bug, "the session handler is not available here");
    let caught = HANDLER.try_with(|handler| {
        let mut handler = handler.try_borrow_mut().map_err(|_| bug())?;
        let environment = || ENVIRONMENT.get_or_init(Environment::of_process);
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

// --- what the callbacks ask PHP ----------------------------------------------------------------------------------

/// A setting of php.ini as text; empty when it is not set.
fn ini(name: &str) -> String {
    let mut exists = false;
    // SAFETY: the name and its length belong together; PHP returns a NUL-terminated string that lives at least until
    // the setting changes, and it is copied before anything else is called.
    unsafe {
        let value = zend_ini_string_ex(name.as_ptr().cast(), name.len(), 0, &raw mut exists);
        if value.is_null() { String::new() } else { CStr::from_ptr(value).to_string_lossy().into_owned() }
    }
}

/// The settings, read again only after one of them has changed: reading all of them costs as much as a session in a
/// file.
fn config() -> Result<Config> {
    // SAFETY: the name and its length belong together.
    let lifetime = unsafe { zend_ini_long(c"session.gc_maxlifetime".as_ptr(), 22, 0) };
    CONFIG.with(|cached| {
        let mut cached = cached.borrow_mut();
        let mut config = match cached.take() {
            Some(config) => config,
            None => Config::read(ini)?,
        };
        config.store.lifetime = time_to_live(lifetime);
        Ok(cached.insert(config).clone())
    })
}

/// Whether the settings that were last read say so.
fn configured(says: impl FnOnce(&Config) -> bool) -> bool {
    CONFIG.with(|cached| cached.borrow().as_ref().is_some_and(says))
}

fn active_function() -> Option<&'static [u8]> {
    // SAFETY: PHP returns null or the NUL-terminated name of a function, which outlives the callback that it made.
    unsafe {
        let name = get_active_function_name();
        (!name.is_null()).then(|| CStr::from_ptr(name).to_bytes())
    }
}

/// Which PHP function is underneath this callback, and what it was asked for.
fn caller() -> Caller {
    let from = match active_function() {
        None | Some(b"session_reset") => Frame::Php,
        Some(b"session_start") => {
            let mut argument = Zval::UNDEFINED;
            // SAFETY: the active function is session_start(), whose only argument is copied, without a reference,
            // into the one zval that is there for it; PHP reports a missing one by FAILURE.
            let given = unsafe { zend_get_parameters_array_ex(1, &raw mut argument) } == SUCCESS;
            Frame::Start { read_and_close: given && reads_and_closes(&argument) }
        }
        // The methods of PHP's SessionHandler, which a class of the script may wrap.
        Some(b"read" | b"destroy") => frame_below(),
        Some(_) => Frame::Script,
    };
    Caller {
        from: if from == Frame::Script { From::Script } else { From::StartOrPhp },
        read_and_close: from == Frame::Start { read_and_close: true },
        safe_method: configured(|config| config.on_lock_timeout == OnLockTimeout::Auto) && is_safe_method(),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Frame {
    Start { read_and_close: bool },
    Php,
    Script,
}

/// The session function in the call stack, for a callback that a class of the script passed on.
///
/// PHP itself destroys (what it could not decode) only from below `session_start()` and `session_reset()`; a class that
/// destroys while it writes, reads or collects does so of its own will.
fn frame_below() -> Frame {
    let destroys = active_function() == Some(b"destroy");
    let mut trace = Zval::UNDEFINED;
    // SAFETY: PHP fills the zval with an array of arrays that `trace` then owns, and that is released once at the
    // end. It may run out of memory and not return; nothing of ours needs dropping. The lookups borrow from the
    // array and end before its release; names are compared where they are.
    unsafe {
        zend_fetch_debug_backtrace(&raw mut trace, 0, 0, 0);
        let mut found = Frame::Script;
        let mut index = 0;
        while let Some(frame) = trace.array().and_then(|frames| zend_hash_index_find(frames, index).as_ref())
        {
            index += 1;
            let Some(fields) = frame.array() else { continue };
            let is_method = !zend_hash_str_find(fields, c"class".as_ptr(), 5).is_null();
            let name =
                zend_hash_str_find(fields, c"function".as_ptr(), 8).as_ref().and_then(|name| name.string());
            match (is_method, name) {
                (
                    true,
                    Some(
                        b"write" | b"updateTimestamp" | b"read" | b"validateId" | b"gc" | b"open" | b"close",
                    ),
                ) if destroys => {
                    break;
                }
                (false, Some(b"session_start")) => {
                    let arguments =
                        zend_hash_str_find(fields, c"args".as_ptr(), 4).as_ref().and_then(Zval::array);
                    let options = arguments.and_then(|arguments| zend_hash_index_find(arguments, 0).as_ref());
                    found = Frame::Start { read_and_close: options.is_some_and(reads_and_closes) };
                    break;
                }
                (false, Some(b"session_reset")) => {
                    found = Frame::Php;
                    break;
                }
                (
                    false,
                    Some(
                        b"session_destroy"
                        | b"session_regenerate_id"
                        | b"session_create_id"
                        | b"session_decode"
                        | b"session_write_close"
                        | b"session_commit"
                        | b"session_abort"
                        | b"session_gc",
                    ),
                ) => break,
                _ => {}
            }
        }
        zval_ptr_dtor(&raw mut trace);
        found
    }
}

/// Whether these options of `session_start()` ask to read and close, by PHP's own rule.
fn reads_and_closes(options: &Zval) -> bool {
    let Some(options) = options.array() else { return false };
    // SAFETY: the array is alive as long as the zval is borrowed; PHP returns null or a zval inside it.
    let value = unsafe { zend_hash_str_find(options, c"read_and_close".as_ptr(), 14).as_ref() };
    let Some(value) = value else { return false };
    match value.kind() {
        Zval::TRUE => true,
        // SAFETY: the type says that the value is a long.
        Zval::LONG => unsafe { value.value.long > 0 },
        _ => value
            .string()
            .and_then(|text| std::str::from_utf8(text).ok())
            .is_some_and(|text| text.trim().parse::<i64>().is_ok_and(|number| number > 0)),
    }
}

/// As the web server says; the command line and PHP's built-in server do not, so that no method is safe there.
fn is_safe_method() -> bool {
    // SAFETY: PHP returns null or a NUL-terminated copy of ours, which is compared and freed once.
    unsafe {
        let method = sapi_getenv(c"REQUEST_METHOD".as_ptr(), 14);
        if method.is_null() {
            return false;
        }
        let safe = matches!(CStr::from_ptr(method).to_bytes(), b"GET" | b"HEAD");
        free_of_request(method.cast());
        safe
    }
}

#[cfg(not(php_debug))]
unsafe fn free_of_request(pointer: *mut c_void) {
    // SAFETY: the caller owns the allocation.
    unsafe { _efree(pointer) };
}

#[cfg(php_debug)]
unsafe fn free_of_request(pointer: *mut c_void) {
    // SAFETY: the caller owns the allocation; the rest says where it is freed, for PHP's leak report.
    unsafe { _efree(pointer, c"ffi.rs".as_ptr(), line!(), null(), 0) };
}

/// Opens the handler on the settings as they are.
fn open_handler(save_path: &str) -> Result<()> {
    let setting = SavePathSetting { text: save_path.trim(), is_configured, temporary_directory };
    let config = config()?;
    with_handler(|handler| handler.open(&setting, config))
}

fn is_configured() -> bool {
    // SAFETY: the name and its length belong together; only whether the result is null matters.
    unsafe { !cfg_get_entry(c"session.save_path".as_ptr(), 17).is_null() }
}

fn temporary_directory() -> String {
    // SAFETY: PHP returns a NUL-terminated string of its own, kept until the process ends.
    unsafe { CStr::from_ptr(php_get_temporary_directory()) }.to_string_lossy().into_owned()
}

// --- the save handler --------------------------------------------------------------------------------------------

static SAVE_HANDLER: SaveHandler = SaveHandler {
    name: c"cloakroom".as_ptr(),
    open: s_open,
    close: s_close,
    read: s_read,
    write: s_write,
    destroy: s_destroy,
    gc: s_gc,
    create_sid: s_create_sid,
    validate_sid: s_validate_sid,
    update_timestamp: s_update_timestamp,
};

extern "C" fn s_open(data: *mut *mut c_void, save_path: *const c_char, _name: *const c_char) -> c_int {
    let opened = {
        // SAFETY: PHP passes a NUL-terminated string, or null where there is none.
        let save_path = unsafe { if save_path.is_null() { c"" } else { CStr::from_ptr(save_path) } };
        open_handler(&save_path.to_string_lossy())
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
    finish(with_handler(Handler::close))
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

// --- the module --------------------------------------------------------------------------------------------------

/// The address by which PHP finds the extension.
#[unsafe(no_mangle)]
extern "C" fn get_module() -> *mut ModuleEntry {
    MODULE.0.get()
}

extern "C" fn module_startup(_kind: c_int, module_number: c_int) -> c_int {
    if ENVIRONMENT.set(Environment::of_process()).is_ok() {
        // SAFETY: the callback only counts, and the module stays loaded until the process ends.
        unsafe { pthread_atfork(None, None, Some(count_fork)) };
    }
    let Some(functions) = session_functions() else {
        return finish(Err(Error::new(ErrorKind::Config, "PHP's session extension is not loaded")
            .hint("load it before cloakroom: extension=session")));
    };
    // SAFETY: the definitions and the save handler are 'static and end as PHP expects.
    unsafe {
        if zend_register_ini_entries(ini_definitions(), module_number) != SUCCESS {
            return FAILURE;
        }
        (functions.register_module)(&raw const SAVE_HANDLER)
    }
}

extern "C" fn module_shutdown(_kind: c_int, module_number: c_int) -> c_int {
    // The thread that renews leases must be gone before PHP unloads modules.
    let _ = with_handler(|handler| {
        handler.shut_down();
        Ok(())
    });
    // SAFETY: the number is the one that the entries were registered under.
    unsafe { zend_unregister_ini_entries(module_number) };
    SUCCESS
}

extern "C" fn post_deactivate() -> c_int {
    let _ = with_handler(|handler| {
        handler.end_request();
        Ok(())
    });
    SUCCESS
}

extern "C" fn info(module: *mut ModuleEntry) {
    let rows = {
        // Resolves the settings, so that the section also tells before the first session; nothing is connected.
        let unusable = open_if_closed().err().map(|error| format!("not usable: {error}"));
        let status = with_handler(|handler| {
            let mut status = handler.status();
            status.store = unusable.or(status.store);
            Ok(rows(&status))
        });
        status.ok()
    };
    // SAFETY: the variadic functions get as many NUL-terminated strings as they are told; the module is ours.
    unsafe {
        php_info_print_table_start();
        php_info_print_table_row(2, c"Cloakroom save handler".as_ptr(), c"cloakroom".as_ptr());
        if let Some(rows) = rows {
            for (name, value) in rows {
                let name = Text::<64>::new(name);
                php_info_print_table_row(2, name.as_ptr(), value.as_ptr());
            }
        }
        php_info_print_table_end();
        display_ini_entries(module);
    }
}

fn open_if_closed() -> Result<()> {
    match with_handler(|handler| Ok(handler.status().store.is_some()))? {
        true => Ok(()),
        false => open_handler(&ini("session.save_path")),
    }
}

/// `cloakroom_status(): array`
extern "C" fn cloakroom_status(_call: *mut c_void, result: *mut Zval) {
    let mut argument = Zval::UNDEFINED;
    // SAFETY: PHP copies one argument where there is one, and fails where there is none.
    if unsafe { zend_get_parameters_array_ex(1, &raw mut argument) } == SUCCESS {
        // SAFETY: throws an ArgumentCountError for the active function.
        unsafe { zend_wrong_parameters_none_error() };
        return;
    }
    let Ok(status) = with_handler(|handler| Ok(StatusArray::new(&handler.status()))) else { return };
    let text = |array: *mut Zval, name: &str, value: *const c_char| {
        // SAFETY: the key and its length belong together; PHP copies the key and the NUL-terminated value.
        unsafe {
            match value.is_null() {
                true => add_assoc_null_ex(array, name.as_ptr().cast(), name.len()),
                false => add_assoc_string_ex(array, name.as_ptr().cast(), name.len(), value),
            }
        }
    };
    // SAFETY: `result` is PHP's own place for the result, an unset zval, and becomes an array before it is filled.
    unsafe {
        *result = Zval { value: ZvalValue { array: _zend_new_array_0() }, kind: Zval::ARRAY_OWNED, extra: 0 };
        text(result, "store", status.store.as_ref().map_or(null(), Text::as_ptr));
        text(result, "detected", status.detected.as_ref().map_or(null(), Text::as_ptr));
        for (name, number) in status.numbers {
            add_assoc_long_ex(result, name.as_ptr().cast(), name.len(), number);
        }
        add_assoc_double_ex(result, c"waited".as_ptr(), 6, status.waited);
        let last_commit = Text::<16>::new(status.last_commit);
        text(result, "last_commit", last_commit.as_ptr());
    }
}

/// A setting changes. Refuses a bad value in `ini_set()`. One in a file stays, so that `session_start()` fails and names it.
extern "C" fn on_modify(
    entry: *mut IniEntry,
    value: *mut ZendString,
    _first: *mut c_void,
    _second: *mut c_void,
    _third: *mut c_void,
    stage: c_int,
) -> c_int {
    const RUNTIME: c_int = 1 << 4;
    CONFIG.with(|cached| cached.borrow_mut().take());
    if stage != RUNTIME || value.is_null() {
        return SUCCESS;
    }
    let checked = {
        // SAFETY: PHP passes an entry of ours and the new value, both alive for the call.
        let (name, value) = unsafe { (bytes((*entry).name), bytes(value)) };
        match SETTINGS.iter().find(|setting| setting.name.as_bytes() == name) {
            Some(setting) => (setting.check)(setting.name, &String::from_utf8_lossy(value)),
            None => Ok(()),
        }
    };
    finish(checked)
}

/// The settings as PHP takes them; made once, because PHP keeps the pointer.
fn ini_definitions() -> *const IniDefinition {
    struct Definitions(Vec<IniDefinition>);
    // SAFETY: they hold pointers to immutable statics and are never changed after they are made.
    unsafe impl Send for Definitions {}
    // SAFETY: as above.
    unsafe impl Sync for Definitions {}
    static DEFINITIONS: OnceLock<Definitions> = OnceLock::new();
    let definitions = DEFINITIONS.get_or_init(|| {
        let end = IniDefinition {
            name: null(),
            on_modify: None,
            arguments: [null_mut(); 3],
            value: null(),
            displayer: null(),
            value_length: 0,
            name_length: 0,
            modifiable: 0,
        };
        let entries = SETTINGS.iter().map(|setting| IniDefinition {
            name: setting.name.as_ptr().cast(),
            on_modify: Some(on_modify),
            arguments: [null_mut(); 3],
            value: setting.default.as_ptr().cast(),
            displayer: null(),
            value_length: setting.default.len() as u32,
            name_length: setting.name.len() as u16,
            modifiable: INI_ALL,
        });
        Definitions(entries.chain([end]).collect())
    });
    definitions.0.as_ptr()
}

struct SessionFunctions {
    register_module: unsafe extern "C" fn(*const SaveHandler) -> c_int,
    create_id: unsafe extern "C" fn(*mut *mut c_void) -> *mut ZendString,
}

/// PHP's session functions, looked up by name: where `session` is a shared module that loads after this one, a
/// direct reference would keep this one from loading at all.
fn session_functions() -> Option<&'static SessionFunctions> {
    static FUNCTIONS: OnceLock<Option<SessionFunctions>> = OnceLock::new();
    FUNCTIONS
        .get_or_init(|| {
            // SAFETY: a null handle means the global scope; the addresses are those of PHP's functions with these
            // names, whose types have not changed since PHP 7.
            unsafe {
                let register_module = dlsym(null_mut(), c"php_session_register_module".as_ptr());
                let create_id = dlsym(null_mut(), c"php_session_create_id".as_ptr());
                if register_module.is_null() || create_id.is_null() {
                    return None;
                }
                Some(SessionFunctions {
                    register_module: std::mem::transmute::<
                        *mut c_void,
                        unsafe extern "C" fn(*const SaveHandler) -> c_int,
                    >(register_module),
                    create_id: std::mem::transmute::<
                        *mut c_void,
                        unsafe extern "C" fn(*mut *mut c_void) -> *mut ZendString,
                    >(create_id),
                })
            }
        })
        .as_ref()
}

static MODULE: Module = Module(UnsafeCell::new(ModuleEntry {
    size: size_of::<ModuleEntry>() as u16,
    zend_api: parse(env!("PHP_API_NUMBER")),
    zend_debug: parse(env!("PHP_DEBUG")) as u8,
    zts: parse(env!("PHP_ZTS")) as u8,
    ini_entry: null(),
    deps: (&raw const DEPENDENCIES).cast(),
    name: c"cloakroom".as_ptr(),
    functions: (&raw const FUNCTIONS).cast(),
    module_startup: Some(module_startup),
    module_shutdown: Some(module_shutdown),
    request_startup: None,
    request_shutdown: None,
    info: Some(info),
    version: concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast(),
    globals_size: 0,
    globals: null_mut(),
    globals_constructor: null(),
    globals_destructor: null(),
    post_deactivate: Some(post_deactivate),
    module_started: 0,
    kind: 0,
    handle: null_mut(),
    module_number: 0,
    build_id: concat!(env!("PHP_BUILD_ID"), "\0").as_ptr().cast(),
}));

static DEPENDENCIES: Dependencies = Dependencies([
    Dependency { name: c"session".as_ptr(), relation: null(), version: null(), kind: 1 },
    Dependency { name: null(), relation: null(), version: null(), kind: 0 },
]);

static STATUS_ARGUMENTS: Arguments = Arguments([ArgumentInfo {
    name: null(),
    kind: TypeInfo { pointer: null(), mask: 1 << 7 },
    default: null(),
}]);

static FUNCTIONS: Functions = Functions([
    FunctionEntry {
        name: c"cloakroom_status".as_ptr(),
        handler: Some(cloakroom_status),
        arguments: (&raw const STATUS_ARGUMENTS).cast(),
        count: 0,
        flags: 0,
        #[cfg(php84)]
        frameless: null(),
        #[cfg(php84)]
        doc: null(),
    },
    FunctionEntry {
        name: null(),
        handler: None,
        arguments: null(),
        count: 0,
        flags: 0,
        #[cfg(php84)]
        frameless: null(),
        #[cfg(php84)]
        doc: null(),
    },
]);

const fn parse(digits: &str) -> u32 {
    let digits = digits.as_bytes();
    let mut value = 0;
    let mut index = 0;
    while index < digits.len() {
        value = value * 10 + (digits[index] - b'0') as u32;
        index += 1;
    }
    value
}

// --- PHP's declarations ------------------------------------------------------------------------------------------

/// `PHP_INI_ALL`
const INI_ALL: u8 = 7;

/// `zend_string`
#[repr(C)]
struct ZendString {
    counted: [u32; 2],
    hash: u64,
    length: usize,
    bytes: [u8; 1],
}

/// The bytes of a PHP string.
///
/// # Safety
/// It is alive for as long as the result is used.
unsafe fn bytes<'a>(string: *const ZendString) -> &'a [u8] {
    // SAFETY: the bytes follow the length, in the allocation that the caller keeps alive.
    unsafe { std::slice::from_raw_parts((&raw const (*string).bytes).cast(), (*string).length) }
}

unsafe fn new_string(start: *const u8, length: usize) -> *mut ZendString {
    // SAFETY: the caller's bytes are readable; concatenating copies them into a string of this request, without
    // knowing how this PHP lays one out.
    unsafe { zend_string_concat2(c"".as_ptr(), 0, start.cast(), length) }
}

/// `HashTable`, only ever behind a pointer.
#[repr(C)]
struct ZendArray {
    _opaque: [u8; 0],
}

/// `zval`
#[repr(C)]
struct Zval {
    value: ZvalValue,
    kind: u32,
    extra: u32,
}

#[repr(C)]
union ZvalValue {
    long: i64,
    string: *mut ZendString,
    array: *mut ZendArray,
}

impl Zval {
    const UNDEFINED: Zval = Zval { value: ZvalValue { long: 0 }, kind: 0, extra: 0 };
    const TRUE: u8 = 3;
    const LONG: u8 = 4;
    const STRING: u8 = 6;
    const ARRAY: u8 = 7;
    /// `IS_ARRAY_EX`: an array that is counted and may be collected.
    const ARRAY_OWNED: u32 = 7 | 1 << 8 | 2 << 8;

    fn kind(&self) -> u8 {
        (self.kind & 0xff) as u8
    }

    fn array(&self) -> Option<*const ZendArray> {
        // SAFETY: the type says which member of the union is set.
        (self.kind() == Self::ARRAY).then(|| unsafe { self.value.array.cast_const() })
    }

    fn string(&self) -> Option<&[u8]> {
        // SAFETY: the type says which member is set, and a zval keeps its string alive.
        (self.kind() == Self::STRING).then(|| unsafe { bytes(self.value.string) })
    }
}

type ModuleCallback = extern "C" fn(c_int, c_int) -> c_int;

/// `zend_module_entry`
#[repr(C)]
pub(crate) struct ModuleEntry {
    size: u16,
    zend_api: u32,
    zend_debug: u8,
    zts: u8,
    ini_entry: *const c_void,
    deps: *const Dependency,
    name: *const c_char,
    functions: *const FunctionEntry,
    module_startup: Option<ModuleCallback>,
    module_shutdown: Option<ModuleCallback>,
    request_startup: Option<ModuleCallback>,
    request_shutdown: Option<ModuleCallback>,
    info: Option<extern "C" fn(*mut ModuleEntry)>,
    version: *const c_char,
    globals_size: usize,
    globals: *mut c_void,
    globals_constructor: *const c_void,
    globals_destructor: *const c_void,
    post_deactivate: Option<extern "C" fn() -> c_int>,
    module_started: c_int,
    kind: c_uchar,
    handle: *mut c_void,
    module_number: c_int,
    build_id: *const c_char,
}

struct Module(UnsafeCell<ModuleEntry>);
// SAFETY: PHP alone writes to it, while it starts and before it has threads.
unsafe impl Sync for Module {}

/// `zend_module_dep`
#[repr(C)]
struct Dependency {
    name: *const c_char,
    relation: *const c_char,
    version: *const c_char,
    kind: c_uchar,
}

#[repr(transparent)]
struct Dependencies([Dependency; 2]);
// SAFETY: immutable, and its pointers are to immutable statics.
unsafe impl Sync for Dependencies {}

/// `zend_function_entry`
#[repr(C)]
struct FunctionEntry {
    name: *const c_char,
    handler: Option<extern "C" fn(*mut c_void, *mut Zval)>,
    arguments: *const ArgumentInfo,
    count: u32,
    flags: u32,
    #[cfg(php84)]
    frameless: *const c_void,
    #[cfg(php84)]
    doc: *const c_char,
}

#[repr(transparent)]
struct Functions([FunctionEntry; 2]);
// SAFETY: immutable, and its pointers are to immutable statics.
unsafe impl Sync for Functions {}

/// `zend_internal_arg_info`; the first one of a function holds the result's type.
#[repr(C)]
struct ArgumentInfo {
    name: *const c_char,
    kind: TypeInfo,
    default: *const c_char,
}

/// `zend_type`
#[repr(C)]
struct TypeInfo {
    pointer: *const c_void,
    mask: u32,
}

#[repr(transparent)]
struct Arguments([ArgumentInfo; 1]);
// SAFETY: immutable, and its pointers are null.
unsafe impl Sync for Arguments {}

/// `zend_ini_entry_def`
#[repr(C)]
struct IniDefinition {
    name: *const c_char,
    on_modify: Option<IniCallback>,
    arguments: [*mut c_void; 3],
    value: *const c_char,
    displayer: *const c_void,
    value_length: u32,
    name_length: u16,
    modifiable: u8,
}

type IniCallback =
    extern "C" fn(*mut IniEntry, *mut ZendString, *mut c_void, *mut c_void, *mut c_void, c_int) -> c_int;

/// The beginning of `zend_ini_entry`.
#[repr(C)]
struct IniEntry {
    name: *mut ZendString,
}

type Data = *mut *mut c_void;

/// `ps_module`
#[repr(C)]
struct SaveHandler {
    name: *const c_char,
    open: extern "C" fn(Data, *const c_char, *const c_char) -> c_int,
    close: extern "C" fn(Data) -> c_int,
    read: extern "C" fn(Data, *mut ZendString, *mut *mut ZendString, i64) -> c_int,
    write: extern "C" fn(Data, *mut ZendString, *mut ZendString, i64) -> c_int,
    destroy: extern "C" fn(Data, *mut ZendString) -> c_int,
    gc: extern "C" fn(Data, i64, *mut i64) -> i64,
    create_sid: extern "C" fn(Data) -> *mut ZendString,
    validate_sid: extern "C" fn(Data, *mut ZendString) -> c_int,
    update_timestamp: extern "C" fn(Data, *mut ZendString, *mut ZendString, i64) -> c_int,
}
// SAFETY: immutable, and its pointers are to functions and an immutable string.
unsafe impl Sync for SaveHandler {}

unsafe extern "C" {
    fn pthread_atfork(
        before: Option<extern "C" fn()>,
        in_parent: Option<extern "C" fn()>,
        in_child: Option<extern "C" fn()>,
    ) -> c_int;
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;

    fn zend_register_ini_entries(entries: *const IniDefinition, module_number: c_int) -> c_int;
    fn zend_unregister_ini_entries(module_number: c_int);
    fn display_ini_entries(module: *mut ModuleEntry);
    fn zend_ini_long(name: *const c_char, length: usize, original: c_int) -> i64;
    fn zend_ini_string_ex(
        name: *const c_char,
        length: usize,
        original: c_int,
        exists: *mut bool,
    ) -> *mut c_char;
    fn cfg_get_entry(name: *const c_char, length: usize) -> *mut Zval;

    fn php_error_docref(docref: *const c_char, kind: c_int, format: *const c_char, ...);
    fn zend_throw_exception(class: *mut c_void, message: *const c_char, code: i64) -> *mut c_void;
    static spl_ce_RuntimeException: *mut c_void;

    fn php_info_print_table_start();
    fn php_info_print_table_row(columns: c_int, ...);
    fn php_info_print_table_end();
    fn php_get_temporary_directory() -> *const c_char;
    fn sapi_getenv(name: *const c_char, length: usize) -> *mut c_char;
    #[cfg(not(php_debug))]
    fn _efree(pointer: *mut c_void);
    #[cfg(php_debug)]
    fn _efree(pointer: *mut c_void, file: *const c_char, line: u32, from: *const c_char, from_line: u32);

    fn get_active_function_name() -> *const c_char;
    fn zend_get_parameters_array_ex(count: u32, arguments: *mut Zval) -> c_int;
    fn zend_wrong_parameters_none_error();
    fn zend_fetch_debug_backtrace(trace: *mut Zval, skip_last: c_int, options: c_int, limit: c_int);
    fn zend_hash_str_find(array: *const ZendArray, key: *const c_char, length: usize) -> *mut Zval;
    fn zend_hash_index_find(array: *const ZendArray, index: u64) -> *mut Zval;
    fn zval_ptr_dtor(value: *mut Zval);

    fn zend_string_concat2(
        one: *const c_char,
        length: usize,
        two: *const c_char,
        length: usize,
    ) -> *mut ZendString;
    fn _zend_new_array_0() -> *mut ZendArray;
    fn add_assoc_null_ex(array: *mut Zval, key: *const c_char, length: usize);
    fn add_assoc_long_ex(array: *mut Zval, key: *const c_char, length: usize, value: i64);
    fn add_assoc_double_ex(array: *mut Zval, key: *const c_char, length: usize, value: c_double);
    fn add_assoc_string_ex(array: *mut Zval, key: *const c_char, length: usize, value: *const c_char);
}

#[cfg(test)]
mod layout;
