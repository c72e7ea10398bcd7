//! The settings of php.ini: registered, read, and refused when they change to nonsense.

use std::cell::RefCell;
use std::ffi::{CStr, c_int, c_void};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

use cloakroom::Result;

use super::finish;
use super::php::*;
use crate::ini::{Config, SETTINGS, time_to_live};

thread_local! {
    /// The settings as they were last read; forgotten when one of them changes.
    static CONFIG: RefCell<Option<Config>> = const { RefCell::new(None) };
}

/// A setting of php.ini as text; empty when it is not set.
pub(super) fn ini(name: &str) -> String {
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
pub(super) fn config() -> Result<Config> {
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
pub(super) fn configured(says: impl FnOnce(&Config) -> bool) -> bool {
    CONFIG.with(|cached| cached.borrow().as_ref().is_some_and(says))
}

pub(super) fn is_configured() -> bool {
    // SAFETY: the name and its length belong together; only whether the result is null matters.
    unsafe { !cfg_get_entry(c"session.save_path".as_ptr(), 17).is_null() }
}

pub(super) fn temporary_directory() -> String {
    // SAFETY: PHP returns a NUL-terminated string of its own, kept until the process ends.
    unsafe { CStr::from_ptr(php_get_temporary_directory()) }.to_string_lossy().into_owned()
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
pub(super) fn ini_definitions() -> *const IniDefinition {
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
