//! Waiting for a lock that somebody has.
//!
//! Memcached wakes nobody up, so waiters ask. They stand in one item, first come first: 16 hex digits of each waiter's
//! token, joined by `append`. The first asks for the lock again and again, at first every half of a millisecond and then
//! in proportion to how long it is held; those behind it look less often. The queue is advice, and the lock is the lock:
//! whoever gets it takes itself and those before it off the queue, whoever finds itself missing joins again, and a first
//! waiter that leaves a free lock alone for half a second is taken to be dead.
//!
//! php-memcached looks every 150 ms, six times. Where it was met, the first waiter leaves the lock free for at least 5 ms,
//! and for twice as long as ours had it, after each release. Where it was not, a session whose lock passes from hand to hand
//! gets a gap of 160 ms: after 0.3 s, and then every 5 s at most, where ours have it for 15 ms and more at a time; after 3 s,
//! and then every 30 s at most, where it is free often enough to be found so.

use std::time::{Duration, Instant};

use super::Memcached;
use super::keys::Place;
use super::lock::{Item, Taken, Tried};
use super::wire::{Answer, Ask, Expiry};
use crate::stores::pause::Pause;
use crate::stores::refused;
use crate::stores::token::{MARK, Token};
use crate::{Deadline, Error, Result};

/// The length of a waiter's entry.
pub(super) const ENTRY: usize = 16;
/// How long a queue is kept that nobody joins or leaves: one of dead waiters alone must not refuse others for longer.
const KEPT: Duration = Duration::from_secs(20);
/// How long workers queue at once, without trying the lock first, after they met others there.
const CROWDED: Duration = Duration::from_secs(2);
/// How long native workers are expected to come again.
const SHARED: Duration = Duration::from_secs(30);
/// How long the first waiter may leave a free lock alone; more than the longest gap.
const PATIENCE: Duration = Duration::from_millis(500);
/// The shortest and the longest gap for native workers that were met.
const GAP: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(300));
/// The gap for native workers that nobody has met: longer than they let pass between two looks.
const RARE_GAP: Duration = Duration::from_millis(160);
/// How long a lock passes from hand to hand before the first such gap, and the longest time between two of them, where it
/// is held for long and where not.
const RARELY: [(Duration, Duration); 2] =
    [(Duration::from_millis(300), Duration::from_secs(5)), (Duration::from_secs(3), Duration::from_secs(30))];
/// From when on a lock is held for long: those who look for it now and then hardly find it free. And those who queue for it
/// wait so long anyway that a gap hardly matters, while among shorter waits it would be the longest by far.
const LONG: Duration = Duration::from_millis(15);
/// The shortest and the longest time between two looks of the first waiter.
const QUICK: (Duration, Duration) = (Duration::from_micros(500), Duration::from_millis(5));
/// The same for the second one, and the longest of anybody.
const BEHIND: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));
/// What a waiter does at the end of its wait may take this long beyond it.
const GRACE: Duration = Duration::from_millis(250);

/// Whom a worker met at a lock lately.
#[derive(Debug)]
pub(super) struct Company {
    lock: Vec<u8>,
    /// When it was last waited for.
    last: Instant,
    /// When a native worker was last seen to have it.
    natives: Option<Instant>,
    /// How long one of ours had it.
    held: Duration,
    /// When it began, or when natives that nobody has seen had a gap.
    without_gap: Instant,
    gaps: u32,
}

impl Company {
    fn shared(&self) -> bool {
        self.natives.is_some_and(|seen| seen.elapsed() < SHARED)
    }

    /// Whether natives that nobody has seen should have a gap.
    fn gap_is_due(&self) -> bool {
        let [long, short] = RARELY;
        let (first, most) = if self.held >= LONG { long } else { short };
        self.without_gap.elapsed() >= (first * 4u32.pow(self.gaps.min(4))).min(most)
    }

    fn had_gap(&mut self) {
        self.without_gap = Instant::now();
        self.gaps += 1;
    }
}

/// One waiter, and what it has seen.
struct Waiter<'a> {
    place: &'a Place,
    token: &'a Token,
    pause: Pause,
    /// Who has the lock, and since when this was seen; `None` while it is free.
    holder: Option<(Vec<u8>, Instant)>,
    /// Since when none of ours has it.
    without_ours: Option<Instant>,
    /// The gap that is left now.
    gap: Duration,
    /// Who is first, and since when it leaves a free lock alone.
    idle: Option<(Vec<u8>, Instant)>,
}

/// What a waiter does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Stand in the queue.
    Join,
    /// See whether it is one's turn.
    Look,
    /// Take the lock if it is free.
    Try,
}

