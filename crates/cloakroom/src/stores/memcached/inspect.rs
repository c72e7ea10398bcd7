//! What of a server's set-up endangers sessions: `stats` and `stats settings`, in one write; and which sessions it has:
//! `lru_crawler metadump hash`, or `all` on servers of before 1.6.

use std::cell::Cell;
use std::time::Duration;

use super::Memcached;
use super::options::Protocol;
use super::wire::{Answer, Ask, Client, Failure, Walked};
use crate::stores::clock::{CLOCK_HINT, clock_skew};
use crate::{Deadline, Ends, Error, ErrorKind, Extent, Finding, Gravity, Result, SessionId};

const ASKS: [Ask<'static>; 2] = [Ask::Stats { group: "" }, Ask::Stats { group: "settings" }];

/// From here on a server is nearly full, of items or of clients, in percent.
const NEARLY: u64 = 90;

/// Between two tries where somebody else walks.
const BUSY: Duration = Duration::from_millis(10);

/// The largest item of a server that was told nothing else, in bytes (`-I`).
pub(super) const ITEM_SIZE: u64 = 1 << 20;

impl Memcached {
    /// Asks each server; see [`crate::Store::inspect`].
    pub(super) fn look_into(&mut self, extent: Extent, by: Deadline) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for server in &mut self.clients {
            server.look_around();
            if extent == Extent::Connected && !server.is_connected() {
                continue;
            }
            let answers = match server.ask(&ASKS, by) {
                // It may have been idle for long.
                Err(Failure::Cut(_)) => {
                    server.count_retry();
                    server.ask(&ASKS, by)
                }
                answers => answers,
            };
            let answers = answers.map_err(|failure| server.error(failure))?;
            let mut groups = answers.into_iter().map(|answer| match answer {
                Answer::Stats(pairs) => Some(Stats(pairs)),
                _ => None,
            });
            let mut said = Said { place: server.shown().to_owned(), findings: Vec::new() };
            said.about(groups.next().flatten().as_ref(), groups.next().flatten().as_ref());
            findings.extend(said.findings);
        }
        Ok(findings)
    }

    /// Whether the protocol has a command that names keys: the binary one has none, and with a user it is the binary one.
    pub(super) fn lists(&self) -> bool {
        match self.options.protocol {
            Protocol::Auto => self.options.credentials.is_none(),
            Protocol::Ascii | Protocol::Meta => true,
            Protocol::Binary => false,
        }
    }

    /// Names every session of every server; see [`crate::Store::list`].
    pub(super) fn name_sessions(
        &mut self,
        each: &mut dyn FnMut(SessionId) -> bool,
        by: Deadline,
    ) -> Result<()> {
        self.must_list("sessions")?;
        for server in &mut self.clients {
            server.look_around();
            if walk(server, &self.options.prefix, &mut |id, _| each(id), by)? == Walked::Partly {
                return Ok(());
            }
        }
        Ok(())
    }

    pub(super) fn must_list(&self, what: &str) -> Result<()> {
        match self.lists() {
            true => Ok(()),
            false => Err(Error::new(
                ErrorKind::Unsupported,
                format!("Memcached's binary protocol does not name {what}"),
            )
            .on(self.options.shown.as_str())
            .hint("set protocol=ascii, where the server takes it")),
        }
    }
}

/// Walks through the items of one server whose keys are this prefix and a session's id; those that never end are said to.
pub(super) fn walk(
    server: &mut Client,
    prefix: &str,
    each: &mut dyn FnMut(SessionId, Option<Ends>) -> bool,
    by: Deadline,
) -> Result<Walked> {
    // By the hash table nothing is met twice; an item may be between two LRU lists.
    let mut commands = ["lru_crawler metadump hash\r\n", "lru_crawler metadump all\r\n"].into_iter();
    let mut command = commands.next().unwrap_or_default();
    let met = Cell::new(false);
    let mut session = |line: &str| {
        met.set(true);
        session_in(line, prefix).is_none_or(|(id, ends)| each(id, ends))
    };
    let mut again = true;
    loop {
        match server.walk(command, &mut session, by) {
            Ok(Ok(walked)) => return Ok(walked),
            // One walk at a time, whoever asked for the other.
            Ok(Err(text)) if text.starts_with("BUSY") && !by.passed() => {
                std::thread::sleep(BUSY.min(by.remaining()))
            }
            Ok(Err(text)) => match commands.next() {
                Some(next) => command = next,
                None => {
                    return Err(Error::new(
                        ErrorKind::Unsupported,
                        format!("the server does not name what it stores: {text}"),
                    )
                    .on(server.shown())
                    .hint("start it without -X, and with its LRU crawler"));
                }
            },
            // It may have been idle for long; later on, sessions would be named twice.
            Err(Failure::Cut(_)) if again && !met.get() => {
                again = false;
                server.count_retry();
            }
            Err(failure) => return Err(server.error(failure)),
        }
    }
}

