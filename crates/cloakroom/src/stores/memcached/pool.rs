//! Which servers of the ring answer, and where a session is and is looked for because of that.
//!
//! Without `remove_failed_servers` a session has one place, and cannot be opened while its server is away. With it, a server
//! that fails is left out: its sessions go where libmemcached's ring without it puts them. Those of other servers stay,
//! even where weights would have libmemcached move them. A server that was left out is tried again by whoever opens one of
//! its sessions, so that it comes back at once where a refusal costs nothing, and after [`REST`] where only time tells.
//!
//! When it is back, it may have an old copy of what was written elsewhere since. So whoever opens a session of a server
//! that answers looks, too, at the one that would stand in for it: a copy there is newer, and the next write takes it home.

use std::time::{Duration, Instant};

use super::options::{Distribution, Endpoint, LockPlace, Options};
use super::ring::Ring;

/// How long a server that was waited for in vain is left alone; libmemcached's `retry_timeout`.
const REST: Duration = Duration::from_secs(2);
/// A failure that took no longer may be had again at every open.
const CHEAP: Duration = Duration::from_millis(20);

/// The servers, and how they did.
#[derive(Debug)]
pub(super) struct Pool {
    servers: Vec<Endpoint>,
    distribution: Distribution,
    lock: LockPlace,
    replicas: usize,
    remove_failed_after: Option<u32>,
    health: Vec<Health>,
    /// The rings that were needed yet, by the servers that they leave out.
    rings: Vec<(Vec<usize>, Ring)>,
    /// How often a server was left out or taken in again.
    changes: u64,
}

/// How one server did lately.
#[derive(Debug, Clone, Copy, Default)]
struct Health {
    failures: u32,
    left_out: bool,
    /// Before that, it is not worth another try.
    rests_until: Option<Instant>,
}

/// Where a session and its lock are, by index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) session: usize,
    pub(super) lock: usize,
    /// Where the session may have been written while its server was left out. What is there is newer.
    pub(super) displaced: Option<usize>,
    /// Who has a copy of every write.
    pub(super) replicas: Vec<usize>,
    /// The session's own server while another one stands in for it.
    pub(super) away: Option<usize>,
    /// Who stands in, where it has copies as a replica, too: what is newer is marked there.
    pub(super) marked: Option<usize>,
    /// Who may have a copy of a session that is at none of the places above.
    pub(super) copies: Vec<usize>,
    /// Whether some who should have a copy do not answer.
    pub(super) short_of_replicas: bool,
    /// The servers that are left out, but should be asked again before this route is taken.
    pub(super) retry: Vec<usize>,
}

impl Pool {
    pub(super) fn of(options: &Options) -> Self {
        Pool {
            servers: options.servers.clone(),
            distribution: options.distribution,
            lock: options.lock,
            replicas: options.replicas,
            remove_failed_after: options.remove_failed_after.map(Into::into),
            health: vec![Health::default(); options.servers.len()],
            rings: vec![(Vec::new(), Ring::of(options))],
            changes: 0,
        }
    }

    /// Where the session with this id is.
    pub(super) fn route(&mut self, id: &str) -> Route {
        let lock_key = format!("lock.{id}");
        let home = self.ring(&[]).server(id);
        let session = self.stand_in(home, id);
        let (lock_home, lock) = match self.lock {
            LockPlace::Native => {
                let home = self.ring(&[]).server(&lock_key);
                (home, self.stand_in(home, &lock_key))
            }
            LockPlace::Own => (home, session),
        };
        let away = (session != home).then_some(home);
        let stand_in = match self.remove_failed_after {
            Some(_) if session == home => Some(self.beside(home, id)).filter(|other| *other != home),
            _ => away.map(|_| session),
        };
        let marked = stand_in.filter(|at| self.next(home).any(|next| next == *at));
        let mut retry = vec![home, lock_home];
        retry.dedup();
        retry.retain(|at| self.health[*at].left_out && !self.rests(*at));
        let replicas: Vec<usize> = self.after(session).collect();
        let copies = self.after(home).filter(|at| *at != session).collect();
        Route {
            session,
            lock,
            displaced: stand_in.filter(|_| away.is_none()),
            away,
            marked,
            short_of_replicas: replicas.len() < self.replicas,
            replicas,
            copies,
            retry,
        }
    }

    /// The server answered.
    pub(super) fn answered(&mut self, at: usize) {
        self.changes += u64::from(self.health[at].left_out);
        self.health[at] = Health::default();
    }

    /// The server did not answer, which took so long.
    pub(super) fn failed(&mut self, at: usize, took: Duration) {
        let health = &mut self.health[at];
        health.failures = health.failures.saturating_add(1);
        health.rests_until = (took > CHEAP).then(|| Instant::now() + REST);
        let left_out = self.remove_failed_after.is_some_and(|limit| health.failures >= limit);
        self.changes += u64::from(left_out && !health.left_out);
        health.left_out |= left_out;
    }

    /// Whether it did not answer a moment ago, and would only take time again.
    pub(super) fn rests(&self, at: usize) -> bool {
        self.health[at].rests_until.is_some_and(|until| Instant::now() < until)
    }

    /// A number that changes whenever a route may.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// The next servers of the list, as libmemcached replicates.
    fn next(&self, at: usize) -> impl Iterator<Item = usize> + use<> {
        let count = self.servers.len();
        (1..=self.replicas).map(move |step| (at + step) % count)
    }

