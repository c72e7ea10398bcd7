//! Who gets the handlers' names, and who registers the settings.

use std::time::Duration;

use testbed::TempDir;
use testbed::fleet::Plan;
use testbed::http::Browser;
use testbed::need::Need;
use testbed::redis::Redis;
use testbed::suite::{Case, case};

use super::{Beside, ID, KEY, VERSIONS, Version, on, ours, wherever_ours};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(wherever_ours("cloakroom_answers_to_phpredis_name", answers_to_the_name));
    cases.extend(wherever_ours("its_own_name_keeps_its_own_semantics", own_name_keeps_own_semantics));
    cases.extend(wherever_ours("a_name_that_is_not_known_is_a_warning_at_start", unknown_name));
    cases.extend(wherever_ours("without_the_setting_no_name_is_taken", no_name_without_the_setting));
    for version in VERSIONS {
        cases.push(on(Beside::Later(version), "all_of_phpredis_keeps_working", all_of_phpredis_works));
        cases.push(on(
            Beside::Earlier(version),
            "the_native_handler_stays_and_one_warning_names_the_order",
            native_stays,
        ));
    }
    let fpm = [&Version::Six.needs()[..], &[Need::PhpFpm, Need::Nginx]].concat();
    cases.push(case("a_pool_sets_what_it_may_set", &fpm, pool_sets));
    cases
}

fn answers_to_the_name(beside: Beside, server: &Redis) {
    let said = beside.run(
        server,
        "session_id(ID);
        session_start();
        $_SESSION['n'] = 1;
        session_write_close();
        echo json_encode([session_module_name(), cloakroom_status()['store'], cloakroom_status()['last_commit']],
            JSON_UNESCAPED_SLASHES);",
    );
    assert_eq!(said, format!("[\"redis\",\"{}\",\"written\"]", server.native()));
    assert_eq!(server.command(&["GET", KEY]), "n|i:1;");
    let said = beside.run(server, "(new ReflectionExtension('cloakroom'))->info();");
    assert!(said.contains("Cloakroom save handlers => cloakroom, redis, rediscluster\n"), "{said}");
}

fn own_name_keeps_own_semantics(beside: Beside, server: &Redis) {
    let locked = "$locked = fn() => (bool) stream_get_contents(popen('exec ' . PROBE, 'r'));";
    let probe = format!(
        "const PROBE = 'php -n -r \\'$s = fsockopen(\"127.0.0.1\", {}); fwrite($s, \"EXISTS {KEY}_LOCK\\r\\n\"); \
         echo fgets($s) === \":1\\r\\n\";\\'';",
        server.port()
    );
    let said = beside
        .script(
            server,
            &format!(
                "{probe} {locked}
                foreach (['redis', 'cloakroom', 'redis'] as $name) {{
                    session_module_name($name);
                    session_id(ID);
                    session_start();
                    echo $name, ' ', $locked() ? 'locks' : 'does not lock', ', ';
                    session_write_close();
                }}"
            ),
        )
        .ini("redis.session.locking_enabled", "0")
        .run()
        .ok();
    assert_eq!(said, "redis does not lock, cloakroom locks, redis does not lock, ");
}

fn unknown_name(beside: Beside, server: &Redis) {
    let ran = beside
        .script(server, "session_id(ID); session_start(); echo cloakroom_status()['store'];")
        .ini("cloakroom.drop_in", "memcache, redis")
        .run();
    assert_eq!(ran.stdout, server.native(), "the known one works: {ran}");
    assert_eq!(
        ours(&ran.stderr),
        [
            "PHP Startup: cloakroom.drop_in names \"memcache\", which Cloakroom cannot stand in for; hint: it takes \
          redis, rediscluster, memcached in Unknown on line 0"
        ],
        "{ran}"
    );
}

fn no_name_without_the_setting(beside: Beside, server: &Redis) {
    let ran = beside
        .script(server, "session_id(ID); @session_start(); var_dump(cloakroom_status()['store']);")
        .ini("cloakroom.drop_in", "")
        .run();
    assert_eq!(ran.stdout, "NULL\n", "{ran}");
}

