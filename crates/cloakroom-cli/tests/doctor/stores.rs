//! What stores do: real servers and real directories, each with one thing wrong.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use testbed::memcached::Memcached;
use testbed::need::Need;
use testbed::proxy::Proxy;
use testbed::redis::Redis;
use testbed::suite::{Case, case};

use crate::tree::{DIRECTORY, Expected, FPM, Tree, local, note, problem, user};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("a_healthy_redis_has_nothing", &[Need::Redis], a_healthy_redis),
        case("a_healthy_memcached_has_only_notes", &[Need::Memcached], a_healthy_memcached),
        case("a_name_that_nobody_knows_is_named", &[], an_unknown_name),
        case("a_closed_port_is_named", &[], a_closed_port),
        case("a_wrong_password_is_named", &[Need::Redis], a_wrong_password),
        case("tls_of_an_unknown_authority_is_named", &[Need::Redis], an_unknown_authority),
        case("tls_where_the_server_has_none_is_named", &[Need::Redis], tls_without_tls),
        case("a_replica_that_takes_no_writes_is_named", &[Need::Redis], a_replica),
        case("a_server_that_evicts_is_named", &[Need::Redis], a_server_that_evicts),
        case("a_server_that_saves_nothing_is_named", &[Need::Redis], a_server_that_saves_nothing),
        case("a_full_server_is_named", &[Need::Redis], a_full_server),
        case("a_user_without_rights_is_named", &[Need::Redis], a_user_without_rights),
        case("a_slow_server_is_named", &[Need::Redis], a_slow_server),
        case("memcached_that_evicted_is_named", &[Need::Memcached], memcached_that_evicted),
        case("memcached_without_versions_is_named", &[Need::Memcached], memcached_without_versions),
        case("a_save_path_that_cannot_be_understood_is_named", &[], a_malformed_save_path),
        case("a_password_in_php_ini_is_noted", &[Need::Redis], a_password_in_php_ini),
        case("a_missing_directory_is_named", &[], a_missing_directory),
        case("a_directory_of_another_user_is_named", &[Need::MountNamespaces], a_directory_of_another_user),
        case("a_directory_open_to_others_is_named", &[], a_directory_open_to_others),
        case("missing_levels_are_named", &[], missing_levels),
        case("a_full_disk_is_named", &[Need::MountNamespaces], a_full_disk),
        case("nfs_without_locks_is_named", &[], nfs_without_locks),
        case("nothing_is_left_behind", &[Need::Redis], nothing_is_left_behind),
    ]
}

/// This store is looked at, and these are the findings.
#[track_caller]
fn of(save_path: &str, looked_at: &str, findings: &[Expected]) {
    let looked_at: Vec<&str> = if looked_at.is_empty() { Vec::new() } else { vec![looked_at] };
    Tree::new().finds(&[save_path], &looked_at, findings);
}

fn timed(url: &str) -> String {
    format!("{url}: round trip p50 N ms, p99 N ms")
}

fn sound() -> Redis {
    Redis::with(&["--appendonly", "yes"])
}

fn a_healthy_redis() {
    let redis = sound();
    of(&redis.url(), &timed(&redis.url()), &[]);
    // By way of the files, too.
    let tree = Tree::fpm();
    let lines = format!("php_value[session.save_path] = \"{}\"\n", redis.native());
    tree.write(
        "etc/php/8.2/fpm/conf.d/20-cloakroom.ini",
        "extension = cloakroom\nsession.save_handler = cloakroom\n",
    );
    tree.pool(&lines);
    tree.finds(&[], &[FPM, &timed(&redis.native())], &[]);
}

/// Of each Memcached.
fn memory_alone(url: &str) -> Expected {
    note(
        "store-note",
        format!("{url}: the server keeps sessions in memory alone: a restart logs everybody out"),
        "choose another store where sessions must outlive that",
    )
}

fn a_healthy_memcached() {
    let server = Memcached::with(&["-M"]);
    let url = server.url();
    let refuses = note(
        "store-note",
        format!("{url}: once its 64 MB are full, the server refuses to store sessions (-M)"),
        "watch store_no_memory in its stats",
    );
    of(&url, &timed(&url), &[memory_alone(&url), refuses]);
}

