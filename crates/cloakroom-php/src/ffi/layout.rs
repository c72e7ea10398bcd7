//! The declarations of `php.rs` against the PHP headers that the build found: a C compiler compares them.

use std::fmt::Write;
use std::mem::{offset_of, size_of};
use std::process::{Command, Stdio};

use super::module::STATUS_ARGUMENTS;
use super::php::*;

macro_rules! layout {
    ($out:ident, $rust:ty as $c:literal { $($field:tt as $name:literal),* $(,)? }) => {
        writeln!($out, "_Static_assert(sizeof({}) == {}, \"size of {}\");", $c, size_of::<$rust>(), $c).unwrap();
        layout!(@fields $out, $rust as $c { $($field as $name),* });
    };
    (@fields $out:ident, $rust:ty as $c:literal { $($field:tt as $name:literal),* $(,)? }) => {
        $(writeln!(
            $out,
            "_Static_assert(offsetof({}, {}) == {}, \"offset of {}.{}\");",
            $c, $name, offset_of!($rust, $field), $c, $name
        )
        .unwrap();)*
    };
}

fn assertions() -> String {
    let mut c = String::from(
        "#include <stddef.h>\n#include \"php.h\"\n#include \"php_ini.h\"\n#include \"zend_builtin_functions.h\"\n#include \"zend_exceptions.h\"\n#include \"SAPI.h\"\n#include \"ext/standard/info.h\"\n#include \"main/php_open_temporary_file.h\"\n#include \"ext/spl/spl_exceptions.h\"\n#include \"ext/session/php_session.h\"\n",
    );
    layout!(c, ModuleEntry as "zend_module_entry" {
        size as "size", zend_api as "zend_api", zend_debug as "zend_debug", zts as "zts", deps as "deps",
        name as "name", functions as "functions", module_startup as "module_startup_func",
        module_shutdown as "module_shutdown_func", request_startup as "request_startup_func",
        request_shutdown as "request_shutdown_func", info as "info_func", version as "version",
        globals_size as "globals_size", globals_constructor as "globals_ctor",
        post_deactivate as "post_deactivate_func", module_started as "module_started", kind as "type",
        handle as "handle", module_number as "module_number", build_id as "build_id",
    });
    layout!(c, Dependency as "zend_module_dep" {
        name as "name", relation as "rel", version as "version", kind as "type",
    });
    layout!(c, FunctionEntry as "zend_function_entry" {
        name as "fname", handler as "handler", arguments as "arg_info", count as "num_args", flags as "flags",
    });
    layout!(c, ArgumentInfo as "zend_internal_arg_info" { name as "name", kind as "type", default as "default_value" });
    layout!(c, TypeInfo as "zend_type" { pointer as "ptr", mask as "type_mask" });
    layout!(c, IniDefinition as "zend_ini_entry_def" {
        name as "name", on_modify as "on_modify", arguments as "mh_arg1", value as "value",
        displayer as "displayer", value_length as "value_length", name_length as "name_length",
        modifiable as "modifiable",
    });
    layout!(@fields c, IniEntry as "zend_ini_entry" {
        name as "name", on_modify as "on_modify", arguments as "mh_arg1", value as "value",
    });
    layout!(@fields c, ZendString as "zend_string" { hash as "h", length as "len", bytes as "val" });
    layout!(c, Zval as "zval" { value as "value", kind as "u1", extra as "u2" });
    layout!(c, SaveHandler as "ps_module" {
        name as "s_name", open as "s_open", close as "s_close", read as "s_read", write as "s_write",
        destroy as "s_destroy", gc as "s_gc", create_sid as "s_create_sid", validate_sid as "s_validate_sid",
        update_timestamp as "s_update_timestamp",
    });
    for (constant, value) in [
        ("IS_TRUE", u32::from(Zval::TRUE)),
        ("IS_LONG", u32::from(Zval::LONG)),
        ("IS_STRING", u32::from(Zval::STRING)),
        ("IS_ARRAY", u32::from(Zval::ARRAY)),
        ("IS_ARRAY_EX", Zval::ARRAY_OWNED),
        ("IS_PTR", u32::from(Zval::POINTER)),
        ("ZEND_INI_ALL", u32::from(INI_ALL)),
        ("ZEND_INI_SYSTEM", u32::from(INI_SYSTEM)),
        ("MAY_BE_ARRAY", STATUS_ARGUMENTS.0[0].kind.mask),
        ("sizeof(zend_long)", size_of::<i64>() as u32),
    ] {
        writeln!(c, "_Static_assert({constant} == {value}, \"{constant}\");").unwrap();
    }
    // The types of the functions that are called: a changed signature does not compile.
    c += "zend_result (*register_module)(const ps_module *) = php_session_register_module;\n\
          zend_string *(*create_id)(void **) = php_session_create_id;\n\
          zend_result (*register_ini)(const zend_ini_entry_def *, int) = zend_register_ini_entries;\n\
          void (*throw_away)(zval *) = zval_ptr_dtor;\n\
          zend_result (*arguments)(uint32_t, zval *) = zend_get_parameters_array_ex;\n\
          void (*backtrace)(zval *, int, int, int) = zend_fetch_debug_backtrace;\n\
          void (*add_long)(zval *, const char *, size_t, zend_long) = add_assoc_long_ex;\n\
          void (*add_double)(zval *, const char *, size_t, double) = add_assoc_double_ex;\n\
          zend_string *(*concat)(const char *, size_t, const char *, size_t) = zend_string_concat2;\n\
          void (*unregister_ini)(int) = zend_unregister_ini_entries;\n\
          void (*display_ini)(zend_module_entry *) = display_ini_entries;\n\
          zend_long (*ini_long)(const char *, size_t, int) = zend_ini_long;\n\
          char *(*ini_string)(const char *, size_t, int, bool *) = zend_ini_string_ex;\n\
          zval *(*configured)(const char *, size_t) = cfg_get_entry;\n\
          void (*warn)(const char *, int, const char *, ...) = php_error_docref;\n\
          zend_object *(*throw)(zend_class_entry *, const char *, zend_long) = zend_throw_exception;\n\
          zend_class_entry **exception = &spl_ce_RuntimeException;\n\
          HashTable *modules = &module_registry;\n\
          zend_string *(*characters)[256] = &zend_one_char_string;\n\
          void (*row)(int, ...) = php_info_print_table_row;\n\
          size_t (*output)(const char *, size_t) = php_output_write;\n\
          const char *(*temporary)(void) = php_get_temporary_directory;\n\
          char *(*environment)(const char *, size_t) = sapi_getenv;\n\
          _Static_assert(offsetof(sapi_module_struct, name) == 0, \"offset of sapi_module_struct.name\");\n\
          sapi_module_struct *sapi = &sapi_module;\n\
          void (*log_line)(const char *, int) = php_log_err_with_severity;\n\
          const char *(*active)(void) = get_active_function_name;\n\
          void (*no_arguments)(void) = zend_wrong_parameters_none_error;\n\
          zval *(*by_name)(const HashTable *, const char *, size_t) = zend_hash_str_find;\n\
          zval *(*by_index)(const HashTable *, zend_ulong) = zend_hash_index_find;\n\
          HashTable *(*new_array)(void) = _zend_new_array_0;\n\
          void (*add_null)(zval *, const char *, size_t) = add_assoc_null_ex;\n\
          void (*add_value)(zval *, const char *, size_t, zval *) = add_assoc_zval_ex;\n\
          void (*add_string)(zval *, const char *, size_t, const char *) = add_assoc_string_ex;\n";
    c
}

fn compile(source: &str, extra: &[&str]) -> Result<(), String> {
    let config = std::env::var("PHP_CONFIG").unwrap_or_else(|_| "php-config".into());
    let includes = Command::new(config).arg("--includes").output().unwrap();
    let includes = String::from_utf8(includes.stdout).unwrap();
    let mut compiler = Command::new("cc")
        .args(["-std=gnu11", "-fsyntax-only", "-Werror=incompatible-pointer-types", "-x", "c", "-"])
        .args(includes.split_whitespace())
        .args(extra)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut compiler.stdin.take().unwrap(), source.as_bytes()).unwrap();
    let output = compiler.wait_with_output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

#[test]
fn the_declarations_are_those_of_the_installed_headers() {
    compile(&assertions(), &[]).unwrap();
}

#[test]
fn the_declarations_hold_for_threaded_builds_too() {
    compile(&assertions(), &["-DZTS"]).unwrap();
}

#[test]
fn a_wrong_declaration_does_not_compile() {
    let wrong =
        assertions().replace("offsetof(ps_module, s_read) == 24", "offsetof(ps_module, s_read) == 32");
    let errors = compile(&wrong, &[]).unwrap_err();
    assert!(errors.contains("offset of ps_module.s_read"), "{errors}");
}
