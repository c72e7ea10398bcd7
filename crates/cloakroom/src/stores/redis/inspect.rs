//! What of a server's set-up endangers sessions: `INFO`, `CONFIG GET save`, `CONFIG GET multi-master`, in one write.
//!
//! Several masters that take writes at once (active-active) give one lock to two workers. They are known by what they
//! say of themselves: KeyDB by `role:active-replica` or its setting `multi-master`, Redis Enterprise by a module or a
//! section of `INFO` named `crdt`.

use redis::Value;

use super::member::Member;
use super::wire::{Client, Failure, Opening, Request, clients_in, sound, stored};
use crate::stores::clock::{CLOCK_HINT, clock_skew};
use crate::{Deadline, Extent, Finding, Gravity, Result};

impl Member {
    /// Asks each server; see [`crate::Store::inspect`].
    pub(super) fn inspect(&mut self, extent: Extent, by: Deadline) -> Result<Vec<Finding>> {
        self.reach.look_around();
        let mut findings = Vec::new();
        let servers = match extent {
            Extent::Connected => self.reach.known(),
            Extent::Whole => self.reach.servers(by)?,
        };
        for server in servers {
            if extent == Extent::Connected && !server.is_connected() {
                // Closed for want of room, perhaps.
                let mut said = Said::of(server);
                said.about_room(server, None);
                findings.extend(said.findings);
                continue;
            }
            let found = inspect(server, by);
            server.rest(by);
            match found {
                Ok(found) => findings.extend(found),
                Err(failure) => return Err(server.error(failure)),
            }
        }
        Ok(findings)
    }
}

fn inspect(server: &mut Client, by: Deadline) -> Result<Vec<Finding>, Failure> {
    let request =
        Request::of(&[b"INFO"]).and(&[b"CONFIG", b"GET", b"save"]).and(&[b"CONFIG", b"GET", b"multi-master"]);
    let mut answers = server.ask(&request, Opening::WithRequest, by);
    if let Err(Failure::Cut(_)) = answers {
        // It may have been idle for long.
        server.count_retry();
        answers = server.ask(&request, Opening::WithRequest, by);
    }
    let mut said = Said::of(server);
    let mut answers = match answers {
        Ok(answers) => answers.into_iter(),
        Err(Failure::Cut(_)) => {
            said.note(
                "the server, or a proxy before it, hung up on INFO: whether sessions are safe there is unknown",
                "check the server itself, not the proxy",
            );
            return Ok(said.findings);
        }
        Err(failure) => return Err(failure),
    };
    let info = match answers.next().map(sound) {
        Some(Ok(Value::BulkString(text))) => Some(String::from_utf8_lossy(&text).into_owned()),
        _ => None,
    };
    let mut setting = || match answers.next().map(sound) {
        Some(Ok(Value::Array(pair))) => match pair.into_iter().nth(1).map(stored) {
            Some(Ok(Some(value))) => Setting::Is(String::from_utf8_lossy(&value).into_owned()),
            _ => Setting::Absent,
        },
        _ => Setting::Refused,
    };
    let (save, multi_master) = (setting(), setting());
    match &info {
        Some(info) => said.about(&Info(info), &save, &multi_master),
        None => said.note("the server does not answer INFO", "allow INFO to the server's user"),
    }
    said.about_room(server, info.as_deref());
    if server.password_alone() {
        said.note(
            "the server does not know the user that the URL names; the password alone is accepted",
            "leave the user out of session.save_path: redis://:password@host",
        );
    }
    Ok(said.findings)
}

/// What `CONFIG GET` says of a setting.
#[derive(Debug, PartialEq, Eq)]
enum Setting {
    Is(String),
    /// This server has none of that name.
    Absent,
    Refused,
}

/// The text that `INFO` answers: lines `name:value`, in sections.
struct Info<'a>(&'a str);

impl Info<'_> {
    fn value(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.value(name)?.trim().parse().ok()
    }

    fn speaks_of_crdt(&self) -> bool {
        self.0.lines().any(|line| {
            let line = line.to_ascii_lowercase();
            line.starts_with("# crdt") || line.starts_with("crdt") || line.starts_with("module:name=crdt")
        })
    }
}

struct Said {
    place: String,
    findings: Vec<Finding>,
}

impl Said {
    fn of(server: &Client) -> Self {
        Said { place: server.shown().to_owned(), findings: Vec::new() }
    }

    fn about_room(&mut self, server: &mut Client, info: Option<&str>) {
        if server.is_full_by(info.and_then(clients_in)) {
            self.risk(
                "the server has no room for more clients; connections are closed after each request".into(),
                "raise maxclients of the server, or run fewer workers",
            );
        }
    }