fn an_unknown_name() {
    let url = "redis://sessions.invalid";
    let finding = problem(
        "name-not-found",
        format!("{url}: the name sessions.invalid cannot be resolved"),
        "correct the host in session.save_path, or add it to DNS (getent hosts sessions.invalid)",
    );
    of(url, url, &[finding]);
}

fn a_closed_port() {
    let url = format!("redis://127.0.0.1:{}", testbed::free_port());
    let finding = problem(
        "port-closed",
        format!("{url}: cannot connect to {}: Connection refused (os error 111)", &url["redis://".len()..]),
        "start the server, open the port in its firewall, or correct it in session.save_path",
    );
    of(&url, &url, &[finding]);
}

fn a_wrong_password() {
    let redis = Redis::with(&["--requirepass", "s3cr3t"]);
    let shown = format!("redis://:***@{}", redis.address());
    let finding = problem(
        "refused",
        format!(
            "the server answered: WRONGPASS invalid username-password pair or user is disabled. (store {shown})"
        ),
        "correct the user or the password in session.save_path",
    );
    of(&format!("redis://:wrong@{}", redis.address()), &shown, &[finding]);
}

fn an_unknown_authority() {
    let redis = Redis::tls();
    let url = redis.url();
    let url = url.split('?').next().unwrap();
    of(
        url,
        url,
        &[problem(
            "tls",
            format!("the TLS handshake failed: invalid peer certificate: UnknownIssuer (store {url})"),
            "name the authority that signed it with cafile=, or say verify_peer=0 to trust any server",
        )],
    );
}

fn tls_without_tls() {
    let redis = sound();
    let url = format!("rediss://{}", redis.address());
    of(
        &url,
        &url,
        &[problem(
            "tls",
            format!("the TLS handshake was not finished: timed out (store {url})"),
            "check that this port of the server speaks TLS",
        )],
    );
}

fn a_replica() {
    let primary = sound();
    let replica = sound();
    let port = primary.address();
    replica.command(&["REPLICAOF", "127.0.0.1", port.rsplit(':').next().unwrap()]);
    testbed::wait_until("the replica is in step", Duration::from_secs(30), || {
        replica.command(&["INFO", "replication"]).contains("master_link_status:up")
    });
    let url = replica.url();
    of(
        &url,
        &url,
        &[problem(
            "replica",
            format!(
                "the server answered: READONLY You can't write against a read only replica. SCRIPT (store {url})"
            ),
            "this server is a replica; name the primary in session.save_path",
        )],
    );
}

fn a_server_that_evicts() {
    let redis = sound();
    redis.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru", "maxmemory", "100mb"]);
    let url = redis.url();
    let finding = problem(
        "store-at-risk",
        format!("{url}: the server removes sessions when its memory is full (maxmemory-policy allkeys-lru)"),
        "set maxmemory-policy noeviction, and enough maxmemory, on a server for sessions alone",
    );
    of(&url, &timed(&url), &[finding]);
}

fn a_server_that_saves_nothing() {
    let redis = Redis::start();
    let url = redis.url();
    let finding = problem(
        "store-at-risk",
        format!("{url}: the server saves nothing (no RDB schedule, no AOF): a restart logs everybody out"),
        "set appendonly yes, or a schedule with save",
    );
    of(&url, &timed(&url), &[finding]);
}

fn a_full_server() {
    let redis = sound();
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let url = redis.url();
    of(
        &url,
        &url,
        &[problem(
            "no-room",
            format!(
                "the server answered: OOM command not allowed when used memory > 'maxmemory'. SCRIPT (store {url})"
            ),
            "raise maxmemory, or set maxmemory-policy to volatile-lru so that old sessions make room",
        )],
    );
}

fn a_user_without_rights() {
    let redis = sound();
    redis.command(&["ACL", "SETUSER", "php", "on", ">pw", "~other:*", "+@all"]);
    let shown = format!("redis://php:***@{}", redis.address());
    of(
        &format!("redis://php:pw@{}", redis.address()),
        &shown,
        &[problem(
            "refused",
            format!(
                "the server answered: NOPERM this user has no permissions to access one of the keys used as arguments (store {shown})"
            ),
            "give the server's user the commands and keys that sessions need",
        )],
    );
}

