//! A session and its lock on different servers, as php-memcached has most of them.

use cloakroom::{Change, Committed, ErrorKind};
use testbed::memcached::Memcached;
use testbed::proxy::Proxy;
use testbed::suite::{Case, case};
use testbed::wait_until;

use crate::worker::{EXCLUSIVE, LIFETIME, id, lock, lock_at_once, put, read, soon};
use crate::{LIMIT, MEMCACHED, key, lock_key, store};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("a_session_apart_from_its_lock_costs_three_exchanges", MEMCACHED, it_costs_three_exchanges),
        case("with_lock_own_every_session_costs_two_exchanges", MEMCACHED, with_lock_own_it_costs_two),
        case(
            "the_lock_is_held_until_the_write_is_answered",
            MEMCACHED,
            the_lock_is_held_until_the_write_is_answered,
        ),
        case(
            "a_lock_is_taken_before_the_session_is_read",
            MEMCACHED,
            a_lock_is_taken_before_the_session_is_read,
        ),
        case("a_cut_between_us_and_either_server_is_healed", MEMCACHED, a_cut_to_either_server_is_healed),
        case("an_unlock_that_was_lost_is_made_up_for", MEMCACHED, an_unlock_that_was_lost_is_made_up_for),
        case(
            "an_open_whose_session_cannot_be_read_keeps_no_lock",
            MEMCACHED,
            an_open_that_fails_keeps_no_lock,
        ),
        case("a_late_writer_is_refused_across_servers", MEMCACHED, a_late_writer_is_refused),
        case(
            "an_evicted_session_is_written_again_across_servers",
            MEMCACHED,
            an_evicted_session_is_written_again,
        ),
        case("a_refused_write_releases_the_lock_elsewhere", MEMCACHED, a_refused_write_releases_the_lock),
    ]
}

/// Two servers, and a session whose lock is on the other one.
struct Apart {
    servers: [Memcached; 2],
    proxies: [Proxy; 2],
    save_path: String,
    session: String,
    /// Which has the session; the other one has the lock.
    at: usize,
}

impl Apart {
    fn new() -> Apart {
        let servers = [Memcached::start(), Memcached::start()];
        let proxies = servers.each_ref().map(|server| Proxy::to(server.address()));
        let save_path = format!("memcached://{},{}", proxies[0].address(), proxies[1].address());
        let mut store = store(&save_path);
        for number in 0.. {
            let session = format!("abc{number}");
            let (_, hold) = lock(store.as_mut(), &id(&session));
            let locked_at = usize::from(servers[1].get(&lock_key(&session)).is_some());
            store.commit(&id(&session), hold, Change::Write(b"n|i:1;", LIFETIME), soon()).unwrap();
            if servers[1 - locked_at].get(&key(&session)).is_some() {
                let apart = Apart { servers, proxies, save_path, session, at: 1 - locked_at };
                wait_until("it is released", LIMIT, || apart.lock().is_none());
                return apart;
            }
        }
        unreachable!("no session is apart from its lock");
    }

    fn value(&self) -> Option<Vec<u8>> {
        self.servers[self.at].get(&key(&self.session))
    }

    fn lock(&self) -> Option<Vec<u8>> {
        self.servers[1 - self.at].get(&lock_key(&self.session))
    }

    fn evict(&self, at: usize, key: &str) {
        assert_eq!(self.servers[at].command(&format!("delete {key}")), "DELETED\r\n");
    }

    fn released(&self) {
        // Nobody waits for the answer.
        wait_until("it is released", LIMIT, || self.lock().is_none());
    }
}