    fn about(&mut self, info: &Info<'_>, save: &Setting, multi_master: &Setting) {
        let yes = |setting: &Setting| matches!(setting, Setting::Is(value) if value == "yes");
        if info.value("role") == Some("active-replica") || yes(multi_master) || info.speaks_of_crdt() {
            self.say(
                Gravity::Unsafe,
                "the server is one of several masters that all take writes: each of them can give away the same lock"
                    .into(),
                "name a server with one master; active-active replication keeps no locks",
            );
        }
        if info.value("role") == Some("slave") {
            match info.value("slave_read_only") {
                Some("0") => self.say(
                    Gravity::Unsafe,
                    "the server is a replica that takes writes: its primary overwrites them".into(),
                    "name the primary in session.save_path",
                ),
                _ => self.risk(
                    "the server is a replica: it takes no writes".into(),
                    "name the primary in session.save_path",
                ),
            }
        }
        let policy = info.value("maxmemory_policy").unwrap_or("noeviction");
        // Sessions end by themselves, so that the volatile-* policies choose among them, too.
        if policy != "noeviction" && info.number("maxmemory").is_some_and(|most| most > 0) {
            self.risk(
                format!("the server removes sessions when its memory is full (maxmemory-policy {policy})"),
                "set maxmemory-policy noeviction, and enough maxmemory, on a server for sessions alone",
            );
        }
        // Redis of before 7 does not tell.
        if let Some(apart) = info.number("server_time_usec").and_then(|time| clock_skew(time / 1_000_000)) {
            self.risk(apart, CLOCK_HINT);
        }
        let appends = info.value("aof_enabled") == Some("1");
        match save {
            _ if appends => {}
            Setting::Is(schedule) if !schedule.is_empty() => {}
            Setting::Refused => self.note(
                "the server does not say whether it saves the sessions (CONFIG GET is refused)",
                "see its provider's documentation: without RDB or AOF, a restart logs everybody out",
            ),
            Setting::Is(_) | Setting::Absent => self.risk(
                "the server saves nothing (no RDB schedule, no AOF): a restart logs everybody out".into(),
                "set appendonly yes, or a schedule with save",
            ),
        }
    }

    fn risk(&mut self, what: String, hint: &str) {
        self.say(Gravity::Risk, what, hint);
    }

    fn note(&mut self, what: &str, hint: &str) {
        self.say(Gravity::Note, what.into(), hint);
    }

    fn say(&mut self, gravity: Gravity, what: String, hint: &str) {
        self.findings.push(Finding { gravity, what, hint: hint.into(), place: self.place.clone() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(info: &str, save: Setting, multi_master: Setting) -> Vec<(Gravity, String)> {
        let mut said = Said { place: "redis://h".into(), findings: Vec::new() };
        said.about(&Info(info), &save, &multi_master);
        said.findings.into_iter().map(|finding| (finding.gravity, finding.what)).collect()
    }

    fn saved() -> Setting {
        Setting::Is("3600 1".into())
    }

    #[test]
    fn a_sound_server_is_not_spoken_of() {
        let info =
            "# Memory\r\nmaxmemory:100\r\nmaxmemory_policy:noeviction\r\naof_enabled:0\r\nrole:master\r\n";
        assert_eq!(said(info, saved(), Setting::Absent), []);
        assert_eq!(said("aof_enabled:1\r\nrole:master", Setting::Is(String::new()), Setting::Refused), []);
        // Without a limit nothing is evicted.
        assert_eq!(said("maxmemory:0\r\nmaxmemory_policy:allkeys-lru", saved(), Setting::Absent), []);
    }

    #[test]
    fn several_masters_are_known_by_what_they_say() {
        for (info, multi_master) in [
            ("role:active-replica\r\n", Setting::Refused),
            ("role:master\r\n", Setting::Is("yes".into())),
            ("role:master\r\n# CRDT\r\npeers:2\r\n", Setting::Absent),
            ("role:master\r\nmodule:name=crdt,ver=1\r\n", Setting::Absent),
        ] {
            let said = said(info, saved(), multi_master);
            assert_eq!(said.len(), 1, "{info}: {said:?}");
            assert_eq!(said[0].0, Gravity::Unsafe, "{info}");
        }
        assert_eq!(said("role:master", saved(), Setting::Is("no".into())), []);
    }

    #[test]
    fn a_replica_is_worse_when_it_takes_writes() {
        let gravity = |info| said(info, saved(), Setting::Absent)[0].0;
        assert_eq!(gravity("role:slave\r\nslave_read_only:1"), Gravity::Risk);
        assert_eq!(gravity("role:slave\r\nslave_read_only:0"), Gravity::Unsafe);
    }

    #[test]
    fn a_clock_that_is_off_is_a_risk() {
        let said = said("role:master\r\nserver_time_usec:1000000000000000\r\n", saved(), Setting::Absent);
        assert_eq!(said.len(), 1);
        assert_eq!(said[0].0, Gravity::Risk);
        assert!(said[0].1.starts_with("the server's clock is "), "{said:?}");
    }

    #[test]
    fn what_the_server_does_not_tell_is_only_noted() {
        let said = said("role:master\r\naof_enabled:0", Setting::Refused, Setting::Refused);
        assert_eq!(said.len(), 1);
        assert_eq!(said[0].0, Gravity::Note);
    }
}
