//! The thread that prolongs leases while requests run.
//!
//! One per worker, started with the first lease. It blocks all signals, since PHP's handlers belong to PHP's own
//! thread, and [`Renewer::stop`] joins it before the module goes. A request only leaves its renewal here: the thread
//! is woken for it just when it would sleep past the renewal's time, so that a busy worker pays no wake-up a request.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cloakroom::{Deadline, ErrorKind, Renewal, Settings};
use nix::sys::signal::{SigSet, SigmaskHow};

/// The renewals of one worker.
pub(crate) struct Renewer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A renewal that goes on until [`Renewer::end`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Renewing(u64);

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    jobs: Vec<Job>,
    /// The job that the thread is working on, outside the lock; `None` again once it was ended meanwhile.
    running: Option<Renewing>,
    wakes_at: Option<Instant>,
    last: u64,
    stop: bool,
}

struct Job {
    id: Renewing,
    due: Instant,
    until: Instant,
    timeout: Duration,
    renewal: Renewal,
}

impl Renewer {
    pub(crate) fn new() -> Self {
        let shared = Shared { state: Mutex::default(), wake: Condvar::new() };
        Renewer { shared: Arc::new(shared), thread: None }
    }

    /// Prolongs the lease from now on, for [`Settings::lease_max`] at most.
    pub(crate) fn begin(&mut self, renewal: Renewal, settings: &Settings) -> Renewing {
        let now = Instant::now();
        let mut state = self.shared.lock();
        state.last += 1;
        let id = Renewing(state.last);
        let due = now + renewal.every;
        // Each renewal grants a whole lease: the last one comes a lease before the end.
        let until = now + settings.lease_max.saturating_sub(settings.lease);
        if due > until {
            return id;
        }
        state.jobs.push(Job { id, due, until, timeout: settings.timeout, renewal });
        if state.wakes_at.is_none_or(|at| at > due) {
            self.shared.wake.notify_one();
        }
        drop(state);
        if self.thread.is_none() {
            self.thread = start(Arc::clone(&self.shared));
        }
        id
    }

    /// Stops prolonging this lease. A renewal that is on its way is harmless: it only prolongs what is still ours.
    pub(crate) fn end(&mut self, id: Renewing) {
        let mut state = self.shared.lock();
        state.jobs.retain(|job| job.id != id);
        if state.running == Some(id) {
            state.running = None;
        }
    }

    /// Ends the thread and waits for it.
    pub(crate) fn stop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // Its only way to fail is a panic outside any renewal, and there is nobody left to tell.
            let _ = thread.join();
        }
    }

    /// Forgets a thread that a fork did not copy: there is nothing to join in this process, and its lock may be
    /// held for ever.
    pub(crate) fn abandon_after_fork(&mut self) {
        std::mem::forget(std::mem::replace(self, Renewer::new()));
    }
}

impl Drop for Renewer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn start(shared: Arc<Shared>) -> Option<JoinHandle<()>> {
    // The new thread inherits the mask: no signal can reach it before it has blocked them.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK).ok()?;
    let thread = std::thread::Builder::new().name("cloakroom-renew".into()).spawn(move || run(&shared));
    // Restoring a mask that was in force cannot fail.
    let _ = before.thread_set_mask();
    thread.ok()
}

fn run(shared: &Shared) {
    /// How long to stay half awake after the last renewal ended, so that the next request finds the thread with a
    /// time to wake at.
    const LINGER: Duration = Duration::from_secs(5);
    let mut lingered = false;
    let mut state = shared.lock();
    while !state.stop {
        let now = Instant::now();
        let next =
            state.jobs.iter().enumerate().min_by_key(|(_, job)| job.due).map(|(index, job)| (index, job.due));
        state = match next {
            Some((index, due)) if due <= now => {
                lingered = false;
                let job = state.jobs.swap_remove(index);
                state.running = Some(job.id);
                drop(state);
                let job = renew(job);
                let mut state = shared.lock();
                if state.running.take().is_some() {
                    state.jobs.extend(job);
                }
                state
            }
            Some((_, due)) => {
                lingered = false;
                sleep_until(shared, state, due)
            }
            None if !lingered => {
                lingered = true;
                sleep_until(shared, state, now + LINGER)
            }
            None => {
                state.wakes_at = None;
                shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner)
            }
        };
    }
}

