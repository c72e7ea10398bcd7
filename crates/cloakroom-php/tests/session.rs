//! What the extension does beyond PHP's own handler, in one PHP at a time.
// A test stops at the first thing that is not as expected.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod place;

use place::{ID, Place, on_every_store, ours};
use testbed::need::Need;
use testbed::suite::{self, Case, case};

fn main() {
    let mut cases: Vec<Case> = Vec::new();
    let mut every = |name: &str, run: fn(Place)| cases.extend(on_every_store(name, run));
    every("read_and_close_takes_no_lock_however_it_is_asked_for", read_and_close_takes_no_lock);
    every("a_start_that_only_looks_like_read_and_close_takes_the_lock", only_looks_like_read_and_close);
    every("on_lock_timeout_readonly_reads_and_refuses_the_write", on_lock_timeout_readonly);
    every("a_lock_that_is_not_obtained_fails_the_start_with_one_warning", lock_not_obtained);
    every("a_record_that_php_cannot_decode_is_kept", undecodable_record_is_kept);
    every("a_record_that_a_wrapped_handler_cannot_decode_is_kept", undecodable_record_is_kept_by_a_wrapper);
    every("a_refused_write_throws_where_asked_for", refused_write_throws);
    every("a_forked_child_leaves_the_open_session_alone", forked_child_leaves_the_session_alone);
    every("a_child_that_outlives_its_parent_leaves_the_session_free", child_outlives_its_parent);
    every("hostile_ids_never_reach_the_store", hostile_ids);
    every("a_second_write_is_refused_once_another_request_has_written", second_write_after_another);
    every("a_class_that_destroys_an_emptied_session_is_obeyed", destroying_an_emptied_session);
    every("destroying_another_session_leaves_the_open_one_locked", destroying_another_session);
    every("looking_at_another_session_leaves_the_open_one_locked", looking_at_another_session);
    every("a_session_without_its_lock_is_never_written", without_its_lock);
    every("an_unchanged_session_without_its_lock_is_no_failure", unchanged_without_its_lock);
    every("without_locks_the_last_writer_wins", without_locks);
    every("status_tells_the_store_and_the_last_commit", status_tells);
    every("magentos_kind_of_wrapper_works_on_it", magentos_kind_of_wrapper);
    every("an_id_that_is_refused_leaves_neither_lock_nor_record", refused_id_leaves_nothing);
    let mut large =
        on_every_store("running_out_of_memory_while_reading_keeps_the_record", out_of_memory_while_reading);
    let too_large = large.pop().map(|dynamodb| dynamodb.skipped("sessions of 6 MB"));
    cases.extend(large.into_iter().chain(too_large));
    for (store, needs, place) in [
        ("files", &[Need::Php, Need::Symfony][..], Place::files as fn() -> Place),
        ("redis", &[Need::Php, Need::Symfony, Need::Redis], Place::redis),
        ("memcached", &[Need::Php, Need::Symfony, Need::Memcached], Place::memcached),
        ("dynamodb", &[Need::Php, Need::Symfony, Need::Dynalite], Place::dynamodb),
    ] {
        let name = format!("{store}: symfonys_strict_handler_works_on_it");
        cases.push(case(name, needs, move || symfonys_strict_handler(place())));
    }
    cases.push(case("files: gc_removes_what_has_expired", &[Need::Php], gc_removes_what_has_expired));
    suite::run(cases)
}

/// A script that holds the session open until it is told to go on.
const HOLDER: &str = "
    session_id(ID);
    session_start();
    $_SESSION['n'] = 1;
    session_write_close();
    session_start();
    $_SESSION['n'] = 2;
    fwrite(STDERR, '');
    while (ob_get_level()) ob_end_flush();
    echo 'holding';
    fgets(STDIN);
    session_write_close();";

