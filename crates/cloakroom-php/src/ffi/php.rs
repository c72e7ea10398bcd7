//! PHP's own declarations, those of PHP 8.1 to 8.5; `layout.rs` compares them with the installed headers.

use std::cell::UnsafeCell;
use std::ffi::{c_char, c_double, c_int, c_uchar, c_void};

pub(super) const SUCCESS: c_int = 0;
pub(super) const FAILURE: c_int = -1;

/// `PHP_INI_ALL`
pub(super) const INI_ALL: u8 = 7;
/// `PHP_INI_SYSTEM`
pub(super) const INI_SYSTEM: u8 = 4;

/// `zend_string`
#[repr(C)]
pub(super) struct ZendString {
    pub(super) counted: [u32; 2],
    pub(super) hash: u64,
    pub(super) length: usize,
    pub(super) bytes: [u8; 1],
}

/// The bytes of a PHP string.
///
/// # Safety
/// It is alive for as long as the result is used.
pub(super) unsafe fn bytes<'a>(string: *const ZendString) -> &'a [u8] {
    // SAFETY: the bytes follow the length, in the allocation that the caller keeps alive.
    unsafe { std::slice::from_raw_parts((&raw const (*string).bytes).cast(), (*string).length) }
}

pub(super) unsafe fn new_string(start: *const u8, length: usize) -> *mut ZendString {
    // SAFETY: the caller's bytes are readable; concatenating copies them into a string of this request, without
    // knowing how this PHP lays one out.
    unsafe { zend_string_concat2(c"".as_ptr(), 0, start.cast(), length) }
}

/// `HashTable`, only ever behind a pointer.
#[repr(C)]
pub(super) struct ZendArray {
    pub(super) _opaque: [u8; 0],
}

/// `zval`
#[repr(C)]
pub(super) struct Zval {
    pub(super) value: ZvalValue,
    pub(super) kind: u32,
    pub(super) extra: u32,
}

#[repr(C)]
pub(super) union ZvalValue {
    pub(super) long: i64,
    pub(super) string: *mut ZendString,
    pub(super) array: *mut ZendArray,
    pub(super) pointer: *mut c_void,
}

impl Zval {
    pub(super) const UNDEFINED: Zval = Zval { value: ZvalValue { long: 0 }, kind: 0, extra: 0 };
    pub(super) const TRUE: u8 = 3;
    pub(super) const LONG: u8 = 4;
    pub(super) const STRING: u8 = 6;
    pub(super) const ARRAY: u8 = 7;
    pub(super) const POINTER: u8 = 13;
    /// `IS_ARRAY_EX`: an array that is counted and may be collected.
    pub(super) const ARRAY_OWNED: u32 = 7 | 1 << 8 | 2 << 8;

    pub(super) fn kind(&self) -> u8 {
        (self.kind & 0xff) as u8
    }

    pub(super) fn array(&self) -> Option<*const ZendArray> {
        // SAFETY: the type says which member of the union is set.
        (self.kind() == Self::ARRAY).then(|| unsafe { self.value.array.cast_const() })
    }

    pub(super) fn pointer(&self) -> Option<*const c_void> {
        // SAFETY: as above.
        (self.kind() == Self::POINTER).then(|| unsafe { self.value.pointer.cast_const() })
    }

    pub(super) fn string(&self) -> Option<&[u8]> {
        // SAFETY: the type says which member is set, and a zval keeps its string alive.
        (self.kind() == Self::STRING).then(|| unsafe { bytes(self.value.string) })
    }
}

pub(super) type ModuleCallback = extern "C" fn(c_int, c_int) -> c_int;

/// `zend_module_entry`
#[repr(C)]
pub(crate) struct ModuleEntry {
    pub(super) size: u16,
    pub(super) zend_api: u32,
    pub(super) zend_debug: u8,
    pub(super) zts: u8,
    pub(super) ini_entry: *const c_void,
    pub(super) deps: *const Dependency,
    pub(super) name: *const c_char,
    pub(super) functions: *const FunctionEntry,
    pub(super) module_startup: Option<ModuleCallback>,
    pub(super) module_shutdown: Option<ModuleCallback>,
    pub(super) request_startup: Option<ModuleCallback>,
    pub(super) request_shutdown: Option<ModuleCallback>,
    pub(super) info: Option<extern "C" fn(*mut ModuleEntry)>,
    pub(super) version: *const c_char,
    pub(super) globals_size: usize,
    pub(super) globals: *mut c_void,
    pub(super) globals_constructor: *const c_void,
    pub(super) globals_destructor: *const c_void,
    pub(super) post_deactivate: Option<extern "C" fn() -> c_int>,
    pub(super) module_started: c_int,
    pub(super) kind: c_uchar,
    pub(super) handle: *mut c_void,
    pub(super) module_number: c_int,
    pub(super) build_id: *const c_char,
}

