//! Waiting for a session that somebody has: a look now and then, and who waits is counted.
//!
//! A look is a GetItem: an UpdateItem whose condition does not hold is billed as if it had written the whole item. From its
//! second look on a waiter stands in an item of its own beside the session's, `<key>_WAITING`, which is no session's key,
//! for no session id has a `_`:
//!
//! | attribute | |
//! |---|---|
//! | 32 hex digits, of the waiter's token | N, milliseconds since 1970: until then it waits |
//! | `last_waiter` | S, the digits of who came last |
//! | `expires` | N, for DynamoDB, where nobody is left to remove it |

use std::collections::HashMap;
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::{AttributeValue, ReturnConsumedCapacity, ReturnValue};

use super::DynamoDb;
use super::client::Answer;
use super::item::{Attributes, Item, milliseconds, number};
use super::lock::{Held, LOCK_STATE, Taken, nothing};
use super::native::Watch;
use super::options::LAST;
use super::tally::Purpose;
use crate::stores::pause::Pause;
use crate::stores::refused;
use crate::stores::token::Token;
use crate::{Deadline, Error, ErrorKind, Opened, Result, SessionId, Unknown};

/// The pause before the first look, from which on it grows, and the longest.
const FIRST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_millis(150);

/// Who has waited for so long and was overtaken looks as often as those who came a moment ago, or they would always be there
/// first. As long as one request has the session, it looks ever more seldom.
const LONG: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_millis(25);

/// How far apart the clocks of hosts are, at most.
const APART: Duration = Duration::from_secs(60);

/// What the key of the item ends with that has those who wait.
const WAITING: &str = "_WAITING";

/// So long after its end DynamoDB may delete that item.
const LEFT_BEHIND: Duration = Duration::from_secs(60);

/// A request that may have to wait.
struct Waiter {
    wait: Duration,
    until: Deadline,
    /// Since when it waits.
    since: Option<Instant>,
    looks: u32,
    pause: Pause,
    longest: Duration,
    /// The lock and the `expires` that it saw last.
    there: Option<(Option<AttributeValue>, Option<i64>)>,
    watch: Watch,
    /// What was there when it came.
    company: Option<Company>,
}

/// Those who wait, as the item says.
#[derive(Debug, Default)]
struct Company {
    waiting: u32,
    /// They are gone, and never left.
    dead: Vec<String>,
    last: Option<String>,
}

impl DynamoDb {
    /// Opens a session alone; see [`crate::Store::open`].
    pub(super) fn open_alone(
        &mut self,
        id: &SessionId,
        wait: Duration,
        unknown: Unknown,
        by: Deadline,
    ) -> Result<Opened> {
        let mut held = Held::new(self.key(id))?;
        let mut waiter = Waiter {
            wait,
            until: by.min(Deadline::after(wait)),
            since: None,
            looks: 0,
            pause: Pause::new(&held.token, 0),
            longest: FIRST,
            there: None,
            watch: Watch::default(),
            company: None,
        };
        let opened = self.lock(&mut held, &mut waiter, unknown, by);
        if let Some(since) = waiter.since {
            self.client.tally(|tally| tally.counters.waited += since.elapsed());
        }
        if let Some(company) = waiter.company {
            // It is not counted for longer than it would have waited.
            let _ = self.leave(&held, &company, by.within(self.client.settings.timeout));
        }
        match &opened {
            Ok(_) => self.release_orphans(by),
            Err(error) if error.kind() == ErrorKind::LockBusy => {}
            Err(error) if held.is_taken() || error.outcome() == crate::Outcome::Unknown => {
                self.abandon(&held, by)
            }
            Err(_) => {}
        }
        opened
    }

    fn lock(
        &mut self,
        held: &mut Held,
        waiter: &mut Waiter,
        unknown: Unknown,
        by: Deadline,
    ) -> Result<Opened> {
        let mut taken = self.take(held, unknown, by)?;
        // Once after each look: who takes it meanwhile is waited for.
        let mut at_once = true;
        loop {
            let found = match taken {
                Taken::Ours(item) => match self.opened(held, item, unknown, by)? {
                    Some(opened) => return Ok(opened),
                    None => {
                        at_once = true;
                        Item::default()
                    }
                },
                Taken::NotThere => return Ok(nothing()),
                Taken::Held(item) => item,
            };
            // An attempt that was given up may have got the lock since: asking again tells with what is in the session.
            let free = found.lock.is_none() || held.has(&found);
            let over = self.is_over(&found);
            taken = match std::mem::replace(&mut at_once, true) {
                true if free || over => {
                    at_once = false;
                    match free {
                        true => self.take(held, unknown, by)?,
                        false => self.take_over(held, &found, unknown, by)?,
                    }
                }
                _ => self.look_later(held, waiter, &found, unknown, by)?,
            };
        }
    }

