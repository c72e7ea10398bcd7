//! What was seen, in order, and the choice among it.

use super::precedence::SOURCES;
use super::seen::{Found, Seen, Variables, config};
use super::{platforms, target};
use crate::{Environment, Error, Result, StoreUrl};

/// All that the environment says about stores.
#[derive(Debug)]
pub struct Survey {
    /// What was seen, in the order of precedence.
    pub candidates: Vec<Candidate>,
    /// A platform that runs an application on several servers, where this is one.
    pub platform: Option<&'static str>,
    /// What whoever runs the application should know, with what to change.
    pub notices: Vec<String>,
    /// The store; or why none could be chosen.
    pub choice: Result<Choice>,
}

/// What sessions are to be kept in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// This store.
    Store {
        /// The store.
        url: StoreUrl,
        /// What named it, for people.
        because: String,
    },
    /// A directory.
    Files {
        /// What says so, for people.
        because: String,
        /// The variables that say so; none where nothing names a store.
        from: Vec<String>,
    },
}

/// One thing that may name a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// See [`Source::rank`](super::Source::rank).
    pub rank: u8,
    /// Where it is met: [`Source::platform`](super::Source::platform).
    pub platform: &'static str,
    /// The variables; where they name the same store several times, all of them.
    pub from: Vec<String>,
    /// Which part of the variable's value, where it has several: `service redis-sessions`.
    pub part: Option<String>,
    /// The store; `None` where it is not read (a database) or cannot be.
    pub url: Option<StoreUrl>,
    /// What became of it.
    pub standing: Standing,
}

impl Candidate {
    /// What names it, for people.
    pub fn named_by(&self) -> String {
        named_by(&self.from, self.part.as_deref())
    }
}

/// What became of a [`Candidate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is the store.
    Chosen,
    /// It is not, for this reason.
    PassedOver(String),
}

/// Looks at everything in `environment` that may name a store.
pub fn survey(environment: &Environment) -> Survey {
    let variables = &Variables(environment);
    let mut seen: Vec<Ranked> = Vec::new();
    for source in SOURCES {
        for one in (source.look)(variables) {
            let because = named_by(&one.from, one.part.as_deref());
            let ranked = Ranked { rank: source.rank, platform: source.platform, because, seen: one };
            match seen.iter_mut().find(|other| other.is_same_as(&ranked)) {
                Some(other) => other.also_from(ranked.seen.from),
                None => seen.push(ranked),
            }
        }
    }
    let (decided, choice) = choose(&mut seen);
    let platform = platforms::recognised(variables);
    let of_chosen = match decided {
        Decided::By(index) => seen[index].seen.notice,
        Decided::Not { .. } | Decided::Nothing => None,
    };
    let notices = only_here(&choice, platform).into_iter().chain(of_chosen.map(str::to_owned)).collect();
    let candidates =
        seen.iter().enumerate().map(|(index, ranked)| ranked.stands(index, &decided, &seen)).collect();
    Survey { candidates, platform, notices, choice }
}

/// What one source saw, with its rank.
struct Ranked {
    rank: u8,
    platform: &'static str,
    /// What named it first: the same store may be named again further down.
    because: String,
    seen: Seen,
}

/// How it came to the choice.
enum Decided {
    By(usize),
    /// Several of this rank are equally meant, or one cannot be understood.
    Not {
        rank: u8,
    },
    Nothing,
}