fn a_slow_server() {
    let redis = sound();
    let proxy = Proxy::to(redis.address());
    proxy.delay(Duration::from_millis(60), Duration::ZERO);
    let url = format!("redis://{}", proxy.address());
    let output = Tree::new().doctor().arg(&url).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let line = stdout.lines().find(|line| line.starts_with("problem: ")).unwrap_or(&stdout);
    // How slow it is depends on the machine, too.
    assert!(line.starts_with(&format!("problem: {url}: a round trip takes ")), "{stdout}");
    assert!(line.ends_with(" ms (p50) [slow]"), "{stdout}");
    assert_eq!(output.status.code(), Some(1));
}

fn memcached_that_evicted() {
    let server = Memcached::with(&["-m", "2", "-I", "1m", "-o", "slab_reassign,slab_automove=0"]);
    let value = vec![b'x'; 200_000];
    for number in 0.. {
        server.set(&format!("filler{number}"), &value);
        if server.stat("evictions") > 0 {
            break;
        }
    }
    let (url, evicted) = (server.url(), server.stat("evictions"));
    let finding = problem(
        "store-at-risk",
        format!(
            "{url}: the server has removed {evicted} items before their time, to make room in its 2 MB: sessions are \
             among them, if it has any"
        ),
        "give it more memory (-m), and to sessions alone",
    );
    of(&url, &timed(&url), &[memory_alone(&url), finding]);
}

fn memcached_without_versions() {
    let server = Memcached::with(&["-C"]);
    let url = server.url();
    of(
        &url,
        &url,
        &[problem(
            "store-unsafe",
            format!(
                "the server keeps no versions (CAS) of its items, and without them no session can be locked (store {url})"
            ),
            "start memcached without -C (--disable-cas)",
        )],
    );
}

fn a_malformed_save_path() {
    let what = "session.save_path: the port is not a number from 1 to 65535 (at character 11)";
    let change = "write host:port, or host alone";
    of("redis://h:port", "", &[problem("save-path", what, change)]);
    let tree = Tree::fpm();
    tree.pool("php_value[session.save_path] = \"redis://h:port\"\n");
    let what = format!("ROOT/etc/php/8.2/fpm/pool.d/www.conf:5: {what}");
    tree.finds(&[], &[FPM], &[problem("save-path", what, change)]);
}

fn a_password_in_php_ini() {
    let redis = Redis::with(&["--requirepass", "s3cr3t", "--appendonly", "yes"]);
    let tree = Tree::fpm();
    let ini = |auth: &str| {
        let path = format!("{}?auth={auth}", redis.native());
        format!("extension = cloakroom\nsession.save_handler = cloakroom\nsession.save_path = \"{path}\"\n")
    };
    tree.write("etc/php/8.2/fpm/conf.d/20-cloakroom.ini", ini("s3cr3t"));
    let at = "ROOT/etc/php/8.2/fpm/conf.d/20-cloakroom.ini:3";
    let finding = note(
        "password-in-ini",
        format!("{at}: session.save_path holds a password"),
        format!("{at}: auth=env:NAME or auth=file:PATH in its place"),
    );
    let shown = timed(&format!("{}?auth=***", redis.native()));
    tree.finds(&[], &[FPM, &shown], &[finding]);
    tree.write("etc/php/8.2/fpm/conf.d/20-cloakroom.ini", ini("env:STORE_PASSWORD"));
    tree.says(tree.doctor().env("STORE_PASSWORD", "s3cr3t"), &[FPM, &shown], &[]);
}

fn a_missing_directory() {
    let tree = Tree::fpm();
    std::fs::remove_dir(tree.path("var/sessions")).unwrap();
    let finding = problem(
        "directory-missing",
        "/var/sessions: No such file or directory (os error 2)",
        format!("install -d -m 0700 -o {} /var/sessions", user()),
    );
    tree.finds(&[], &[FPM], &[finding]);
}