    /// Whether nobody has this lock any more.
    fn is_over(&self, item: &Item) -> bool {
        match item.lease() {
            Some(until) => {
                // The service's clock judges; where answers are not dated, hosts' clocks may differ by so much.
                let apart = if self.client.clock.is_known() { Duration::ZERO } else { APART };
                until + milliseconds(apart) < self.client.clock.now() || self.is_orphaned(item)
            }
            None => self.native_is_over(item),
        }
    }

    /// Lets some time pass, and looks at the lock again.
    fn look_later(
        &mut self,
        held: &Held,
        waiter: &mut Waiter,
        item: &Item,
        unknown: Unknown,
        by: Deadline,
    ) -> Result<Taken> {
        if waiter.since.is_none() {
            waiter.since = Some(Instant::now());
            self.client.tally(|tally| tally.counters.waits += 1);
        }
        if waiter.until.passed() {
            return Err(self.busy(waiter.wait));
        }
        if waiter.watch.sees(item) {
            self.stamp(&held.key, item, by)?;
        }
        if waiter.looks > 0 && waiter.company.is_none() {
            self.join(held, waiter, by)?;
        }
        // AWS's handler's locks are all the same; `expires` is not.
        let there = (item.lock.clone(), item.expires);
        let overtaken = waiter.there.as_ref().is_some_and(|before| *before != there);
        waiter.there = Some(there);
        if overtaken && waiter.since.is_some_and(|since| since.elapsed() > LONG) {
            waiter.longest = waiter.longest.min(SOON);
        }
        std::thread::sleep(waiter.pause.about(waiter.longest).min(waiter.until.remaining()));
        waiter.longest = waiter.longest.mul_f64(1.4).min(LONGEST);
        waiter.looks += 1;
        Ok(match self.client.get(Purpose::Wait, &held.key, Some(LOCK_STATE), true, by)? {
            Some(item) => Taken::Held(item),
            None if unknown == Unknown::Refuse => Taken::NotThere,
            None => Taken::Held(Item::default()),
        })
    }

    /// Stands with those who wait, unless they are as many as may.
    fn join(&mut self, held: &Held, waiter: &mut Waiter, by: Deadline) -> Result<()> {
        let until = self.client.clock.now() + milliseconds(waiter.until.remaining());
        let changed = Change {
            change: "SET #me = :until, #last = :me, #expires = :expires",
            condition: None,
            gone: &[],
            values: vec![
                (":until", number(until)),
                (":me", AttributeValue::S(held.token.digits().into())),
                (":expires", number((until + milliseconds(LEFT_BEHIND)) / 1000)),
            ],
        };
        let found = self.change_company(held, &changed, by)?.unwrap_or_default();
        let company = self.company(&found, Some(&held.token));
        let most = self.client.settings.max_waiters.map_or(u32::MAX, std::num::NonZeroU32::get);
        let waiting = company.waiting;
        waiter.company = Some(company);
        match waiting >= most {
            true => Err(self.full(waiting)),
            false => Ok(()),
        }
    }

    /// Leaves those who wait, and removes their item with the last of them.
    fn leave(&mut self, held: &Held, company: &Company, by: Deadline) -> Result<()> {
        // Nobody else was there, and maybe nobody came.
        if company.waiting == 0 && self.dissolve(held, held.token.digits(), by)? {
            return Ok(());
        }
        let changed = Change {
            change: "REMOVE #me",
            condition: Some("attribute_exists(#id)"),
            gone: &company.dead,
            values: Vec::new(),
        };
        let Some(left) = self.change_company(held, &changed, by)? else { return Ok(()) };
        match self.company(&left, None) {
            Company { waiting: 0, last: Some(last), .. } => self.dissolve(held, &last, by).map(drop),
            _ => Ok(()),
        }
    }

