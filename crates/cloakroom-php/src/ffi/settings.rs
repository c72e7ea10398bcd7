//! The settings of php.ini: registered, read, and refused when they change to nonsense.

use std::cell::RefCell;
use std::ffi::{CStr, c_int, c_void};
use std::ptr::{null, null_mut};

use cloakroom::{Error, ErrorKind, Result};

use super::php::*;
use super::{environment, finish};
use crate::drop_in::{Ini, Native, whole_number};
use crate::ini::{Config, SETTINGS, Scope, Setting, time_to_live};

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
/// file. Those of a native handler may be another extension's, which tells nobody that they change: they are few, and
/// read each time.
pub(super) fn config(native: Option<&Native>) -> Result<Config> {
    // SAFETY: the name and its length belong together.
    let lifetime = unsafe { zend_ini_long(c"session.gc_maxlifetime".as_ptr(), 22, 0) };
    CONFIG.with(|cached| {
        let mut cached = cached.borrow_mut();
        let mut config = match cached.take() {
            Some(config) => config,
            None => {
                let mut config = Config::read(ini)?;
                config.store.environment = environment().clone();
                config
            }
        };
        config.store.lifetime = time_to_live(lifetime);
        let mut config = cached.insert(config).clone();
        if let Some(native) = native {
            (native.adopt)(&mut config, &NativeIni(native))?;
        }
        Ok(config)
    })
}

/// A native handler's settings as PHP has them.
struct NativeIni<'a>(&'a Native);

impl Ini for NativeIni<'_> {
    fn text(&self, name: &str) -> String {
        match setting(name) {
            Some(text) => text.to_string_lossy().into_owned(),
            // Of a version that does not know it yet; php.ini may have it all the same.
            None => configured_text(name),
        }
    }

    fn number(&self, name: &str) -> i64 {
        match setting(name) {
            // SAFETY: the name and its length belong together.
            Some(_) => unsafe { zend_ini_long(name.as_ptr().cast(), name.len(), 0) },
            None => whole_number(&configured_text(name)),
        }
    }

    /// PHP does not tell whether a setting still has the value that it was registered with. What can be known: a file or
    /// the command line has it; it differs from what was registered; or it is a string of one character, and not the one
    /// of PHP's own that a default of one character is (and, alas, such a literal in a script).
    fn is_given(&self, name: &str, default: &str) -> bool {
        // SAFETY: the name and its length belong together; only whether the result is null matters.
        let in_file = unsafe { !cfg_get_entry(name.as_ptr().cast(), name.len()).is_null() };
        if in_file {
            return true;
        }
        let Some(text) = setting(name) else { return false };
        if Extension::of(self.0) == Extension::Absent {
            let registered = self.0.settings.iter().find(|(registered, _)| *registered == name);
            return registered.is_some_and(|(_, default)| text.to_bytes() != default.as_bytes());
        }
        match *text.to_bytes() {
            _ if text.to_bytes() != default.as_bytes() => true,
            // SAFETY: PHP keeps its own strings for ever; only the address is taken.
            [one] => unsafe {
                let own = (&raw const (*zend_one_char_string[usize::from(one)]).bytes).cast();
                text.as_ptr() != own
            },
            _ => false,
        }
    }

    fn version(&self) -> Option<u32> {
        let entry = loaded(self.0)?;
        // SAFETY: a loaded module's entry stays where it is; its version is null or a NUL-terminated string of its own.
        let version = unsafe {
            let version = (*entry).version;
            if version.is_null() { c"" } else { CStr::from_ptr(version) }
        };
        version.to_string_lossy().split('.').next()?.parse().ok()
    }
}

/// Whether a native handler's extension is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extension {
    Absent,
    /// It is still to start.
    Loaded,
    /// It has registered its handlers.
    Started,
}

impl Extension {
    pub(super) fn of(native: &Native) -> Self {
        match loaded(native) {
            None => Extension::Absent,
            // SAFETY: a loaded module's entry stays where it is.
            Some(entry) if unsafe { (*entry).module_started } == 0 => Extension::Loaded,
            Some(_) => Extension::Started,
        }
    }
}

/// The module entry of a native handler's extension.
fn loaded(native: &Native) -> Option<*const ModuleEntry> {
    let name = native.extension;
    // SAFETY: the registry is PHP's own, and changes only while PHP starts, in this thread; it holds pointers to
    // module entries.
    let found =
        unsafe { zend_hash_str_find(&raw const module_registry, name.as_ptr(), name.count_bytes()).as_ref() };
    found.and_then(Zval::pointer).map(<*const c_void>::cast)
}