const CHANGES: [Change<'static>; 4] =
    [Change::Write(b"n|i:2;", LIFETIME), Change::Touch(b"n|i:1;", LIFETIME), Change::Keep, Change::Delete];

fn it_costs_three_exchanges() {
    let apart = Apart::new();
    let session = id(&apart.session);
    let mut store = store(&apart.save_path);
    put(store.as_mut(), &session, b"n|i:1;");
    for change in CHANGES {
        let before = store.counters().exchanges;
        let (_, hold) = lock(store.as_mut(), &session);
        store.commit(&session, hold, change, soon()).unwrap();
        let cost = if change == Change::Keep { 2 } else { 3 };
        assert_eq!(store.counters().exchanges - before, cost, "{change:?}");
        apart.released();
    }
    assert_eq!(apart.value(), None);
}

fn with_lock_own_it_costs_two() {
    let apart = Apart::new();
    let mut store = store(&format!("{}?lock=own", apart.save_path));
    for number in 0..20 {
        let session = id(&format!("abc{number}"));
        put(store.as_mut(), &session, b"n|i:1;");
        let before = store.counters().exchanges;
        put(store.as_mut(), &session, b"n|i:2;");
        assert_eq!(store.counters().exchanges - before, 2);
    }
    for (server, proxy) in apart.servers.iter().zip(&apart.proxies) {
        assert!(server.keys().iter().all(|left| !left.contains("lock.")), "{:?}", server.keys());
        assert!(proxy.exchanges() > 0);
    }
}

/// Written and unlocked at once, the unlock might arrive first.
fn the_lock_is_held_until_the_write_is_answered() {
    let apart = Apart::new();
    let session = id(&apart.session);
    for change in [CHANGES[0], CHANGES[1], CHANGES[3]] {
        let mut store = store(&apart.save_path);
        let (_, hold) = lock(store.as_mut(), &session);
        let elsewhere = &apart.proxies[1 - apart.at];
        let slow = &apart.proxies[apart.at];
        slow.reset_counts();
        slow.stall(true);
        std::thread::scope(|scope| {
            let committing = scope.spawn(|| store.commit(&session, hold, change, soon()).unwrap());
            wait_until("the change is on its way", LIMIT, || slow.exchanges() > 0);
            // Time enough for an unlock that does not wait.
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(apart.lock().is_some(), "{change:?}");
            slow.stall(false);
            committing.join().unwrap();
        });
        assert!(elsewhere.exchanges() > 0);
        apart.released();
    }
}

fn a_lock_is_taken_before_the_session_is_read() {
    let apart = Apart::new();
    let session = id(&apart.session);
    let mut holder = store(&apart.save_path);
    let (_, hold) = lock(holder.as_mut(), &session);
    let mut next = store(&apart.save_path);
    apart.proxies[apart.at].reset_counts();
    std::thread::scope(|scope| {
        let next = scope.spawn(move || lock(next.as_mut(), &session).0);
        let queue = format!("memc.sess.key.wait.{}", apart.session);
        wait_until("it waits", LIMIT, || apart.servers[1 - apart.at].get(&queue).is_some());
        assert_eq!(apart.proxies[apart.at].exchanges(), 0, "it has not read");
        holder.commit(&id(&apart.session), hold, CHANGES[0], soon()).unwrap();
        assert_eq!(next.join().unwrap().unwrap(), b"n|i:2;");
    });
}

fn a_cut_to_either_server_is_healed() {
    let apart = Apart::new();
    let session = id(&apart.session);
    for cut in [Proxy::cut_after_request as fn(&Proxy, usize), Proxy::cut_after_reply] {
        for proxy in &apart.proxies {
            for change in CHANGES {
                for at in (1..).step_by(9) {
                    apart.servers[apart.at].set(&key(&apart.session), "n|i:1;");
                    let mut store = store(&apart.save_path);
                    read(store.as_mut(), &session);
                    cut(proxy, at);
                    let (record, hold) = lock(store.as_mut(), &session);
                    assert_eq!(record.unwrap(), b"n|i:1;");
                    let done = store.commit(&session, hold, change, soon()).unwrap();
                    assert_eq!(done, Committed::Done, "{change:?} cut at {at}");
                    let expected = match change {
                        Change::Write(bytes, _) => Some(bytes.to_vec()),
                        Change::Delete => None,
                        _ => Some(b"n|i:1;".to_vec()),
                    };
                    assert_eq!(apart.value(), expected, "{change:?} cut at {at}");
                    let over = proxy.cut_pending();
                    cut(proxy, usize::MAX);
                    // What was not released is by the worker's next open.
                    let (_, hold) = lock_at_once(store.as_mut(), &session);
                    store.commit(&session, hold, Change::Keep, soon()).unwrap();
                    apart.released();
                    if over {
                        break;
                    }
                }
            }
        }
    }
}

fn an_unlock_that_was_lost_is_made_up_for() {
    let apart = Apart::new();
    let session = id(&apart.session);
    let mut worker = store(&apart.save_path);
    let (_, hold) = lock(worker.as_mut(), &session);
    apart.proxies[1 - apart.at].cut_at_request(1);
    // It was written, and that is what counts.
    worker.commit(&session, hold, CHANGES[0], soon()).unwrap();
    wait_until("the unlock was cut", LIMIT, || !apart.proxies[1 - apart.at].cut_pending());
    assert!(apart.lock().is_some());
    let (record, hold) = lock_at_once(worker.as_mut(), &session);
    assert_eq!(record.unwrap(), b"n|i:2;");
    worker.commit(&session, hold, Change::Keep, soon()).unwrap();
    apart.released();
}

fn an_open_that_fails_keeps_no_lock() {
    let apart = Apart::new();
    apart.servers[apart.at].kill();
    let error = store(&apart.save_path).open(&id(&apart.session), EXCLUSIVE, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    apart.released();
}

fn a_late_writer_is_refused() {
    let apart = Apart::new();
    let session = id(&apart.session);
    for change in [CHANGES[0], CHANGES[3]] {
        let (mut late, mut next) = (store(&apart.save_path), store(&apart.save_path));
        let (_, hold) = lock(late.as_mut(), &session);
        apart.evict(1 - apart.at, &lock_key(&apart.session));
        let (_, theirs) = lock_at_once(next.as_mut(), &session);
        next.commit(&session, theirs, Change::Write(b"n|i:5;", LIFETIME), soon()).unwrap();
        apart.released();
        let (_, theirs) = lock_at_once(next.as_mut(), &session);
        let error = late.commit(&session, hold, change, soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LockLost, "{error}");
        assert_eq!(apart.value().unwrap(), b"n|i:5;");
        assert!(apart.lock().is_some(), "theirs");
        next.commit(&session, theirs, Change::Write(b"n|i:1;", LIFETIME), soon()).unwrap();
        apart.released();
    }
}

fn an_evicted_session_is_written_again() {
    let apart = Apart::new();
    let session = id(&apart.session);
    let mut holder = store(&apart.save_path);
    for (change, done) in [(CHANGES[0], Committed::Done), (CHANGES[1], Committed::Rewritten)] {
        let (_, hold) = lock(holder.as_mut(), &session);
        apart.evict(apart.at, &key(&apart.session));
        assert_eq!(holder.commit(&session, hold, change, soon()).unwrap(), done);
        assert!(apart.value().is_some());
        apart.released();
        // With the lock gone, too, somebody may have logged out.
        let (_, hold) = lock(holder.as_mut(), &session);
        apart.evict(apart.at, &key(&apart.session));
        apart.evict(1 - apart.at, &lock_key(&apart.session));
        let error = holder.commit(&session, hold, change, soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LockLost, "{error}");
        assert_eq!(apart.value(), None);
        put(holder.as_mut(), &session, b"n|i:1;");
        apart.released();
    }
}

fn a_refused_write_releases_the_lock() {
    let apart = Apart::new();
    let session = id(&apart.session);
    let mut store = store(&apart.save_path);
    let (_, hold) = lock(store.as_mut(), &session);
    let large = vec![b'x'; 1 << 20];
    let error = store.commit(&session, hold, Change::Write(&large, LIFETIME), soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    assert_eq!(apart.value().unwrap(), b"n|i:1;");
    apart.released();
}