    /// Removes the item of those who wait, unless somebody has come after this one.
    fn dissolve(&mut self, held: &Held, last: &str, by: Deadline) -> Result<bool> {
        let options = std::sync::Arc::clone(&self.client.options);
        let key = waiting_key(&held.key);
        let answer = self.client.ask(Purpose::Wait, LEAVING, by, async |sdk| {
            sdk.delete_item()
                .table_name(&options.table)
                .key(&options.layout.key, AttributeValue::S(key.clone()))
                .condition_expression("#last = :last")
                .expression_attribute_names("#last", LAST)
                .expression_attribute_values(":last", AttributeValue::S(last.to_owned()))
                .return_consumed_capacity(ReturnConsumedCapacity::Total)
                .send()
                .await
        })?;
        Ok(matches!(answer, Answer::Done(_)))
    }

    /// How many wait for the session of this key.
    pub(super) fn waiting(&mut self, key: &str, by: Deadline) -> Result<u32> {
        let options = std::sync::Arc::clone(&self.client.options);
        let key = waiting_key(key);
        let answer =
            self.client.ask(Purpose::Other, "cannot read who waits for the session", by, async |sdk| {
                sdk.get_item()
                    .table_name(&options.table)
                    .key(&options.layout.key, AttributeValue::S(key.clone()))
                    .consistent_read(true)
                    .return_consumed_capacity(ReturnConsumedCapacity::Total)
                    .send()
                    .await
            })?;
        let Answer::Done(answer) = answer else { return Ok(0) };
        Ok(self.company(&answer.item.unwrap_or_default(), None).waiting)
    }

    /// Changes the item of those who wait, and answers what it says then; `None` where the condition does not hold.
    fn change_company(
        &mut self,
        held: &Held,
        change: &Change<'_>,
        by: Deadline,
    ) -> Result<Option<Attributes>> {
        let options = std::sync::Arc::clone(&self.client.options);
        let key = waiting_key(&held.key);
        let mut names = HashMap::from([("#me".to_owned(), held.token.digits().to_owned())]);
        for (name, stands_for) in
            [("#id", options.layout.key.as_str()), ("#expires", &options.layout.expires), ("#last", LAST)]
        {
            if change.change.contains(name) || change.condition.is_some_and(|it| it.contains(name)) {
                names.insert(name.into(), stands_for.into());
            }
        }
        let mut expression = change.change.to_owned();
        for (at, gone) in change.gone.iter().enumerate() {
            expression.push_str(&format!(", #gone{at}"));
            names.insert(format!("#gone{at}"), gone.clone());
        }
        let values = change.values.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        let values: HashMap<_, _> = values.collect();
        let answer = self.client.ask(Purpose::Wait, STANDING, by, async |sdk| {
            sdk.update_item()
                .table_name(&options.table)
                .key(&options.layout.key, AttributeValue::S(key.clone()))
                .update_expression(&expression)
                .set_condition_expression(change.condition.map(str::to_owned))
                .set_expression_attribute_names(Some(names.clone()))
                .set_expression_attribute_values((!values.is_empty()).then(|| values.clone()))
                .return_values(ReturnValue::AllNew)
                .return_consumed_capacity(ReturnConsumedCapacity::Total)
                .send()
                .await
        })?;
        Ok(match answer {
            Answer::Done(answer) => Some(answer.attributes.unwrap_or_default()),
            Answer::Unmet(..) => None,
        })
    }

    /// Those who wait, this one left out.
    fn company(&self, found: &Attributes, but: Option<&Token>) -> Company {
        let now = self.client.clock.now();
        let mut company = Company::default();
        for (name, value) in found {
            match value {
                AttributeValue::N(until) if is_waiter(name) && but.is_none_or(|me| me.digits() != name) => {
                    match until.parse::<u64>().is_ok_and(|until| until > now) {
                        true => company.waiting += 1,
                        false => company.dead.push(name.clone()),
                    }
                }
                AttributeValue::S(last) if name == LAST => company.last = Some(last.clone()),
                _ => {}
            }
        }
        company
    }

    fn busy(&self, wait: Duration) -> Error {
        refused::busy(wait).on(self.client.options.shown.as_str())
    }

    fn full(&self, waiters: u32) -> Error {
        refused::full(waiters).on(self.client.options.shown.as_str())
    }
}

const STANDING: &str = "cannot wait for the session";
const LEAVING: &str = "cannot stop waiting for the session";

/// A change of the item of those who wait.
struct Change<'a> {
    change: &'a str,
    condition: Option<&'a str>,
    /// Attributes to remove besides.
    gone: &'a [String],
    values: Vec<(&'static str, AttributeValue)>,
}

fn waiting_key(key: &str) -> String {
    format!("{key}{WAITING}")
}

fn is_waiter(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}