/// What a waiter sees.
struct View {
    tried: Tried,
    queue: Option<Item>,
}

impl Memcached {
    /// Takes the lock of `place`, and reads the session under it.
    pub(super) fn take(
        &mut self,
        place: &Place,
        token: &Token,
        wait: Duration,
        by: Deadline,
    ) -> Result<Taken> {
        if wait.is_zero() || !self.crowded(place) {
            if let Tried::Taken(taken) = self.try_lock(place, token, by)? {
                return Ok(taken);
            }
            if !self.orphans.is_empty() {
                // It may be our own of before, whose unlock has just turned out to be lost.
                self.release_orphans(place, by);
                if let Tried::Taken(taken) = self.try_lock(place, token, by)? {
                    return Ok(taken);
                }
            }
            if wait.is_zero() {
                return Err(self.busy(place, wait));
            }
        }
        let started = Instant::now();
        let mut waited = false;
        let taken = self.wait(place, token, wait, &mut waited, by);
        if waited {
            self.counted.waits += 1;
            self.counted.waited += started.elapsed();
        }
        taken
    }

    fn crowded(&self, place: &Place) -> bool {
        self.company.as_ref().is_some_and(|company| {
            company.lock == place.lock && (company.last.elapsed() < CROWDED || company.shared())
        })
    }

    /// Remembers whether others waited for a lock that was asked for without waiting in line: whoever takes it again and again
    /// before they look would have it for ever.
    pub(super) fn pass_by(&mut self, place: &Place, others: bool) {
        if others {
            self.meet(place);
        } else if !self.shared(place)
            && self.company.as_ref().is_some_and(|company| company.lock == place.lock)
        {
            self.company = None;
        }
    }

    /// Remembers those who wait still when a lock is given back, however long it was held.
    pub(super) fn part(&mut self, place: &Place) {
        if let Some(company) = &mut self.company
            && company.lock == place.lock
        {
            company.last = Instant::now();
        }
    }

    /// Whether native workers come to this lock, too.
    fn shared(&self, place: &Place) -> bool {
        self.company.as_ref().is_some_and(|company| company.lock == place.lock && company.shared())
    }

    /// Remembers that others want this lock, too.
    fn meet(&mut self, place: &Place) -> &mut Company {
        let now = Instant::now();
        let known = self.company.take().filter(|company| company.lock == place.lock);
        let company = known.filter(|company| company.last.elapsed() < CROWDED || company.shared());
        let mut company = company.unwrap_or_else(|| Company {
            lock: place.lock.clone(),
            last: now,
            natives: None,
            held: Duration::ZERO,
            without_gap: now,
            gaps: 0,
        });
        company.last = now;
        self.company.insert(company)
    }

    fn wait(
        &mut self,
        place: &Place,
        token: &Token,
        wait: Duration,
        waited: &mut bool,
        by: Deadline,
    ) -> Result<Taken> {
        let wait_by = Deadline::after(wait).min(by);
        let mut waiter = Waiter {
            place,
            token,
            pause: Pause::new(token, 0),
            holder: None,
            without_ours: None,
            gap: Duration::ZERO,
            idle: None,
        };
        let most = self.settings.max_waiters.map_or(usize::MAX, |most| most.get() as usize);
        // Who is refused must not have prolonged the queue's life, so it looks first.
        let mut next = Next::Look;
        loop {
            self.release_orphans(place, by);
            let View { tried, queue } = match next {
                Next::Join => self.join(&waiter, by)?,
                Next::Look => self.look_at(&waiter, by)?,
                Next::Try => self.try_in_line(&waiter, by)?,
            };
            let position = queue.as_ref().and_then(|queue| position(&queue.value, waiter.entry()));
            let holder = match tried {
                Tried::Taken(taken) => {
                    self.step_out(place, queue, |value| after(value, waiter.entry()), by)?;
                    return self.read_under(place, taken, by);
                }
                Tried::Busy(holder) => holder,
            };
            let waiters = queue.as_ref().map_or(0, |queue| queue.value.len() / ENTRY);
            let Some(position) = position else {
                if next == Next::Look && waiters >= most && holder.is_some() {
                    return Err(self.full(place, waiters));
                }
                // Nobody waits and nobody has it; or the queue was lost, or the server has no room for one.
                let alone = holder.is_none() && waiters == 0 && !self.shared(place);
                if (alone || next == Next::Join)
                    && let Tried::Taken(taken) = self.try_lock(place, token, by)?
                {
                    return Ok(taken);
                }
                let left = wait_by.remaining();
                if left.is_zero() {
                    return Err(self.busy(place, wait));
                }
                if next == Next::Join && holder.is_some() {
                    *waited = true;
                    std::thread::sleep(waiter.pause.about(QUICK.1).min(left));
                }
                next = Next::Join;
                continue;
            };
            // Where the lock is free, they may all be dead.
            if next == Next::Join && position >= most && holder.is_some() {
                self.leave(&waiter, by)?;
                return Err(self.full(place, position));
            }
            if holder.is_some() || position > 0 {
                *waited = true;
            }
            let (then, pause) = self.judge(&mut waiter, position, holder, queue.as_ref());
            next = then;
            let left = wait_by.remaining();
            if left.is_zero() {
                self.leave(&waiter, by.max(Deadline::after(GRACE)))?;
                return Err(self.busy(place, wait));
            }
            if !pause.is_zero() {
                std::thread::sleep(pause.min(left));
            }
        }
    }