fn read_and_close_takes_no_lock(place: Place) {
    let holder = place.script(HOLDER).spawn();
    holder.wait_for("holding");
    let forms = "
        ini_set('cloakroom.lock_wait', '0.1');
        class Wrapper extends SessionHandler {}
        class Own { static function start($options) { return session_start($options); } }
        function named() { return session_start(options: ['read_and_close' => true]); }
        $options = ['cookie_lifetime' => 0, 'read_and_close' => true];
        $forms = [
            'literal' => fn() => session_start(['read_and_close' => true]),
            'one' => fn() => session_start(['read_and_close' => 1]),
            'text' => fn() => session_start(['read_and_close' => '1']),
            'spread' => fn() => session_start(...[['read_and_close' => true]]),
            'named' => named(...),
            'variable' => fn() => session_start($options),
            'global name' => fn() => \\session_start($options),
            'call_user_func' => fn() => call_user_func('session_start', $options),
            'call_user_func_array' => fn() => call_user_func_array('session_start', [$options]),
            'by name' => fn() => ('session_start')($options),
            'first class' => fn() => (session_start(...))($options),
            'closure' => fn() => Closure::fromCallable('session_start')($options),
            'reflection' => fn() => (new ReflectionFunction('session_start'))->invoke($options),
            'static method' => fn() => Own::start($options),
            'array_map' => fn() => array_map('session_start', [$options])[0],
            'subclass' => function () use ($options) {
                session_set_save_handler(new Wrapper(), true);
                return session_start($options);
            },
        ];
        foreach ($forms as $name => $start) {
            $_SESSION = [];
            session_id(ID);
            echo $name, ' ', json_encode([$start(), $_SESSION]), \"\\n\";
        }";
    let printed = place.run(forms);
    assert_eq!(printed.lines().count(), 16, "{printed}");
    for line in printed.lines() {
        assert!(line.ends_with(r#" [true,{"n":1}]"#), "{line}");
    }
    holder.say("go on");
    assert_eq!(holder.finish().ok(), "holding");
    assert_eq!(place.stored(ID).unwrap(), b"n|i:2;");
}

fn only_looks_like_read_and_close(place: Place) {
    let holder = place.script(HOLDER).spawn();
    holder.wait_for("holding");
    let printed = place.run(
        "ini_set('cloakroom.lock_wait', '0.05');
        foreach ([['read_and_close' => false], ['read_and_close' => 0], ['read_and_close' => '0'], []] as $options) {
            session_id(ID);
            echo json_encode(@session_start($options)), ' ';
            session_abort();
        }",
    );
    assert_eq!(printed, "false false false false ");
    holder.say("go on");
    holder.finish().ok();
}

fn on_lock_timeout_readonly(place: Place) {
    let holder = place.script(HOLDER).spawn();
    holder.wait_for("holding");
    let ran = place
        .script(
            "session_id(ID);
            echo json_encode([session_start(), $_SESSION]);
            $_SESSION['n'] = 99;
            session_write_close();
            echo cloakroom_status()['last_commit'];",
        )
        .ini("cloakroom.lock_wait", "0.05")
        .ini("cloakroom.on_lock_timeout", "readonly")
        .run();
    assert_eq!(ran.stdout, r#"[true,{"n":1}]refused"#, "{ran}");
    assert_eq!(ours(&ran.stderr).len(), 1, "{ran}");
    assert!(ran.stderr.contains("opened read-only because its lock was busy, and is not written"), "{ran}");
    holder.say("go on");
    holder.finish().ok();
    assert_eq!(place.stored(ID).unwrap(), b"n|i:2;");
}

fn lock_not_obtained(place: Place) {
    let holder = place.script(HOLDER).spawn();
    holder.wait_for("holding");
    let ran =
        place.script("session_id(ID); var_dump(session_start());").ini("cloakroom.lock_wait", "0.05").run();
    assert_eq!(ran.stdout, "bool(false)\n", "{ran}");
    let warnings = ours(&ran.stderr);
    assert_eq!(warnings.len(), 1, "{ran}");
    assert!(warnings[0].contains(&place.shown()), "it names the store: {ran}");
    assert!(warnings[0].contains("hint: "), "it names the remedy: {ran}");
    holder.say("go on");
    holder.finish().ok();
}

/// A session of another serializer: PHP destroys what it cannot decode.
const UNDECODABLE: &[u8] = b"\x00\x00\x00\x02\x14\x01\x11\x01n\x06\x05";

fn undecodable_record_is_kept(place: Place) {
    place.store(ID, UNDECODABLE);
    let ran = place.script("session_id(ID); var_dump(session_start());").run();
    assert_eq!(ran.stdout, "bool(false)\n", "{ran}");
    assert!(ran.stderr.contains("PHP could not decode the session; it is kept as it is"), "{ran}");
    assert_eq!(place.stored(ID).unwrap(), UNDECODABLE);
    // With session.auto_start no PHP function is underneath.
    let ran = place
        .script("var_dump(session_status() === PHP_SESSION_ACTIVE);")
        .ini("session.auto_start", "1")
        .ini("session.use_cookies", "0")
        .run();
    assert_eq!(ran.stdout, "bool(true)\n", "{ran}");
    // Free again, and still removed by a script that means it.
    place.store(ID, b"n|i:1;");
    place.run("session_id(ID); session_start(); session_destroy();");
    assert_eq!(place.stored(ID), None);
}

fn undecodable_record_is_kept_by_a_wrapper(place: Place) {
    place.store(ID, UNDECODABLE);
    let wrapper = "class Wrapper extends SessionHandler {}
        session_set_save_handler(new Wrapper(), true);
        session_id(ID);";
    let ran = place.script(&format!("{wrapper} var_dump(session_start());")).run();
    assert_eq!(ran.stdout, "bool(false)\n", "{ran}");
    assert_eq!(place.stored(ID).unwrap(), UNDECODABLE);
    place.store(ID, b"n|i:1;");
    place.run(&format!("{wrapper} session_start(); session_destroy();"));
    assert_eq!(place.stored(ID), None);
}

fn refused_write_throws(place: Place) {
    let holder = place.script(HOLDER).spawn();
    holder.wait_for("holding");
    let ran = place
        .script(
            "session_id(ID);
            session_start();
            $_SESSION['n'] = 99;
            try {
                session_write_close();
                echo 'written';
            } catch (RuntimeException $e) {
                echo get_class($e), ' ', str_contains($e->getMessage(), 'is not written') ? 'tells' : $e->getMessage();
            }
            session_start();
            $_SESSION['n'] = 100;
            // At the end of the request there is nobody to throw to.",
        )
        .ini("cloakroom.lock_wait", "0.05")
        .ini("cloakroom.on_lock_timeout", "readonly")
        .ini("cloakroom.on_write_failure", "exception")
        .run();
    assert_eq!(ran.stdout, "RuntimeException tells", "{ran}");
    assert_eq!(ours(&ran.stderr).len(), 2, "{ran}");
    holder.say("go on");
    holder.finish().ok();
}

fn forked_child_leaves_the_session_alone(place: Place) {
    let printed = place
        .script(
            "session_id(ID);
            session_start();
            $_SESSION['who'] = 'parent';
            $child = pcntl_fork();
            if ($child === 0) {
                $_SESSION['who'] = 'child';
                ob_clean();
                exit(0);
            }
            pcntl_waitpid($child, $status);
            $_SESSION['more'] = 1;
            session_write_close();
            session_start(['read_and_close' => true]);
            echo $status, json_encode($_SESSION), cloakroom_status()['lost_leases'];",
        )
        .run()
        .ok();
    assert_eq!(printed, r#"0{"who":"parent","more":1}0"#);
}

fn child_outlives_its_parent(place: Place) {
    let parent = place
        .script(
            "session_id(ID);
            session_start();
            $_SESSION['n'] = 1;
            if (pcntl_fork() === 0) {
                ob_clean();
                fgets(STDIN);
                exit(0);
            }
            session_write_close();
            ob_end_flush();
            echo 'closed';
            pcntl_wait($status);",
        )
        .spawn();
    parent.wait_for("closed");
    let printed = place
        .script(
            "ini_set('cloakroom.lock_wait', '1'); session_id(ID); var_dump(session_start(), $_SESSION['n']);",
        )
        .run()
        .ok();
    assert_eq!(printed, "bool(true)\nint(1)\n");
    parent.say("end");
    parent.finish().ok();
}

fn hostile_ids(place: Place) {
    let printed = place
        .script(
            r#"
            foreach (['../../x', "a\0b", "a\r\nDEL x", str_repeat('x', 300), ID . '_LOCK', 'a b', "\u{e9}"] as $id) {
                session_id($id);
                $started = @session_start();
                echo json_encode([$started, $started && session_id() !== $id]), "\n";
                if ($started) { session_destroy(); }
            }"#,
        )
        .run()
        .stdout;
    // Those that PHP itself lets through to the handler are refused there; the others get a new id from PHP.
    for line in printed.lines() {
        assert!(line == "[false,false]" || line == "[true,true]", "{printed}");
    }
    assert_eq!(printed.lines().count(), 7, "{printed}");
    assert_eq!(place.names(), Vec::<String>::new());
}

fn second_write_after_another(place: Place) {
    let writer = place
        .script(
            "class Twice extends SessionHandler {
                public function write(string $id, string $data): bool {
                    $first = parent::write($id, $data);
                    while (ob_get_level()) ob_end_flush();
                    echo 'written';
                    fgets(STDIN);
                    $second = parent::write($id, 'mine|i:2;');
                    echo json_encode([$first, $second]);
                    return true;
                }
            }
            session_set_save_handler(new Twice(), true);
            session_id(ID);
            session_start();
            $_SESSION['mine'] = 1;
            session_write_close();",
        )
        .spawn();
    writer.wait_for("written");
    place.run("session_id(ID); session_start(); $_SESSION['theirs'] = 1;");
    writer.say("go on");
    let ran = writer.finish();
    assert_eq!(ran.stdout, "written[true,false]", "{ran}");
    assert!(
        ran.stderr.contains("another request changed the session after this one had written it"),
        "{ran}"
    );
    assert_eq!(place.stored(ID).unwrap(), b"mine|i:1;theirs|i:1;");
}

/// Symfony's base class destroys a session that is written empty; at the end of the request no function is active.
fn destroying_an_emptied_session(place: Place) {
    let wrapper = "class Emptying extends SessionHandler {
            public function write(string $id, string $data): bool {
                return $data === '' ? $this->destroy($id) : parent::write($id, $data);
            }
        }
        session_set_save_handler(new Emptying(), false);
        session_id(ID);
        session_start();";
    for end in ["", "session_write_close();"] {
        place.store(ID, b"user|s:5:\"alice\";");
        place.run(&format!("{wrapper} $_SESSION = []; {end}"));
        assert_eq!(place.stored(ID), None, "logged out for good, with {end:?}");
    }
}

const OTHER: &str = "b2b9c0d4e6f8a1b3c5d7e9f0a2";

/// Does something in the middle of a session, and finds it locked still.
fn stays_locked_through(place: &Place, middle: &str) -> String {
    let running = place
        .script(&format!(
            "class Wrapper extends SessionHandler {{
                public function validateId(string $id): bool {{ return parent::read($id) !== ''; }}
            }}
            $handler = new Wrapper();
            session_set_save_handler($handler, true);
            session_id(ID);
            session_start();
            $_SESSION['n'] = 1;
            {middle}
            while (ob_get_level()) ob_end_flush();
            echo 'holding';
            fgets(STDIN);"
        ))
        .spawn();
    running.wait_for("holding");
    let tried =
        place.script("session_id(ID); var_dump(session_start());").ini("cloakroom.lock_wait", "0.1").run();
    assert_eq!(tried.stdout, "bool(false)\n", "the lock was given away: {tried}");
    running.say("go on");
    let printed = running.finish().ok();
    assert_eq!(place.stored(ID).unwrap(), b"n|i:1;");
    printed
}