/// The session of a line `key=<url-encoded key> exp=... la=...`, unless it is of something else: locks and queues have
/// characters that no session id has.
fn session_in(line: &str, prefix: &str) -> Option<(SessionId, Option<Ends>)> {
    let mut words = line.strip_prefix("key=")?.split(' ');
    let key = percent_encoding::percent_decode_str(words.next()?).collect::<Vec<u8>>();
    let ends = words.any(|word| word == "exp=-1").then_some(Ends::Never);
    Some((SessionId::parse(key.strip_prefix(prefix.as_bytes())?).ok()?, ends))
}

/// What a server says of itself.
struct Stats(Vec<(String, String)>);

impl Stats {
    fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(its, _)| its == name).map(|(_, value)| value.as_str())
    }

    fn number(&self, name: &str) -> u64 {
        self.value(name).and_then(|value| value.parse().ok()).unwrap_or_default()
    }
}

fn percent(used: u64, room: u64) -> u64 {
    (used * 100).checked_div(room).unwrap_or_default()
}

struct Said {
    place: String,
    findings: Vec<Finding>,
}

impl Said {
    fn about(&mut self, stats: Option<&Stats>, settings: Option<&Stats>) {
        let setting = |name| settings.and_then(|settings| settings.value(name));
        if setting("cas_enabled") == Some("no") {
            self.say(
                Gravity::Unsafe,
                "the server counts no versions (-C): a late writer cannot be refused".into(),
                "start it without -C (--disable-cas)",
            );
        }
        self.say(
            Gravity::Note,
            match setting("memory_file") {
                None | Some("(null)") => {
                    "the server keeps sessions in memory alone: a restart logs everybody out".into()
                }
                Some(_) => {
                    "the server keeps its memory over an orderly restart (-e); any other logs everybody out"
                        .into()
                }
            },
            "choose another store where sessions must outlive that",
        );
        let Some(stats) = stats else {
            self.say(
                Gravity::Note,
                "the server does not answer stats".into(),
                "see what its provider says of evictions",
            );
            return;
        };
        if let Some(apart) = stats.value("time").and_then(|time| clock_skew(time.parse().ok()?)) {
            self.say(Gravity::Risk, apart, CLOCK_HINT);
        }
        let megabytes = stats.number("limit_maxbytes") >> 20;
        let (full, more) = (
            percent(stats.number("bytes"), stats.number("limit_maxbytes")),
            "give it more memory (-m), and to sessions alone",
        );
        let evicts = setting("evictions") != Some("off");
        let (evicted, refused) = (stats.number("evictions"), stats.number("store_no_memory"));
        match evicts {
            true if evicted > 0 => self.say(
                Gravity::Risk,
                format!(
                    "the server has removed {evicted} items before their time, to make room in its {megabytes} MB: \
                     sessions are among them, if it has any"
                ),
                more,
            ),
            true if full >= NEARLY => self.say(
                Gravity::Risk,
                format!(
                    "{full} % of the server's {megabytes} MB are in use: it soon removes sessions that were not used for \
                     long"
                ),
                more,
            ),
            true => self.say(
                Gravity::Note,
                format!(
                    "once its {megabytes} MB are full, the server removes the sessions that were not used for longest"
                ),
                "watch evictions in its stats; -M refuses new sessions instead",
            ),
            false if refused > 0 => self.say(
                Gravity::Risk,
                format!("the server has refused to store {refused} items: its {megabytes} MB are full (-M)"),
                more,
            ),
            false if full >= NEARLY => self.say(
                Gravity::Risk,
                format!(
                    "{full} % of the server's {megabytes} MB are in use: it soon refuses to store sessions (-M)"
                ),
                more,
            ),
            false => self.say(
                Gravity::Note,
                format!("once its {megabytes} MB are full, the server refuses to store sessions (-M)"),
                "watch store_no_memory in its stats",
            ),
        }
        let clients = "raise -c (--conn-limit) of the server, or run fewer workers";
        let room = stats.number("max_connections");
        // Some are kept for itself.
        let used = stats.number("curr_connections") + stats.number("reserved_fds");
        let turned_away = stats.number("rejected_connections") + stats.number("listen_disabled_num");
        if percent(used, room) >= NEARLY {
            self.say(
                Gravity::Risk,
                format!("of the server's {room} connections, {used} are in use"),
                clients,
            );
        } else if turned_away > 0 {
            self.say(
                Gravity::Risk,
                format!("the server had no room for more than {room} connections {turned_away} times"),
                clients,
            );
        }
        match setting("item_size_max").and_then(|size| size.parse::<u64>().ok()) {
            Some(ITEM_SIZE) | None => {}
            Some(size) => self.say(
                Gravity::Note,
                format!("the server takes sessions of up to {size} bytes, not {ITEM_SIZE} (-I)"),
                "set the same -I on every server of a pool",
            ),
        }
    }