/// The setting's text, where there is such a setting.
fn setting(name: &str) -> Option<&CStr> {
    let mut exists = false;
    // SAFETY: the name and its length belong together; the text is NUL-terminated and lives until the setting changes,
    // which nothing does while it is looked at.
    unsafe {
        let text = zend_ini_string_ex(name.as_ptr().cast(), name.len(), 0, &raw mut exists);
        (exists && !text.is_null()).then(|| CStr::from_ptr(text))
    }
}

/// What a file or the command line says.
fn configured_text(name: &str) -> String {
    // SAFETY: the name and its length belong together; PHP keeps the entry until the process ends.
    let entry = unsafe { cfg_get_entry(name.as_ptr().cast(), name.len()).as_ref() };
    entry.and_then(Zval::string).map(|text| String::from_utf8_lossy(text).into_owned()).unwrap_or_default()
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
    const STARTUP: c_int = 1;
    const SHUTDOWN: c_int = 1 << 1;
    const RUNTIME: c_int = 1 << 4;
    CONFIG.with(|cached| cached.borrow_mut().take());
    if value.is_null() {
        return SUCCESS;
    }
    let checked = {
        // SAFETY: PHP passes an entry of ours and the new value, both alive for the call.
        let (name, value) = unsafe { (bytes((*entry).name), bytes(value)) };
        match SETTINGS.iter().find(|setting| setting.name.as_bytes() == name) {
            Some(Setting { name, scope: Scope::Start, .. }) if stage & (STARTUP | SHUTDOWN) == 0 => {
                Err(Error::new(ErrorKind::Config, format!("{name} is set after PHP has started"))
                    .hint("set it in php.ini or on the command line of PHP, not in a pool"))
            }
            Some(setting) if stage == RUNTIME => {
                (setting.check)(setting.name, &String::from_utf8_lossy(value))
            }
            _ => Ok(()),
        }
    };
    finish(checked)
}

/// A setting as PHP takes it.
fn definition(
    name: &'static str,
    default: &'static str,
    scope: Scope,
    on_modify: Option<IniCallback>,
) -> IniDefinition {
    IniDefinition {
        name: name.as_ptr().cast(),
        on_modify,
        arguments: [null_mut(); 3],
        value: default.as_ptr().cast(),
        displayer: None,
        value_length: default.len() as u32,
        name_length: name.len() as u16,
        modifiable: match scope {
            Scope::Anywhere => INI_ALL,
            Scope::Start => INI_SYSTEM,
        },
    }
}

/// Registers Cloakroom's settings.
pub(super) fn register_own(module_number: c_int) -> c_int {
    let own = SETTINGS.iter();
    register(own.map(|own| definition(own.name, own.default, own.scope, Some(on_modify))), module_number)
}

/// Registers a native handler's settings, so that they can be set where its extension is absent. Where it is not, one
/// name too much would keep PHP from registering any of the extension's own.
pub(super) fn register_native(native: &Native, module_number: c_int) -> c_int {
    let definitions = native.settings.iter().map(|(name, default)| IniDefinition {
        displayer: name.ends_with("password").then_some(mask as IniDisplayer),
        ..definition(name, default, Scope::Anywhere, None)
    });
    register(definitions, module_number)
}

/// `phpinfo()` shows a password.
extern "C" fn mask(entry: *mut IniEntry, _kind: c_int) {
    // SAFETY: PHP passes an entry of ours, whose value is null or a string; it copies the text.
    unsafe {
        let empty = (*entry).value.is_null() || bytes((*entry).value).is_empty();
        let text = if empty { "no value" } else { "***" };
        php_output_write(text.as_ptr().cast(), text.len());
    }
}

fn register(definitions: impl Iterator<Item = IniDefinition>, module_number: c_int) -> c_int {
    let end = IniDefinition {
        name: null(),
        on_modify: None,
        arguments: [null_mut(); 3],
        value: null(),
        displayer: None,
        value_length: 0,
        name_length: 0,
        modifiable: 0,
    };
    // PHP keeps the pointer for as long as it runs.
    let definitions = Box::leak(definitions.chain([end]).collect::<Box<[_]>>());
    // SAFETY: the definitions end as PHP expects, and live for ever.
    unsafe { zend_register_ini_entries(definitions.as_ptr(), module_number) }
}
