use super::*;

fn part(format: Format) -> Part {
    let line = format.line("session.save_handler", "x").unwrap();
    Part { format, pool: "www".into(), names: vec!["session.save_handler"], lines: vec![line], secret: false }
}

/// The text afterwards; a second run must not change it again.
#[track_caller]
fn merged(format: Format, text: &str) -> String {
    let part = part(format);
    let once = part.merged(text, Path::new("FILE")).unwrap();
    assert_eq!(part.merged(&once, Path::new("FILE")).unwrap(), once);
    once
}

const INI: &str = "; cloakroom ini: from here, rewritten at each run
session.save_handler = \"x\"
; cloakroom ini: to here
";

const POOL: &str = "; cloakroom ini: from here, rewritten at each run
php_value[session.save_handler] = \"x\"
; cloakroom ini: to here
";

const POOL_WITH_ITS_SECTION: &str = "; cloakroom ini: from here, rewritten at each run
[www]
php_value[session.save_handler] = \"x\"
; cloakroom ini: to here
";

const APACHE: &str = "# cloakroom ini: from here, rewritten at each run
php_value session.save_handler \"x\"
# cloakroom ini: to here
";

#[test]
fn other_lines_are_kept_and_those_of_the_same_name_commented_out() {
    for (text, expected) in [
        ("", INI.to_owned()),
        ("a = 1", format!("a = 1\n{INI}")),
        ("a = 1\n\n", format!("a = 1\n{INI}\n")),
        (
            "[Session]\nsession.save_handler = files\nb = 2\nsession.save_handler=redis\n",
            format!("[Session]\n{INI}; session.save_handler = files\nb = 2\n; session.save_handler=redis\n"),
        ),
        (";session.save_handler = files\n", format!(";session.save_handler = files\n{INI}")),
        (
            "a = 1\n[PATH=/srv]\nsession.save_handler = files\n",
            format!("a = 1\n{INI}[PATH=/srv]\nsession.save_handler = files\n"),
        ),
        (
            "; cloakroom ini: from here, rewritten at each run\nold = 1\n; cloakroom ini: to here\nb = 2\n",
            format!("{INI}b = 2\n"),
        ),
    ] {
        assert_eq!(merged(Format::PhpIni, text), expected, "{text}");
    }
}

#[test]
fn the_pool_of_that_name_is_changed_and_no_other() {
    for (text, expected) in [
        ("", POOL_WITH_ITS_SECTION.to_owned()),
        ("[global]\na = 1\n", format!("[global]\na = 1\n{POOL_WITH_ITS_SECTION}")),
        (
            "[www]\na = 1\n[other]\nphp_value[session.save_handler] = files\n",
            format!("[www]\na = 1\n{POOL}[other]\nphp_value[session.save_handler] = files\n"),
        ),
        (
            "[www]\nphp_admin_value[session.save_handler] = files\na = 1\n",
            format!("[www]\n{POOL}; php_admin_value[session.save_handler] = files\na = 1\n"),
        ),
    ] {
        assert_eq!(merged(Format::FpmPool, text), expected, "{text}");
    }
    assert_eq!(part(Format::FpmPool).alone(), POOL_WITH_ITS_SECTION);
}

#[test]
fn what_apache_reads_for_one_directory_stays() {
    let text = "<Directory /srv>\nphp_value session.save_handler files\n</Directory>\nphp_value session.save_handler a\n";
    let expected = "<Directory /srv>\nphp_value session.save_handler files\n</Directory>\n".to_owned()
        + APACHE
        + "# php_value session.save_handler a\n";
    assert_eq!(merged(Format::Apache, text), expected);
}

/// As Red Hat's php.conf has it: which of the two sections counts is not known.
#[test]
fn what_a_module_decides_is_commented_out_and_the_part_stands_outside() {
    let section = |module: &str, comment: &str| {
        format!("<IfModule {module}>\n{comment}    php_value session.save_handler \"files\"\n</IfModule>\n")
    };
    assert_eq!(
        merged(Format::Apache, &format!("{}{}", section("mod_php5.c", ""), section("mod_php7.c", ""))),
        format!("{}{}{APACHE}", section("mod_php5.c", "# "), section("mod_php7.c", "# "))
    );
}

#[test]
fn what_cannot_be_understood_is_refused() {
    for (text, error) in [
        (
            "; cloakroom ini: from here, rewritten at each run\n",
            "FILE: the line \"; cloakroom ini: to here\" is missing\nhint: write it behind the settings that follow \"; \
             cloakroom ini: from here, rewritten at each run\"",
        ),
        (
            "session.save_handler = \"a\nb\"\n",
            "FILE: session.save_handler has a value of several lines\nhint: remove it: it is set by cloakroom ini",
        ),
    ] {
        assert_eq!(part(Format::PhpIni).merged(text, Path::new("FILE")).unwrap_err().to_string(), error);
    }
}
