//! Who gets the handler's name, and who registers the settings.

use testbed::TempDir;
use testbed::fleet::Plan;
use testbed::http::Browser;
use testbed::memcached::Memcached;
use testbed::need::Need;
use testbed::suite::{Case, case};

use super::{Beside, ID, KEY, MODULES, on, talk, wherever_ours};
use crate::ours;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(wherever_ours("cloakroom_answers_to_php_memcacheds_name", answers_to_the_name));
    cases.extend(wherever_ours("its_own_name_keeps_its_own_semantics", own_name_keeps_own_semantics));
    cases.extend(wherever_ours("without_the_setting_no_name_is_taken", no_name_without_the_setting));
    cases.push(on(Beside::Later, "all_of_php_memcached_keeps_working", all_of_php_memcached_works));
    cases.push(on(Beside::Earlier, "the_native_handler_stays_and_one_warning_names_the_order", native_stays));
    let fpm = [&Beside::Later.needs()[..], &[Need::PhpFpm, Need::Nginx]].concat();
    cases.push(case("memcached: a_pool_sets_what_it_may_set", &fpm, pool_sets));
    cases
}

fn answers_to_the_name(beside: Beside, server: &Memcached) {
    let said = beside.run(
        server,
        "session_id(ID);
        session_start();
        $_SESSION['n'] = 1;
        session_write_close();
        echo json_encode([session_module_name(), cloakroom_status()['store'], cloakroom_status()['last_commit']],
            JSON_UNESCAPED_SLASHES);",
    );
    assert_eq!(said, format!("[\"memcached\",\"memcached://{}\",\"written\"]", server.address()));
    assert_eq!(server.get(KEY).as_deref(), Some(&b"n|i:1;"[..]));
    let info = "(new ReflectionExtension('cloakroom'))->info();";
    let said = beside.script(server, info).ini("memcached.sess_sasl_password", "s3cret").run().ok();
    assert!(said.contains("Cloakroom save handlers => cloakroom, memcached\n"), "{said}");
    assert!(!said.contains("s3cret"), "{said}");
    if beside == Beside::Nothing {
        assert!(said.contains("memcached.sess_sasl_password => *** => ***\n"), "{said}");
        assert!(said.contains("memcached.sess_lock_retries => 5 => 5\n"), "{said}");
    }
}

fn own_name_keeps_own_semantics(beside: Beside, server: &Memcached) {
    let code = format!(
        "{}
        foreach (['memcached', 'cloakroom', 'memcached'] as $name) {{
            session_module_name($name);
            session_id(ID);
            session_start();
            $prefix = $name === 'memcached' ? 'mine.' : 'memc.sess.key.';
            echo $name, $memcached(\"mg {{$prefix}}lock.\" . ID) === 'HD' ? ' locks' : ' does not lock', ', ';
            $_SESSION[$name] = 1;
            session_write_close();
        }}",
        talk(server)
    );
    let said = beside
        .at(&format!("memcached://{}", server.address()), &code)
        .ini("memcached.sess_locking", "0")
        .ini("memcached.sess_prefix", "mine.")
        .run()
        .ok();
    assert_eq!(said, "memcached does not lock, cloakroom locks, memcached does not lock, ");
    assert_eq!(server.get(KEY).as_deref(), Some(&b"cloakroom|i:1;"[..]));
    assert_eq!(server.get(&format!("mine.{ID}")).as_deref(), Some(&b"memcached|i:1;"[..]));
}

fn no_name_without_the_setting(beside: Beside, server: &Memcached) {
    let ran = beside
        .script(server, "session_id(ID); @session_start(); var_dump(cloakroom_status()['store']);")
        .ini("cloakroom.drop_in", "redis")
        .run();
    assert_eq!(ran.stdout, "NULL\n", "{ran}");
}

fn all_of_php_memcached_works(beside: Beside, server: &Memcached) {
    let look = "echo json_encode([ini_get_all('memcached'), get_extension_funcs('memcached'),
        (new ReflectionExtension('memcached'))->getClassNames(), phpversion('memcached')]);";
    assert_eq!(beside.run(server, look), Beside::Native.run(server, look));
    let said = beside.run(
        server,
        &format!(
            "session_id(ID);
            session_start();
            $_SESSION['n'] = 1;
            $memcached = new Memcached('kept');
            $memcached->addServer('127.0.0.1', {});
            $memcached->set('mine', 7);
            session_write_close();
            echo json_encode([$memcached->get('mine'), $memcached->get('memc.sess.key.' . ID),
                ini_set('memcached.sess_lock_retries', 7)]);",
            server.port()
        ),
    );
    assert_eq!(said, r#"[7,"n|i:1;","5"]"#);
}

fn native_stays(beside: Beside, server: &Memcached) {
    let ran = beside
        .script(
            server,
            "session_id(ID);
            session_start();
            $_SESSION['n'] = 1;
            session_write_close();
            var_dump(cloakroom_status()['store'], count(ini_get_all('memcached')) > 20);",
        )
        .run();
    assert_eq!(ran.stdout, "NULL\nbool(true)\n", "{ran}");
    assert_eq!(server.get(KEY).as_deref(), Some(&b"n|i:1;"[..]));
    assert_eq!(
        ours(&ran.stderr),
        [
            "PHP Startup: cloakroom.drop_in has no effect on memcached: PHP loads the extension memcached before \
             cloakroom, and takes the first save handler of a name; hint: put extension=cloakroom before \
             extension=memcached: in a file that sorts first, 10-cloakroom.ini before 20-memcached.ini in Unknown on \
             line 0"
        ],
        "{ran}"
    );
}

/// What PHP-FPM sets for a pool it sets after the modules have started, and in a way of its own.
fn pool_sets() {
    let server = Memcached::start();
    let root = TempDir::new();
    root.write(
        "index.php",
        format!(
            "<?php
            {}
            session_id('{ID}');
            session_start();
            echo json_encode([cloakroom_status()['store'], $memcached('mg mine.lock.{ID}'),
                ini_get('memcached.sess_lock_retries'), ini_get('memcached.sess_locking')], JSON_UNESCAPED_SLASHES);",
            talk(&server)
        ),
    );
    let plan = Plan::serving(root.path())
        .servers(1)
        .workers(1)
        .cloakroom()
        .master_ini("cloakroom.drop_in", "memcached")
        .ini("session.save_handler", "memcached")
        .ini("session.save_path", server.address())
        .ini("session.use_cookies", "0")
        .ini("memcached.sess_prefix", "mine.")
        .ini("memcached.sess_lock_retries", "33");
    let shown = |plan: Plan| Browser::at(&plan.start().url()).get("/").body;
    let unlocked = |plan: Plan| plan.ini("memcached.sess_locking", "Off");
    let store = format!("memcached://{}?prefix=mine.", server.address());
    for plan in [plan.clone(), MODULES.into_iter().fold(plan, Plan::module)] {
        assert_eq!(shown(plan.clone()), format!(r#"["{store}","HD","33","1"]"#));
        assert_eq!(shown(unlocked(plan)), format!(r#"["{store}","EN","33","Off"]"#));
    }
}