    /// Those of them that answer.
    fn after(&self, at: usize) -> impl Iterator<Item = usize> + '_ {
        self.next(at).filter(|at| !self.health[*at].left_out && !self.rests(*at))
    }

    /// The server itself, or where the key goes while it is left out.
    fn stand_in(&mut self, home: usize, key: &str) -> usize {
        if self.health[home].left_out { self.beside(home, key) } else { home }
    }

    /// Where the key goes without this server.
    fn beside(&mut self, home: usize, key: &str) -> usize {
        let away = |at: &usize| *at == home || self.health[*at].left_out;
        let left_out: Vec<usize> = (0..self.servers.len()).filter(away).collect();
        self.ring(&left_out).server(key)
    }

    fn ring(&mut self, left_out: &[usize]) -> &Ring {
        let index = self.rings.iter().position(|(without, _)| without == left_out).unwrap_or_else(|| {
            let ring = Ring::without(left_out, &self.servers, self.distribution);
            self.rings.push((left_out.to_vec(), ring));
            self.rings.len() - 1
        });
        &self.rings[index].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Environment, SavePath};

    fn pool(list: &str) -> Pool {
        match SavePath::parse(list, &Environment::default()).unwrap() {
            SavePath::Store(url) => Pool::of(&Options::parse(&url).unwrap()),
            SavePath::Detect => panic!("{list} means detection"),
        }
    }

    fn ids() -> impl Iterator<Item = String> {
        (0..200).map(|number| format!("session{number}"))
    }

    #[test]
    fn a_failed_server_keeps_its_sessions_unless_it_is_to_be_removed() {
        let mut pool = pool("memcached://a,b,c");
        let before: Vec<Route> = ids().map(|id| pool.route(&id)).collect();
        pool.failed(0, Duration::ZERO);
        assert_eq!(ids().map(|id| pool.route(&id)).collect::<Vec<_>>(), before);
        assert!(before.iter().all(|route| route.displaced.is_none() && route.replicas.is_empty()));
        assert_eq!(pool.changes(), 0);
    }

    #[test]
    fn sessions_of_a_server_that_is_left_out_are_where_they_are_looked_for_later() {
        for weighted in ["", "&distribution=ketama_weighted"] {
            let list = format!("memcached://a:11211:1,b:11211:3,c:11211:2?remove_failed_servers=1{weighted}");
            let mut pool = pool(&list);
            let whole: Vec<Route> = ids().map(|id| pool.route(&id)).collect();
            pool.failed(1, Duration::ZERO);
            for (id, before) in ids().zip(&whole) {
                let route = pool.route(&id);
                match before.session {
                    1 => assert_eq!((Some(route.session), route.displaced), (before.displaced, None)),
                    home => assert_eq!(route.session, home, "others stay"),
                }
                assert!(route.session != 1 && route.lock != 1);
                let concerned = before.session == 1 || before.lock == 1;
                assert_eq!(route.retry, if concerned { vec![1] } else { vec![] });
            }
            assert_eq!(pool.changes(), 1);
            pool.answered(1);
            assert_eq!(ids().map(|id| pool.route(&id)).collect::<Vec<_>>(), whole);
            assert_eq!(pool.changes(), 2);
        }
    }

    #[test]
    fn a_server_is_left_out_after_as_many_failures_in_a_row_as_the_limit_says() {
        let mut pool = pool("memcached://a,b?remove_failed_servers=1&server_failure_limit=2");
        pool.failed(0, Duration::ZERO);
        pool.answered(0);
        pool.failed(0, Duration::ZERO);
        assert_eq!(pool.changes(), 0);
        pool.failed(0, Duration::ZERO);
        assert_eq!(pool.changes(), 1);
        assert!(ids().all(|id| pool.route(&id).session == 1));
    }

    #[test]
    fn a_server_that_was_waited_for_in_vain_is_left_alone_for_a_while() {
        let mut pool = pool("memcached://a,b?remove_failed_servers=1");
        pool.failed(0, Duration::from_secs(2));
        assert!(pool.rests(0) && ids().all(|id| pool.route(&id).retry.is_empty()));
        pool.failed(0, Duration::ZERO);
        assert!(!pool.rests(0) && ids().any(|id| pool.route(&id).retry == [0]));
    }

    #[test]
    fn copies_are_on_the_next_servers_of_the_list() {
        let mut pool = pool("memcached://a,b,c,d?replicas=2");
        for id in ids() {
            let route = pool.route(&id);
            let next = [(route.session + 1) % 4, (route.session + 2) % 4];
            assert_eq!((&route.replicas[..], &route.copies[..]), (&next[..], &next[..]));
        }
    }

    #[test]
    fn nobody_stands_in_for_an_only_server() {
        let mut pool = pool("memcached://a?remove_failed_servers=1&replicas=1");
        let route = pool.route("session");
        assert_eq!((route.session, route.displaced), (0, None));
        assert_eq!((route.replicas.len(), route.short_of_replicas), (0, false));
    }

    #[test]
    fn with_nobody_left_everybody_is_asked() {
        let mut pool = pool("memcached://a,b?remove_failed_servers=1");
        let before: Vec<usize> = ids().map(|id| pool.route(&id).session).collect();
        pool.failed(0, Duration::ZERO);
        pool.failed(1, Duration::ZERO);
        assert_eq!(ids().map(|id| pool.route(&id).session).collect::<Vec<_>>(), before);
    }
}
