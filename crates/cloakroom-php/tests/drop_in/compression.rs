//! Records that phpredis compresses, and that it reads.

use testbed::need::Need;
use testbed::redis::{Redis, Reply};
use testbed::suite::{Case, case};

use super::{Beside, KEY, Version, assert_life, wherever_ours};

const METHODS: [&str; 3] = ["lzf", "zstd", "lz4"];

/// A session that is worth compressing, from PHP's own hand.
const CART: &str = "session_id(ID); session_start();
    for ($i = 0; $i < 200; $i++) $_SESSION['cart'][$i] = ['sku' => md5((string) $i), 'count' => $i % 7, 'name' => 'shirt'];
    $_SESSION['bytes'] = implode(array_map('chr', range(0, 255)));
    session_write_close();
    echo sha1(serialize($_SESSION));";
const READ: &str = "session_id(ID); session_start(); echo sha1(serialize($_SESSION));";

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(wherever_ours("a_compressed_session_is_smaller_and_comes_back", comes_back));
    cases.extend(wherever_ours("sessions_of_before_the_setting_live_on", raw_lives_on));
    cases.extend(wherever_ours("an_unchanged_compressed_session_stays_as_it_is", unchanged_stays));
    cases.extend(wherever_ours("a_compressed_session_without_the_setting_is_kept", kept_without_the_setting));
    for beside in [Beside::Nothing, Beside::Later(Version::Six)] {
        let name = format!("{}: phpredis_reads_what_is_written_and_the_other_way_round", beside.name());
        let needs = [beside.needs(), Version::Six.needs(), vec![Need::PhpRedis6Compression]].concat();
        cases.push(case(name, &needs, move || both_ways(beside, &Redis::start())));
    }
    cases
}

fn stored(server: &Redis) -> Vec<u8> {
    match server.reply(&[b"GET", KEY.as_bytes()]) {
        Reply::Text(bytes) => bytes,
        other => panic!("GET answered {other:?}"),
    }
}

fn comes_back(beside: Beside, server: &Redis) {
    let plain = beside.run(server, CART);
    let size = stored(server).len();
    for method in METHODS {
        server.command(&["FLUSHALL"]);
        let script = |code: &str| beside.script(server, code).ini("redis.session.compression", method);
        assert_eq!(script(CART).run().ok(), plain);
        assert!(stored(server).len() < size, "{method}: {} of {size} bytes", stored(server).len());
        assert_eq!(script(READ).run().ok(), plain, "{method}");
    }
    server.command(&["DEL", KEY]);
    // Set by the script, as anything of phpredis can be.
    let code = format!("ini_set('redis.session.compression', 'zstd'); {CART}");
    if beside != Beside::Later(Version::Five) {
        beside.run(server, &code);
        assert!(stored(server).starts_with(b"\x28\xb5\x2f\xfd"));
    }
}

fn raw_lives_on(beside: Beside, server: &Redis) {
    for method in METHODS {
        for (serializer, raw) in [
            ("php", &b"n|i:1;"[..]),
            ("php_serialize", b"a:1:{s:1:\"n\";i:1;}"),
            ("php_binary", b"\x01ni:1;"),
        ] {
            server.reply(&[b"SET", KEY.as_bytes(), raw]);
            let script = |code: &str| {
                beside
                    .script(server, code)
                    .ini("redis.session.compression", method)
                    .ini("session.serialize_handler", serializer)
            };
            let read = "session_id(ID); session_start(); echo $_SESSION['n'];";
            assert_eq!(script(read).run().ok(), "1", "{method}, {serializer}");
            assert_eq!(stored(server), raw, "unchanged");
            script("session_id(ID); session_start(); $_SESSION['n']++;").run().ok();
            assert_ne!(stored(server), raw);
            assert_eq!(script(read).run().ok(), "2", "{method}, {serializer}");
        }
    }
}

fn unchanged_stays(beside: Beside, server: &Redis) {
    for method in METHODS {
        let script = |code: &str| {
            beside
                .script(server, code)
                .ini("redis.session.compression", method)
                .ini("session.gc_maxlifetime", "600")
        };
        server.command(&["DEL", KEY]);
        script(CART).run().ok();
        let before = stored(server);
        server.command(&["EXPIRE", KEY, "9999"]);
        script(READ).run().ok();
        assert_life(server, KEY, 600);
        assert_eq!(stored(server), before, "{method}");
        // Evicted while it was open: written again as it was.
        let evicting = format!(
            "{READ} $redis = fsockopen('127.0.0.1', {}); fwrite($redis, \"DEL {KEY}\\r\\n\"); fgets($redis);",
            server.port()
        );
        script(&evicting).run().ok();
        assert_eq!(stored(server), before, "{method}");
    }
}

fn kept_without_the_setting(beside: Beside, server: &Redis) {
    beside.script(server, CART).ini("redis.session.compression", "zstd").run().ok();
    let before = stored(server);
    let ran = beside.script(server, "session_id(ID); var_dump(session_start());").run();
    assert_eq!(ran.stdout, "bool(false)\n", "{ran}");
    assert!(ran.stderr.contains("it is kept as it is"), "{ran}");
    assert_eq!(stored(server), before);
}

fn both_ways(beside: Beside, server: &Redis) {
    let native = Beside::Native(Version::Six);
    for method in METHODS {
        for level in ["0", "1", "9"] {
            for (writer, reader) in [(beside, native), (native, beside)] {
                server.command(&["FLUSHALL"]);
                let script = |side: Beside, code: &str| {
                    side.script(server, code)
                        .ini("redis.session.compression", method)
                        .ini("redis.session.compression_level", level)
                };
                let written = script(writer, CART).run().ok();
                let read = script(reader, READ).run().ok();
                assert_eq!(read, written, "{method} {level}, written by {}", writer.name());
                assert!(stored(server).len() < 10_000, "{method} {level} by {}", writer.name());
            }
        }
    }
}