    fn say(&mut self, gravity: Gravity, what: String, hint: &str) {
        self.findings.push(Finding { gravity, what, hint: hint.into(), place: self.place.clone() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(stats: &str, settings: &str) -> Vec<(Gravity, String)> {
        let parsed = |text: &str| {
            let pairs = text.split(' ').filter_map(|pair| pair.split_once('='));
            Stats(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
        };
        let mut said = Said { place: "memcached://h".into(), findings: Vec::new() };
        said.about(Some(&parsed(stats)), Some(&parsed(settings)));
        said.findings.into_iter().map(|finding| (finding.gravity, finding.what)).collect()
    }

    const ROOM: &str = "limit_maxbytes=67108864 bytes=1000 max_connections=1024 curr_connections=10";

    #[test]
    fn of_a_sound_server_it_is_noted_that_it_forgets_and_evicts() {
        let said = said(ROOM, "cas_enabled=yes evictions=on item_size_max=1048576 memory_file=(null)");
        assert!(said.iter().all(|(gravity, _)| *gravity == Gravity::Note), "{said:?}");
        let texts: Vec<&str> = said.iter().map(|(_, what)| what.as_str()).collect();
        let [forgets, evicts] = texts[..] else { panic!("{texts:?}") };
        assert!(forgets.contains("a restart logs everybody out"), "{forgets}");
        assert!(evicts.contains("its 64 MB") && evicts.contains("removes"), "{evicts}");
    }

    #[test]
    fn what_happened_and_what_is_near_is_a_risk() {
        for (stats, settings, told) in [
            ("evictions=3", "evictions=on", "removed 3 items"),
            ("bytes=66000000", "evictions=on", "98 % of the server's 64 MB"),
            ("store_no_memory=5", "evictions=off", "refused to store 5 items"),
            ("bytes=66000000", "evictions=off", "soon refuses"),
            ("curr_connections=1000", "evictions=on", "of the server's 1024 connections, 1000 are in use"),
            ("rejected_connections=7", "evictions=on", "7 times"),
            ("listen_disabled_num=2", "evictions=on", "2 times"),
            ("time=1000000000", "evictions=on", "the server's clock is "),
        ] {
            // The first of a name counts.
            let said = said(&format!("{stats} {ROOM}"), settings);
            let risks: Vec<_> = said.iter().filter(|(gravity, _)| *gravity == Gravity::Risk).collect();
            assert!(risks.len() == 1 && risks[0].1.contains(told), "{stats}: {said:?}");
        }
    }

    #[test]
    fn without_versions_nothing_is_safe() {
        assert_eq!(said(ROOM, "cas_enabled=no")[0].0, Gravity::Unsafe);
    }

    #[test]
    fn a_server_that_tells_nothing_forgets_all_the_same() {
        let mut said = Said { place: "memcached://h".into(), findings: Vec::new() };
        said.about(None, None);
        assert_eq!(said.findings.len(), 2);
        assert!(said.findings.iter().all(|finding| finding.gravity == Gravity::Note));
    }

    #[test]
    fn sessions_are_told_from_everything_else() {
        let id = |line| session_in(line, "memc.sess.key.").map(|(id, _)| id.as_str().to_owned());
        assert_eq!(id("key=memc.sess.key.a%2Cb-c exp=-1 la=1 cas=3").as_deref(), Some("a,b-c"));
        assert_eq!(id("key=memc.sess.key.lock.abc exp=-1"), None);
        assert_eq!(id("key=another exp=-1"), None);
        assert_eq!(id("RESET"), None);
    }
}