fn sleep_until<'a>(
    shared: &Shared,
    mut state: MutexGuard<'a, State>,
    moment: Instant,
) -> MutexGuard<'a, State> {
    state.wakes_at = Some(moment);
    let left = moment.saturating_duration_since(Instant::now());
    shared.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
}

/// Renews once; the job comes back unless it is over.
fn renew(mut job: Job) -> Option<Job> {
    let renew = &mut job.renewal.renew;
    let result = catch_unwind(AssertUnwindSafe(|| renew(Deadline::after(job.timeout))));
    let now = Instant::now();
    job.due = match result {
        Ok(Ok(())) => now + job.renewal.every,
        Ok(Err(error)) if error.kind() == ErrorKind::LockLost => return None,
        // The lease still has two thirds of its time: try again soon.
        Ok(Err(_)) => now + job.renewal.every / 8,
        Err(_) => return None,
    };
    (job.due <= job.until).then_some(job)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    fn renewal(every: Duration) -> (Renewal, Receiver<()>) {
        let (renewed, renewals) = channel();
        let renew = move |_| renewed.send(()).map_err(|_| cloakroom::Error::new(ErrorKind::LockLost, "gone"));
        (Renewal { every, renew: Box::new(renew) }, renewals)
    }

    const SOON: Duration = Duration::from_millis(5);
    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn a_lease_is_renewed_until_it_ends() {
        let mut renewer = Renewer::new();
        let (renewal, renewals) = renewal(SOON);
        let id = renewer.begin(renewal, &Settings::default());
        for _ in 0..3 {
            renewals.recv_timeout(PATIENCE).unwrap();
        }
        renewer.end(id);
        renewer.stop();
        while renewals.try_recv().is_ok() {}
        assert!(renewals.recv().is_err(), "the renewal is dropped, so nothing can send any more");
    }

    #[test]
    fn a_later_lease_is_renewed_too_and_an_earlier_one_wakes_the_thread() {
        let mut renewer = Renewer::new();
        let (slow, _slow_renewals) = renewal(Duration::from_secs(3600));
        renewer.begin(slow, &Settings { lease_max: Duration::from_secs(7200), ..Settings::default() });
        let (fast, renewals) = renewal(SOON);
        renewer.begin(fast, &Settings::default());
        renewals.recv_timeout(PATIENCE).unwrap();
        renewer.stop();
    }

    #[test]
    fn renewing_ends_a_lease_before_the_longest_time() {
        let mut renewer = Renewer::new();
        let (renewal, renewals) = renewal(SOON);
        let lease = Duration::from_secs(15);
        renewer.begin(renewal, &Settings { lease, lease_max: lease + SOON * 3, ..Settings::default() });
        while renewals.recv_timeout(PATIENCE).is_ok() {}
        assert!(renewer.shared.lock().jobs.is_empty());
        renewer.stop();
    }

    #[test]
    fn a_lease_that_may_not_be_longer_is_never_renewed() {
        let mut renewer = Renewer::new();
        let (renewal, renewals) = renewal(SOON);
        let lease = Duration::from_secs(15);
        renewer.begin(renewal, &Settings { lease, lease_max: lease, ..Settings::default() });
        assert!(renewals.recv().is_err(), "the renewal was dropped unused");
    }

    #[test]
    fn a_renewer_that_is_dropped_ends_its_thread() {
        let mut renewer = Renewer::new();
        let (renewal, renewals) = renewal(SOON);
        renewer.begin(renewal, &Settings::default());
        renewals.recv_timeout(PATIENCE).unwrap();
        drop(renewer);
        while renewals.try_recv().is_ok() {}
        assert!(renewals.recv().is_err(), "the thread has let go of the renewal");
    }

    #[test]
    fn a_renewal_that_panics_does_not_take_the_others_along() {
        let mut renewer = Renewer::new();
        let renew = Box::new(|_| panic!("a fault of a store"));
        renewer.begin(Renewal { every: SOON, renew }, &Settings::default());
        let (renewal, renewals) = renewal(SOON * 2);
        renewer.begin(renewal, &Settings::default());
        for _ in 0..3 {
            renewals.recv_timeout(PATIENCE).unwrap();
        }
        renewer.stop();
    }
}