fn destroying_another_session(place: Place) {
    place.store(OTHER, b"n|i:7;");
    stays_locked_through(&place, &format!("$handler->destroy('{OTHER}');"));
    assert_eq!(place.stored(OTHER), None);
}

fn looking_at_another_session(place: Place) {
    place.store(OTHER, b"n|i:7;");
    let printed =
        stays_locked_through(&place, &format!("echo $handler->read('{OTHER}'), ' '; session_create_id();"));
    assert_eq!(printed, "n|i:7; holding");
    assert_eq!(place.stored(OTHER).unwrap(), b"n|i:7;");
}

const READ_ON: [(&str, &str); 2] =
    [("cloakroom.lock_wait", "0.05"), ("cloakroom.on_lock_timeout", "readonly")];

fn without_its_lock(place: Place) {
    let holder = place.script(HOLDER).spawn();
    holder.wait_for("holding");
    let code = "class Stubborn extends SessionHandler {
            public function write(string $id, string $data): bool {
                return parent::write($id, $data) || parent::write($id, $data);
            }
        }
        session_set_save_handler(new Stubborn(), true);
        session_id(ID);
        session_start();
        $_SESSION['n'] = 'stale';
        session_write_close();";
    let script = READ_ON.iter().fold(place.script(code), |script, (name, value)| script.ini(name, value));
    let ran = script.run();
    assert_eq!(ours(&ran.stderr).len(), 2, "both are refused: {ran}");
    holder.say("go on");
    holder.finish().ok();
    assert_eq!(place.stored(ID).unwrap(), b"n|i:2;");
}