    /// What the waiter at this place does next, and after which pause.
    fn judge(
        &mut self,
        waiter: &mut Waiter<'_>,
        position: usize,
        holder: Option<Vec<u8>>,
        queue: Option<&Item>,
    ) -> (Next, Duration) {
        let now = Instant::now();
        let company = self.meet(waiter.place);
        let ours = holder.as_ref().is_some_and(|holder| holder.starts_with(MARK.as_bytes()));
        if holder.is_some() && !ours {
            company.natives = Some(now);
        }
        if waiter.holder.as_ref().map(|(value, _)| value) != holder.as_ref() {
            if let Some((value, since)) = &waiter.holder
                && value.starts_with(MARK.as_bytes())
            {
                company.held = since.elapsed();
            }
            waiter.holder = holder.map(|value| (value, now));
        }
        if ours {
            waiter.without_ours = None;
        } else if waiter.without_ours.is_none() {
            waiter.without_ours = Some(now);
            waiter.gap = Duration::ZERO;
            if company.shared() {
                waiter.gap = (company.held * 2).clamp(GAP.0, GAP.1);
            } else if position == 0 && company.gap_is_due() {
                waiter.gap = RARE_GAP;
                company.had_gap();
            }
        }
        let since_ours = waiter.without_ours.map_or(Duration::ZERO, |since| now - since);
        let first =
            queue.map(|queue| queue.value[..ENTRY.min(queue.value.len())].to_vec()).unwrap_or_default();
        if position == 0 {
            let held = waiter.holder.as_ref().map(|(_, since)| now - *since);
            let pause = waiter.pause.about((held.unwrap_or_default() / 64).clamp(QUICK.0, QUICK.1));
            return match waiter.without_ours {
                None if !company.shared() && !company.gap_is_due() => (Next::Try, pause),
                None => (Next::Look, pause),
                Some(_) if since_ours >= waiter.gap && held.is_none() => (Next::Try, Duration::ZERO),
                Some(_) if since_ours >= waiter.gap => (Next::Try, pause),
                Some(_) => (Next::Look, pause.min(waiter.gap - since_ours)),
            };
        }
        // Behind: is the first one alive?
        match (&waiter.holder, &waiter.idle) {
            (Some(_), _) => waiter.idle = None,
            (None, Some((known, since))) if *known == first => {
                let idle = now - *since;
                if idle >= RARE_GAP / 2 && company.without_gap.elapsed() >= RARE_GAP {
                    // It leaves a gap.
                    company.had_gap();
                }
                let patience =
                    PATIENCE + Duration::from_millis(20) * u32::try_from(position).unwrap_or(u32::MAX);
                if idle >= patience {
                    return (Next::Try, Duration::ZERO);
                }
            }
            (None, _) => waiter.idle = Some((first, now)),
        }
        let held = waiter.holder.as_ref().map_or(Duration::ZERO, |(_, since)| now - *since);
        let behind = BEHIND.0 * u32::try_from(position.min(10)).unwrap_or(10);
        (Next::Look, waiter.pause.about(behind.max(held / 64).min(BEHIND.1)))
    }

    /// Stands in the queue, and looks.
    fn join(&mut self, waiter: &Waiter<'_>, by: Deadline) -> Result<View> {
        let at = waiter.place.lock_at;
        let (key, value) = (&waiter.place.queue, waiter.entry());
        let expiry = Expiry::after(KEPT);
        let [append, touch] = [Ask::Append { key, value }, Ask::Touch { key, expiry }];
        let [lock, queue] = waiter.looks();
        let [appended, _, lock, queue] = self.insist(at, [append, touch, lock, queue], by)?;
        let view = self.view(waiter, (Answer::Differs, lock), queue, Instant::now(), by)?;
        let free = matches!(view.tried, Tried::Taken(_) | Tried::Busy(None));
        if appended == Answer::Done || (free && !self.shared(waiter.place)) {
            return Ok(view);
        }
        let [lock, queue] = waiter.looks();
        let [_, lock, queue] = self.insist(at, [Ask::Add { key, value, expiry }, lock, queue], by)?;
        self.view(waiter, (Answer::Differs, lock), queue, Instant::now(), by)
    }