pub(super) struct Module(pub(super) UnsafeCell<ModuleEntry>);
// SAFETY: PHP alone writes to it, while it starts and before it has threads.
unsafe impl Sync for Module {}

/// `zend_module_dep`
#[repr(C)]
pub(super) struct Dependency {
    pub(super) name: *const c_char,
    pub(super) relation: *const c_char,
    pub(super) version: *const c_char,
    pub(super) kind: c_uchar,
}

#[repr(transparent)]
pub(super) struct Dependencies(pub(super) [Dependency; 2]);
// SAFETY: immutable, and its pointers are to immutable statics.
unsafe impl Sync for Dependencies {}

/// `zend_function_entry`
#[repr(C)]
pub(super) struct FunctionEntry {
    pub(super) name: *const c_char,
    pub(super) handler: Option<extern "C" fn(*mut c_void, *mut Zval)>,
    pub(super) arguments: *const ArgumentInfo,
    pub(super) count: u32,
    pub(super) flags: u32,
    #[cfg(php84)]
    pub(super) frameless: *const c_void,
    #[cfg(php84)]
    pub(super) doc: *const c_char,
}

#[repr(transparent)]
pub(super) struct Functions(pub(super) [FunctionEntry; 2]);
// SAFETY: immutable, and its pointers are to immutable statics.
unsafe impl Sync for Functions {}

/// `zend_internal_arg_info`; the first one of a function holds the result's type.
#[repr(C)]
pub(super) struct ArgumentInfo {
    pub(super) name: *const c_char,
    pub(super) kind: TypeInfo,
    pub(super) default: *const c_char,
}

/// `zend_type`
#[repr(C)]
pub(super) struct TypeInfo {
    pub(super) pointer: *const c_void,
    pub(super) mask: u32,
}

#[repr(transparent)]
pub(super) struct Arguments(pub(super) [ArgumentInfo; 1]);
// SAFETY: immutable, and its pointers are null.
unsafe impl Sync for Arguments {}

/// `zend_ini_entry_def`
#[repr(C)]
pub(super) struct IniDefinition {
    pub(super) name: *const c_char,
    pub(super) on_modify: Option<IniCallback>,
    pub(super) arguments: [*mut c_void; 3],
    pub(super) value: *const c_char,
    pub(super) displayer: Option<IniDisplayer>,
    pub(super) value_length: u32,
    pub(super) name_length: u16,
    pub(super) modifiable: u8,
}

pub(super) type IniCallback =
    extern "C" fn(*mut IniEntry, *mut ZendString, *mut c_void, *mut c_void, *mut c_void, c_int) -> c_int;

/// The beginning of `zend_ini_entry`.
#[repr(C)]
pub(super) struct IniEntry {
    pub(super) name: *mut ZendString,
    pub(super) on_modify: Option<IniCallback>,
    pub(super) arguments: [*mut c_void; 3],
    pub(super) value: *mut ZendString,
}

pub(super) type IniDisplayer = extern "C" fn(*mut IniEntry, c_int);

pub(super) type Data = *mut *mut c_void;

pub(super) type OpenCallback = extern "C" fn(Data, *const c_char, *const c_char) -> c_int;

/// `ps_module`
#[repr(C)]
pub(super) struct SaveHandler {
    pub(super) name: *const c_char,
    pub(super) open: OpenCallback,
    pub(super) close: extern "C" fn(Data) -> c_int,
    pub(super) read: extern "C" fn(Data, *mut ZendString, *mut *mut ZendString, i64) -> c_int,
    pub(super) write: extern "C" fn(Data, *mut ZendString, *mut ZendString, i64) -> c_int,
    pub(super) destroy: extern "C" fn(Data, *mut ZendString) -> c_int,
    pub(super) gc: extern "C" fn(Data, i64, *mut i64) -> i64,
    pub(super) create_sid: extern "C" fn(Data) -> *mut ZendString,
    pub(super) validate_sid: extern "C" fn(Data, *mut ZendString) -> c_int,
    pub(super) update_timestamp: extern "C" fn(Data, *mut ZendString, *mut ZendString, i64) -> c_int,
}
// SAFETY: immutable, and its pointers are to functions and an immutable string.
unsafe impl Sync for SaveHandler {}