fn a_directory_of_another_user() {
    let tree = Tree::fpm();
    tree.give("var/sessions", "daemon");
    let finding = problem(
        "directory-not-writable",
        format!("{FPM} runs as nobody, who may not write to /var/sessions (of daemon, mode 0700)"),
        "chown nobody /var/sessions",
    );
    tree.finds(&[], &[FPM], &[finding]);
}

fn a_directory_open_to_others() {
    let tree = Tree::fpm();
    let with = |mode: u32| {
        std::fs::set_permissions(tree.path("var/sessions"), PermissionsExt::from_mode(mode)).unwrap();
    };
    let open = |what: &str, change: &str| problem("directory-open-to-others", what, change);
    with(0o755);
    let finding =
        open("/var/sessions: every user of this host can list it (mode 0755)", "chmod o-r /var/sessions");
    tree.finds(&[], &[FPM], &[finding]);
    with(0o733);
    let finding = open(
        "/var/sessions: every user of this host can remove what is in it (mode 0733)",
        "chmod +t /var/sessions",
    );
    tree.finds(&[], &[FPM], &[finding]);
    // Debian's own.
    with(0o1733);
    tree.finds(&[], &[FPM, DIRECTORY], &[local()]);
}

fn missing_levels() {
    let tree = Tree::fpm();
    tree.pool("php_value[session.save_path] = \"2;/var/sessions\"\n");
    let finding = |missing: &str| {
        problem(
            "levels-missing",
            format!("/var/sessions is to have 2 levels of directories: {missing} is missing"),
            "make them with PHP's ext/session/mod_files.sh, or leave the number out of session.save_path",
        )
    };
    tree.finds(&[], &[FPM], &[finding("0")]);
    for one in "0123456789abcdef".chars() {
        for two in "0123456789abcdef".chars() {
            if (one, two) != ('a', 'b') {
                std::fs::create_dir_all(tree.path(&format!("var/sessions/{one}/{two}"))).unwrap();
            }
        }
    }
    tree.finds(&[], &[FPM], &[finding("a/b")]);
}

fn a_full_disk() {
    let tree = Tree::fpm();
    let doctor = tree.doctor();
    let script = "mount -t tmpfs -o size=256k,mode=0700,uid=$(id -u nobody) none \"$1\" && shift &&
        { dd if=/dev/zero of=\"$1/full\" 2>/dev/null; shift; exec \"$@\"; }";
    let sessions = tree.path("var/sessions");
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh"]).args([&sessions, &sessions]);
    command.arg(doctor.get_program()).args(doctor.get_args());
    let finding = problem(
        "no-room",
        "the file system of /var/sessions is full",
        "remove what is not needed there; df names it",
    );
    tree.says(&mut command, &[FPM], &[finding]);
}

fn nfs_without_locks() {
    let tree = Tree::fpm();
    let mounts = |options: &str| {
        let text = format!("/dev/sda1 / ext4 rw 0 0\nserver:/export /var/sessions nfs4 {options} 0 0\n");
        tree.write("proc/mounts", text);
    };
    mounts("rw,vers=4.2,hard,local_lock=none");
    tree.finds(&[], &[FPM, DIRECTORY], &[]);
    for option in ["nolock", "local_lock=all"] {
        mounts(&format!("rw,vers=3,{option}"));
        let finding = problem(
            "nfs-options",
            format!(
                "/var/sessions is on NFS (/var/sessions), mounted with {option}: locks are seen by this host alone"
            ),
            format!("/etc/fstab: leave {option} out of the options of /var/sessions"),
        );
        tree.finds(&[], &[FPM], &[finding]);
    }
}

fn nothing_is_left_behind() {
    let redis = sound();
    of(&redis.url(), &timed(&redis.url()), &[]);
    assert_eq!(redis.command(&["DBSIZE"]), "0");
    let tree = Tree::fpm();
    tree.finds(&[], &[FPM, DIRECTORY], &[local()]);
    assert_eq!(std::fs::read_dir(tree.path("var/sessions")).unwrap().count(), 0);
}