    fn look_at(&mut self, waiter: &Waiter<'_>, by: Deadline) -> Result<View> {
        let since = Instant::now();
        let [lock, queue] = self.insist(waiter.place.lock_at, waiter.looks(), by)?;
        self.view(waiter, (Answer::Differs, lock), queue, since, by)
    }

    fn try_in_line(&mut self, waiter: &Waiter<'_>, by: Deadline) -> Result<View> {
        let since = Instant::now();
        let (key, value) = (&waiter.place.lock, waiter.token.as_bytes());
        let add = Ask::Add { key, value, expiry: self.lock_expiry() };
        let [lock, queue] = waiter.looks();
        let [added, lock, queue] = self.insist(waiter.place.lock_at, [add, lock, queue], by)?;
        self.view(waiter, (added, lock), queue, since, by)
    }

    fn view(
        &mut self,
        waiter: &Waiter<'_>,
        lock: (Answer, Answer),
        queue: Answer,
        since: Instant,
        by: Deadline,
    ) -> Result<View> {
        let tried = self.taken(waiter.place, lock, waiter.token, since, by)?;
        Ok(View { tried, queue: self.item(waiter.place.lock_at, queue)? })
    }

    /// Reads the session under a lock that was waited for.
    fn read_under(&mut self, place: &Place, mut taken: Taken, by: Deadline) -> Result<Taken> {
        taken.record = self.look(place, by)?;
        Ok(taken)
    }

    /// Makes the queue what `rest` makes of it.
    fn step_out(
        &mut self,
        place: &Place,
        mut queue: Option<Item>,
        rest: impl Fn(&[u8]) -> Vec<u8>,
        by: Deadline,
    ) -> Result<()> {
        let (at, key) = (place.lock_at, &place.queue);
        // Others join in between.
        for _ in 0..8 {
            let Some(Item { value, version }) = queue else { return Ok(()) };
            let rest = rest(&value);
            if rest == value {
                return Ok(());
            }
            let step = match rest.is_empty() {
                true => Ask::Remove { key, version },
                false => Ask::Swap { key, value: &rest, expiry: Expiry::after(KEPT), version },
            };
            let [stepped, now] = self.insist(at, [step, Ask::Get { key }], by)?;
            if stepped == Answer::Done {
                return Ok(());
            }
            queue = self.item(at, now)?;
        }
        Ok(())
    }

    /// Leaves the queue.
    fn leave(&mut self, waiter: &Waiter<'_>, by: Deadline) -> Result<()> {
        let (at, key) = (waiter.place.lock_at, &waiter.place.queue);
        let [queue] = self.insist(at, [Ask::Get { key }], by)?;
        let queue = self.item(at, queue)?;
        self.step_out(waiter.place, queue, |value| without(value, waiter.entry()), by)
    }

    fn busy(&self, place: &Place, wait: Duration) -> Error {
        refused::busy(wait).on(self.clients[place.lock_at].shown())
    }

    fn full(&self, place: &Place, waiters: usize) -> Error {
        refused::full(waiters).on(self.clients[place.lock_at].shown())
    }
}

impl Waiter<'_> {
    fn entry(&self) -> &[u8] {
        &self.token.digits().as_bytes()[..ENTRY]
    }

    fn looks(&self) -> [Ask<'_>; 2] {
        [Ask::Get { key: &self.place.lock }, Ask::Get { key: &self.place.queue }]
    }
}

/// The place of a waiter in a queue.
fn position(queue: &[u8], entry: &[u8]) -> Option<usize> {
    queue.chunks(ENTRY).position(|waiter| waiter == entry)
}

/// A queue without those up to this waiter.
fn after(queue: &[u8], entry: &[u8]) -> Vec<u8> {
    let gone = position(queue, entry).map_or(0, |place| (place + 1) * ENTRY);
    without(&queue[gone.min(queue.len())..], entry)
}

/// A queue without this waiter, who may have joined twice where a connection was cut.
fn without(queue: &[u8], entry: &[u8]) -> Vec<u8> {
    queue.chunks(ENTRY).filter(|waiter| *waiter != entry).flatten().copied().collect()
}
