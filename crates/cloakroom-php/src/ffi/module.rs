//! The module: what PHP finds when it loads the extension, its start and end, `phpinfo()` and `cloakroom_status()`.

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

use cloakroom::{Environment, Error, ErrorKind, Result};

use super::php::*;
use super::settings::{Extension, ini, register_native, register_own};
use super::{
    ENVIRONMENT, NATIVE_HANDLERS, SAVE_HANDLER, count_fork, finish, open_handler, warn, with_handler,
};
use crate::drop_in::{self, NATIVES, Native};
use crate::report::{StatusArray, Text, message, rows};

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
    if register_own(module_number) != SUCCESS {
        return FAILURE;
    }
    // SAFETY: the save handler is 'static.
    if unsafe { (functions.register_module)(&raw const SAVE_HANDLER) } != SUCCESS {
        return FAILURE;
    }
    for problem in stand_in(functions, module_number) {
        warn(*problem);
    }
    SUCCESS
}

/// Registers the handlers that Cloakroom stands in for. What cannot be registered stays the native extension's, and
/// comes back as a warning.
fn stand_in(functions: &SessionFunctions, module_number: c_int) -> &'static [Text<1024>] {
    let (wanted, refused) = drop_in::named(&ini("cloakroom.drop_in"));
    let mut stands_in: Vec<&Native> = Vec::new();
    let mut seen = Vec::new();
    let mut problems: Vec<Error> = refused.into_iter().collect();
    for index in wanted {
        let native = &NATIVES[index];
        let first = !seen.contains(&native.extension);
        match Extension::of(native) {
            Extension::Started => {
                if first {
                    problems.push(started_before(native));
                }
            }
            state => {
                if state == Extension::Absent && first {
                    register_native(native, module_number);
                }
                // SAFETY: the save handlers are 'static.
                if unsafe { (functions.register_module)(&raw const NATIVE_HANDLERS[index]) } != SUCCESS {
                    let what = format!("PHP has no room for the save handler {}", native.name());
                    problems.push(
                        Error::new(ErrorKind::Config, what).hint("load fewer extensions with save handlers"),
                    );
                } else {
                    stands_in.push(native);
                }
            }
        }
        seen.push(native.extension);
    }
    let _ = STANDS_IN.set(stands_in);
    // Leaked: nothing that needs dropping may be alive when PHP warns.
    problems.iter().map(message).collect::<Vec<_>>().leak()
}

/// The native handlers whose names Cloakroom has.
static STANDS_IN: OnceLock<Vec<&Native>> = OnceLock::new();

fn started_before(native: &Native) -> Error {
    let extension = native.extension.to_string_lossy();
    let what = format!(
        "cloakroom.drop_in has no effect on {}: PHP loads the extension {extension} before cloakroom, and takes the \
         first save handler of a name",
        native.name()
    );
    Error::new(ErrorKind::Config, what).hint(format!(
        "put extension=cloakroom before extension={extension}: in a file that sorts first, 10-cloakroom.ini before \
         20-{extension}.ini"
    ))
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
        if serves_requests() {
            handler.look_around()?;
        }
        Ok(())
    });
    SUCCESS
}

/// Whether this process is there for many requests: a script of the command line is not to pay for what a worker looks at
/// once.
fn serves_requests() -> bool {
    // SAFETY: PHP sets the name before it loads modules, and it is NUL-terminated.
    unsafe { CStr::from_ptr(sapi_module.name) != c"cli" }
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
    let names = {
        let natives = STANDS_IN.get().into_iter().flatten().map(|native| native.name());
        Text::<128>::new(["cloakroom"].into_iter().chain(natives).collect::<Vec<_>>().join(", "))
    };
    // SAFETY: the variadic functions get as many NUL-terminated strings as they are told; the module is ours.
    unsafe {
        php_info_print_table_start();
        php_info_print_table_row(2, c"Cloakroom save handlers".as_ptr(), names.as_ptr());
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
        false => {
            let name = ini("session.save_handler");
            let mut natives = STANDS_IN.get().into_iter().flatten().copied();
            let native = natives.find(|native| native.name().eq_ignore_ascii_case(&name));
            open_handler(&ini("session.save_path"), ini("session.name").as_bytes(), native)
        }
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
        *result = new_array();
        text(result, "store", status.store.as_ref().map_or(null(), Text::as_ptr));
        text(result, "detected", status.detected.as_ref().map_or(null(), Text::as_ptr));
        for (name, number) in status.numbers {
            add_assoc_long_ex(result, name.as_ptr().cast(), name.len(), number);
        }
        add_assoc_double_ex(result, c"waited".as_ptr(), 6, status.waited);
        let last_commit = Text::<16>::new(status.last_commit);
        text(result, "last_commit", last_commit.as_ptr());
        if !status.bill().is_empty() {
            let mut units = new_array();
            for (purpose, billed) in status.bill() {
                let mut of_purpose = new_array();
                let requests = i64::try_from(billed.requests).unwrap_or(i64::MAX);
                add_assoc_long_ex(&raw mut of_purpose, c"requests".as_ptr(), 8, requests);
                add_assoc_double_ex(&raw mut of_purpose, c"read".as_ptr(), 4, billed.read_units);
                add_assoc_double_ex(&raw mut of_purpose, c"write".as_ptr(), 5, billed.write_units);
                let (name, length) = (purpose.as_ptr().cast(), purpose.len());
                add_assoc_zval_ex(&raw mut units, name, length, &raw mut of_purpose);
            }
            add_assoc_zval_ex(result, c"units".as_ptr(), 5, &raw mut units);
        }
    }
}

/// An empty array, for whoever it is put into.
fn new_array() -> Zval {
    // SAFETY: PHP returns an array, or does not return.
    let array = unsafe { _zend_new_array_0() };
    Zval { value: ZvalValue { array }, kind: Zval::ARRAY_OWNED, extra: 0 }
}

pub(super) struct SessionFunctions {
    register_module: unsafe extern "C" fn(*const SaveHandler) -> c_int,
    pub(super) create_id: unsafe extern "C" fn(*mut *mut c_void) -> *mut ZendString,
}

/// PHP's session functions, looked up by name: where `session` is a shared module that loads after this one, a
/// direct reference would keep this one from loading at all.
pub(super) fn session_functions() -> Option<&'static SessionFunctions> {
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

pub(super) static STATUS_ARGUMENTS: Arguments = Arguments([ArgumentInfo {
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