fn unchanged_without_its_lock(place: Place) {
    let holder = place.script(HOLDER).spawn();
    holder.wait_for("holding");
    let code = "session_id(ID); session_start(); session_write_close();
        echo json_encode($_SESSION), cloakroom_status()['last_commit'];";
    let script = READ_ON.iter().fold(place.script(code), |script, (name, value)| script.ini(name, value));
    assert_eq!(script.ini("cloakroom.on_write_failure", "exception").run().ok(), r#"{"n":1}none"#);
    holder.say("go on");
    holder.finish().ok();
}

fn without_locks(place: Place) {
    let holder = place.script(HOLDER).spawn();
    holder.wait_for("holding");
    // HOLDER has the lock, and this one does not ask for it; on files none gets around it.
    let code = "session_id(ID); session_start(); echo $_SESSION['n']; $_SESSION['n'] = 3;";
    let overtake = || {
        assert_eq!(place.script(code).ini("cloakroom.lock", "off").run().ok(), "1");
        assert_eq!(place.stored(ID).unwrap(), b"n|i:3;");
    };
    let wins = match &place {
        Place::Files(_) => "2",
        Place::Redis(_) | Place::DynamoDb(_) => {
            overtake();
            "2"
        }
        Place::Memcached(_) => {
            overtake();
            "3"
        }
    };
    holder.say("go on");
    let held = holder.finish();
    match place {
        // There a lock protects from those alone who ask for it, too; but a write sees that it was overtaken.
        Place::Memcached(_) => assert_eq!(ours(&held.stderr).len(), 1, "{held}"),
        _ => drop(held.ok()),
    }
    assert_eq!(place.script(code).ini("cloakroom.lock", "off").run().ok(), wins);
    assert_eq!(place.stored(ID).unwrap(), b"n|i:3;");
}

fn gc_removes_what_has_expired() {
    let place = Place::files();
    place.store(ID, b"n|i:1;");
    place.store(OTHER, b"n|i:1;");
    let Place::Files(directory) = &place else { unreachable!("it was just made") };
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(2000);
    let file = std::fs::File::options().write(true).open(directory.join(format!("sess_{ID}"))).unwrap();
    file.set_modified(old).unwrap();
    let code = "session_start(); echo session_gc(); session_destroy();";
    // By chance PHP would have done it at the start.
    assert_eq!(place.script(code).ini("session.gc_probability", "0").run().ok(), "1");
    assert_eq!(place.names(), [format!("sess_{OTHER}")]);
}

fn out_of_memory_while_reading(place: Place) {
    let record = format!("big|s:6000000:\"{}\";", "x".repeat(6_000_000));
    place.store(ID, record.as_bytes());
    let ran =
        place.script("session_id(ID); session_start(); echo 'not reached';").ini("memory_limit", "4M").run();
    assert_eq!(ran.stdout, "", "{ran}");
    assert!(ran.stderr.contains("Allowed memory size"), "{ran}");
    assert_eq!(place.stored(ID).unwrap().len(), record.len());
    let code = "ini_set('cloakroom.lock_wait', '1'); session_id(ID); session_start(); echo strlen($_SESSION['big']);";
    assert_eq!(place.run(code), "6000000");
}

fn status_tells(place: Place) {
    let printed = place.run(
        "echo json_encode(cloakroom_status()['last_commit']);
        session_id(ID);
        session_start();
        $_SESSION['n'] = 1;
        session_write_close();
        $status = cloakroom_status();
        echo json_encode([array_keys($status), $status['store'], $status['detected'], $status['last_commit']]);",
    );
    let keys = r#"["store","detected","exchanges","connects","waits","retries","lost_leases","conflicts","turned_away","waited","last_commit"]"#;
    let keys = match place {
        Place::DynamoDb(_) => keys.replace(']', ",\"units\"]"),
        _ => keys.to_owned(),
    };
    let path = place.shown().replace('/', "\\/");
    assert_eq!(printed, format!(r#""none"[{keys},"{path}",null,"written"]"#));
}

fn symfonys_strict_handler(place: Place) {
    let symfony = r"spl_autoload_register(function ($class) {
            $file = '/usr/share/php/' . strtr($class, '\\', '/') . '.php';
            if (is_file($file)) require $file;
        });
        $class = 'Symfony\Component\HttpFoundation\Session\Storage\Handler\StrictSessionHandler';
        session_set_save_handler(new $class(new SessionHandler()), true);";
    let run = |code: &str| {
        let script = place.script(&format!("{symfony}\n{code}")).ini("session.use_strict_mode", "1");
        script.ini("error_reporting", "E_ALL & ~E_DEPRECATED").run().ok()
    };
    let first = run("session_start(); $_SESSION['n'] = 1; echo session_id();");
    let next = format!("session_id('{first}'); session_start(); echo json_encode($_SESSION);");
    assert_eq!(run(&format!("{next} $_SESSION['n']++;")), r#"{"n":1}"#);
    assert_eq!(run(&next), r#"{"n":2}"#, "unchanged, the wrapper writes it all the same");
    let unknown = run("session_id(ID); session_start(); echo session_id() === ID ? 'kept' : 'new';");
    assert_eq!(unknown, "new");
    let holder = place
        .script(&format!(
            "session_id('{first}'); session_start(); ob_end_flush(); echo 'holding'; fgets(STDIN);"
        ))
        .spawn();
    holder.wait_for("holding");
    let read_only = format!(
        "session_id('{first}'); session_start(['read_and_close' => true]); echo json_encode($_SESSION);"
    );
    assert_eq!(run(&format!("ini_set('cloakroom.lock_wait', '0.1'); {read_only}")), r#"{"n":2}"#);
    holder.say("go on");
    holder.finish().ok();
}

fn magentos_kind_of_wrapper(place: Place) {
    let wrapper = "class Magento implements SessionHandlerInterface {
            private $native;
            public function __construct() { $this->native = new SessionHandler(); }
            public function open($path, $name): bool { return $this->native->open($path, $name); }
            public function close(): bool { return $this->native->close(); }
            public function read($id): string|false { return $this->native->read($id); }
            public function write($id, $data): bool { return $this->native->write($id, $data); }
            public function destroy($id): bool { return $this->native->destroy($id); }
            public function gc($lifetime): int|false { return $this->native->gc($lifetime); }
        }
        session_set_save_handler(new Magento(), true);
        session_id(ID);";
    place.run(&format!("{wrapper} session_start(); $_SESSION['n'] = 1;"));
    assert_eq!(place.stored(ID).unwrap(), b"n|i:1;");
    place.run(&format!("{wrapper} session_start(); $_SESSION['n']++;"));
    assert_eq!(place.stored(ID).unwrap(), b"n|i:2;");
    place.run(&format!("{wrapper} session_start(); session_destroy();"));
    assert_eq!(place.stored(ID), None);
}

fn refused_id_leaves_nothing(place: Place) {
    let printed = place
        .script(
            "session_id(ID); session_start(); echo session_id() === ID ? 'kept' : 'new'; session_destroy();",
        )
        .ini("session.use_strict_mode", "1")
        .run()
        .ok();
    assert_eq!(printed, "new");
    assert_eq!(place.names(), Vec::<String>::new());
}
