//! Which PHP function is underneath a callback, and what the request is.

use std::ffi::{CStr, c_void};

use super::php::*;
use super::settings::configured;
use crate::handler::{Caller, From};
use crate::ini::OnLockTimeout;

pub(super) fn active_function() -> Option<&'static [u8]> {
    // SAFETY: PHP returns null or the NUL-terminated name of a function, which outlives the callback that it made.
    unsafe {
        let name = get_active_function_name();
        (!name.is_null()).then(|| CStr::from_ptr(name).to_bytes())
    }
}

/// Which PHP function is underneath this callback, and what it was asked for.
pub(super) fn caller() -> Caller {
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
    unsafe { _efree(pointer, c"caller.rs".as_ptr(), line!(), std::ptr::null(), 0) };
}