/// The beginning of `sapi_module_struct`.
#[repr(C)]
pub(super) struct SapiModule {
    pub(super) name: *const c_char,
}

unsafe extern "C" {
    pub(super) fn pthread_atfork(
        before: Option<extern "C" fn()>,
        in_parent: Option<extern "C" fn()>,
        in_child: Option<extern "C" fn()>,
    ) -> c_int;
    pub(super) fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;

    pub(super) fn zend_register_ini_entries(entries: *const IniDefinition, module_number: c_int) -> c_int;
    pub(super) fn zend_unregister_ini_entries(module_number: c_int);
    pub(super) fn display_ini_entries(module: *mut ModuleEntry);
    pub(super) fn zend_ini_long(name: *const c_char, length: usize, original: c_int) -> i64;
    pub(super) fn zend_ini_string_ex(
        name: *const c_char,
        length: usize,
        original: c_int,
        exists: *mut bool,
    ) -> *mut c_char;
    pub(super) fn cfg_get_entry(name: *const c_char, length: usize) -> *mut Zval;

    pub(super) fn php_error_docref(docref: *const c_char, kind: c_int, format: *const c_char, ...);
    pub(super) fn php_log_err_with_severity(message: *const c_char, severity: c_int);
    pub(super) fn zend_throw_exception(class: *mut c_void, message: *const c_char, code: i64) -> *mut c_void;
    pub(super) static spl_ce_RuntimeException: *mut c_void;
    pub(super) static module_registry: ZendArray;
    pub(super) static zend_one_char_string: [*mut ZendString; 256];

    pub(super) fn php_info_print_table_start();
    pub(super) fn php_info_print_table_row(columns: c_int, ...);
    pub(super) fn php_info_print_table_end();
    pub(super) fn php_output_write(text: *const c_char, length: usize) -> usize;
    pub(super) fn php_get_temporary_directory() -> *const c_char;
    pub(super) static sapi_module: SapiModule;
    pub(super) fn sapi_getenv(name: *const c_char, length: usize) -> *mut c_char;
    #[cfg(not(php_debug))]
    pub(super) fn _efree(pointer: *mut c_void);
    #[cfg(php_debug)]
    pub(super) fn _efree(
        pointer: *mut c_void,
        file: *const c_char,
        line: u32,
        from: *const c_char,
        from_line: u32,
    );

    pub(super) fn get_active_function_name() -> *const c_char;
    pub(super) fn zend_get_parameters_array_ex(count: u32, arguments: *mut Zval) -> c_int;
    pub(super) fn zend_wrong_parameters_none_error();
    pub(super) fn zend_fetch_debug_backtrace(
        trace: *mut Zval,
        skip_last: c_int,
        options: c_int,
        limit: c_int,
    );
    pub(super) fn zend_hash_str_find(array: *const ZendArray, key: *const c_char, length: usize)
    -> *mut Zval;
    pub(super) fn zend_hash_index_find(array: *const ZendArray, index: u64) -> *mut Zval;
    pub(super) fn zval_ptr_dtor(value: *mut Zval);

    pub(super) fn zend_string_concat2(
        one: *const c_char,
        length: usize,
        two: *const c_char,
        length: usize,
    ) -> *mut ZendString;
    pub(super) fn _zend_new_array_0() -> *mut ZendArray;
    pub(super) fn add_assoc_null_ex(array: *mut Zval, key: *const c_char, length: usize);
    pub(super) fn add_assoc_long_ex(array: *mut Zval, key: *const c_char, length: usize, value: i64);
    pub(super) fn add_assoc_double_ex(array: *mut Zval, key: *const c_char, length: usize, value: c_double);
    pub(super) fn add_assoc_zval_ex(array: *mut Zval, key: *const c_char, length: usize, value: *mut Zval);
    pub(super) fn add_assoc_string_ex(
        array: *mut Zval,
        key: *const c_char,
        length: usize,
        value: *const c_char,
    );
}