fn choose(seen: &mut [Ranked]) -> (Decided, Result<Choice>) {
    let counts = |ranked: &&Ranked| !matches!(ranked.seen.found, Found::Never(_));
    let Some(rank) = seen.iter().filter(counts).map(|ranked| ranked.rank).min() else {
        let because = "the environment names no store".to_owned();
        return (Decided::Nothing, Ok(Choice::Files { because, from: Vec::new() }));
    };
    let of_rank: Vec<usize> =
        (0..seen.len()).filter(|&index| seen[index].rank == rank && counts(&&seen[index])).collect();
    let one = |wanted: fn(&Seen) -> bool| of_rank.iter().copied().find(|&index| wanted(&seen[index].seen));
    let only = || of_rank.first().copied().filter(|_| of_rank.len() == 1);
    let broken = || one(|seen| matches!(seen.found, Found::Broken(_)));
    let Some(index) = one(|seen| seen.first).or_else(broken).or_else(only) else {
        let equals: Vec<&Ranked> = of_rank.iter().map(|&index| &seen[index]).collect();
        return (Decided::Not { rank }, Err(ambiguous(&equals)));
    };
    let because = seen[index].because.clone();
    let found = &mut seen[index].seen.found;
    match std::mem::replace(found, Found::Files) {
        Found::Store(url) => {
            *found = Found::Store(url.clone());
            (Decided::By(index), Ok(Choice::Store { url, because }))
        }
        Found::Broken(error) => {
            *found = Found::Never(first_line(&error));
            (Decided::Not { rank }, Err(error))
        }
        Found::Files | Found::Never(_) => {
            let from = seen[index].seen.from.clone();
            (Decided::By(index), Ok(Choice::Files { because: format!("{because} says files"), from }))
        }
    }
}

fn first_line(error: &Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

fn ambiguous(equals: &[&Ranked]) -> Error {
    let names: Vec<&str> = equals.iter().map(|ranked| ranked.because.as_str()).collect();
    let (last, others) = names.split_last().map_or(("", &[][..]), |(last, others)| (*last, others));
    let example = equals.iter().filter(|ranked| ranked.seen.part.is_none()).find_map(|ranked| {
        let name = ranked.seen.from.first().filter(|name| name.ends_with("_URL"))?;
        Some(format!(", such as SESSION_STORE_URL=env:{name}"))
    });
    let what = format!(
        "{} and {last} name different stores, and nothing says which is for sessions",
        others.join(", ")
    );
    let hint = "set SESSION_STORE_URL to the one that is meant";
    config(what).hint(format!("{hint}{}", example.unwrap_or_default()))
}

/// Files by default, where several servers may run.
fn only_here(choice: &Result<Choice>, platform: Option<&str>) -> Option<String> {
    let platform = platform?;
    let Ok(Choice::Files { from, .. }) = choice else { return None };
    from.is_empty().then(|| {
        format!(
            "sessions are kept in files of this server alone, and {platform} may run several\nhint: bind or attach a Redis \
             or Memcached service, or set SESSION_STORE_URL (files: it is meant so)"
        )
    })
}

impl Ranked {
    fn is_same_as(&self, other: &Ranked) -> bool {
        match (&self.seen.found, &other.seen.found) {
            (Found::Store(one), Found::Store(other)) => target::same(one, other),
            _ => false,
        }
    }

    fn also_from(&mut self, names: Vec<String>) {
        for name in names {
            if !self.seen.from.contains(&name) {
                self.seen.from.push(name);
            }
        }
    }

    fn stands(&self, index: usize, decided: &Decided, all: &[Ranked]) -> Candidate {
        let (url, own_reason) = match &self.seen.found {
            Found::Store(url) => (Some(url.clone()), None),
            Found::Files => (None, None),
            Found::Broken(error) => (None, Some(first_line(error))),
            Found::Never(why) => (None, Some(why.clone())),
        };
        let standing = match (decided, own_reason) {
            (Decided::By(chosen), None) if *chosen == index => Standing::Chosen,
            (_, Some(reason)) => Standing::PassedOver(reason),
            (Decided::By(chosen), None) => {
                Standing::PassedOver(format!("{} comes first", all[*chosen].because))
            }
            (Decided::Nothing, None) => Standing::PassedOver("it is not for sessions".into()),
            (Decided::Not { rank }, None) if *rank == self.rank => {
                Standing::PassedOver("nothing says whether it is meant".into())
            }
            (Decided::Not { .. }, None) => {
                Standing::PassedOver("never instead of one that comes first".into())
            }
        };
        let Seen { from, part, .. } = &self.seen;
        Candidate {
            rank: self.rank,
            platform: self.platform,
            from: from.clone(),
            part: part.clone(),
            url,
            standing,
        }
    }
}

fn named_by(from: &[String], part: Option<&str>) -> String {
    let names = from.join(", ");
    match part {
        Some(part) => format!("{names} ({part})"),
        None => names,
    }
}