fn all_of_phpredis_works(beside: Beside, server: &Redis) {
    let Beside::Later(version) = beside else { unreachable!("it is only run there") };
    let look = "ksort($all = ini_get_all('redis'));
        echo json_encode([ini_get_all('redis'), get_extension_funcs('redis'),
            (new ReflectionExtension('redis'))->getClassNames(), phpversion('redis')]);";
    let look = look.replace("ksort($all = ini_get_all('redis'));", "");
    assert_eq!(beside.run(server, &look), Beside::Native(version).run(server, &look));
    let said = beside.run(
        server,
        &format!(
            "session_id(ID);
            session_start();
            $_SESSION['n'] = 1;
            $redis = new Redis();
            $redis->pconnect('127.0.0.1', {});
            $redis->set('mine', 7);
            ini_set('redis.pconnect.pooling_enabled', '0');
            session_write_close();
            echo json_encode([$redis->get('mine'), $redis->get('PHPREDIS_SESSION:' . ID),
                ini_get('redis.pconnect.pooling_enabled'), ini_set('redis.session.lock_retries', 7)]);",
            server.port()
        ),
    );
    let default = if version == Version::Five { 10 } else { 100 };
    assert_eq!(said, format!(r#"["7","n|i:1;","0","{default}"]"#));
}

fn native_stays(beside: Beside, server: &Redis) {
    let ran = beside
        .script(
            server,
            "session_id(ID);
            session_start();
            $_SESSION['n'] = 1;
            session_write_close();
            var_dump(cloakroom_status()['store'], count(ini_get_all('redis')) > 20);",
        )
        .run();
    assert_eq!(ran.stdout, "NULL\nbool(true)\n", "{ran}");
    assert_eq!(server.command(&["GET", KEY]), "n|i:1;");
    assert_eq!(
        ours(&ran.stderr),
        [
            "PHP Startup: cloakroom.drop_in has no effect on redis: PHP loads the extension redis before cloakroom, and \
             takes the first save handler of a name; hint: put extension=cloakroom before extension=redis: in a file that \
             sorts first, 10-cloakroom.ini before 20-redis.ini in Unknown on line 0"
        ],
        "{ran}"
    );
}

/// What PHP-FPM sets for a pool it sets after the modules have started, and in a way of its own.
fn pool_sets() {
    let server = Redis::start();
    let root = TempDir::new();
    root.write(
        "index.php",
        format!(
            "<?php
            session_id('{ID}');
            session_start();
            $redis = fsockopen('127.0.0.1', {});
            fwrite($redis, \"EXISTS {KEY}_LOCK\\r\\n\");
            echo json_encode([cloakroom_status()['store'] !== null, trim(fgets($redis)),
                ini_get('redis.session.lock_retries'), ini_get('redis.session.locking_enabled')]);",
            server.port()
        ),
    );
    let plan = Plan::serving(root.path())
        .servers(1)
        .workers(1)
        .cloakroom()
        .master_ini("cloakroom.drop_in", "redis")
        .ini("session.save_handler", "redis")
        .ini("session.save_path", server.native())
        .ini("session.use_cookies", "0")
        .ini("redis.session.lock_retries", "33");
    let shown = |plan: Plan| Browser::at(&plan.start().url()).get("/").body;
    let phpredis = testbed::php::phpredis6().display().to_string();
    let unlocked = |plan: Plan| plan.ini("redis.session.locking_enabled", "0");
    assert_eq!(shown(plan.clone()), r#"[true,":1","33","1"]"#);
    assert_eq!(shown(unlocked(plan.clone())), r#"[true,":0","33","0"]"#);
    let beside = plan.clone().module(&phpredis);
    assert_eq!(shown(beside.clone()), r#"[true,":1","33","0"]"#);
    assert_eq!(shown(unlocked(beside)), r#"[true,":0","33","0"]"#);

    let fleet = plan.ini("cloakroom.drop_in", "redis,rediscluster").start();
    assert_eq!(Browser::at(&fleet.url()).get("/").body, r#"[true,":1","33","1"]"#);
    let warning =
        "cloakroom.drop_in is set after PHP has started; hint: set it in php.ini or on the command line";
    // It comes by way of the master or of nginx, and may be later than the page.
    testbed::wait_until(warning, Duration::from_secs(30), || fleet.log().contains(warning));
}
