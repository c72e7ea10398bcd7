//! AWS's own chain of credentials, asked for a worker and not for each of its connections: behind it may be a service of the
//! instance or container, a program, or another request to AWS. Where it has nothing, it is not asked again for some seconds: it
//! may take one or more to say so, and each request of a pool of workers would wait for that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, Result, SharedCredentialsProvider, future};
use aws_smithy_async::time::TimeSource;

use super::clock::Clock;
use super::errors::Missing;

/// Credentials that expire sooner are asked for again.
const LEFT: Duration = Duration::from_secs(60);

/// For so long at most what the chain did not have is taken to be missing still.
const AGAIN: Duration = Duration::from_secs(5);

/// What AWS's chain told one of a worker's connections, for the others.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) region: Option<String>,
    credentials: Option<Credentials>,
    /// Until when the chain is taken to have no credentials, and why.
    missing: Option<(Instant, Missing)>,
    /// Until when there is taken to be no region, and why.
    no_region: Option<(Instant, NoRegion)>,
}

/// Why there is no region.
#[derive(Debug, Clone, Copy)]
pub(super) enum NoRegion {
    /// Nobody names one.
    Nowhere,
    /// Who may know it did not say in time.
    Late,
}

impl Found {
    /// Why there are no credentials, if that was found out a moment ago.
    pub(super) fn missing(&self) -> Option<&Missing> {
        lately(self.missing.as_ref())
    }

    /// Why there is no region, if that was found out a moment ago.
    pub(super) fn no_region(&self) -> Option<NoRegion> {
        lately(self.no_region.as_ref()).copied()
    }

    /// There is no region, and nobody is asked for a while. `began` is when the last one was.
    pub(super) fn lacks_region(&mut self, why: NoRegion, began: Instant) {
        let until = match why {
            NoRegion::Nowhere => Instant::now() + AGAIN,
            NoRegion::Late => after_silence(began),
        };
        self.no_region = Some((until, why));
    }

    /// Has the chain asked again; `false` where it never was.
    pub(super) fn forget_credentials(&mut self) -> bool {
        self.credentials.take().is_some()
    }
}

fn lately<T>(found: Option<&(Instant, T)>) -> Option<&T> {
    found.filter(|(until, _)| Instant::now() < *until).map(|(_, what)| what)
}

/// Until when who did not answer in time is not asked again: for as long as it was waited for. A request that had next to no time
/// must not speak for those after it, nor a moment in which this host stood still.
fn after_silence(began: Instant) -> Instant {
    Instant::now() + began.elapsed().min(AGAIN)
}

/// The chain, and what it told.
#[derive(Debug)]
pub(super) struct Chain {
    chain: SharedCredentialsProvider,
    clock: Arc<Clock>,
    found: Arc<Mutex<Found>>,
}

impl Chain {
    pub(super) fn new(chain: SharedCredentialsProvider, clock: Arc<Clock>, found: Arc<Mutex<Found>>) -> Self {
        Chain { chain, clock, found }
    }

    async fn credentials(&self) -> Result {
        let known = locked(&self.found).credentials.clone();
        let now = TimeSource::now(self.clock.as_ref());
        let last_until = |moment: SystemTime| {
            known.clone().filter(|known| known.expiry().is_none_or(|expiry| expiry > moment))
        };
        if let Some(known) = last_until(now + LEFT) {
            return Ok(known);
        }
        // What is still good is used as long as there is nothing better.
        if let Some(why) = locked(&self.found).missing().cloned() {
            return last_until(now).ok_or_else(|| why.into_error());
        }
        let asking = Asking { found: &self.found, began: Instant::now(), ended: false };
        match asking.end(self.chain.provide_credentials().await) {
            Ok(told) => Ok(told),
            Err(error) => last_until(now).ok_or(error),
        }
    }
}

/// The chain is being asked. Who gives up waiting for it drops this.
struct Asking<'a> {
    found: &'a Mutex<Found>,
    began: Instant,
    ended: bool,
}

impl Asking<'_> {
    fn end(mut self, told: Result) -> Result {
        self.ended = true;
        let mut found = locked(self.found);
        match &told {
            Ok(credentials) => (found.credentials, found.missing) = (Some(credentials.clone()), None),
            Err(error) => found.missing = Some((Instant::now() + AGAIN, Missing::of(error))),
        }
        told
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if !self.ended {
            locked(self.found).missing = Some((after_silence(self.began), Missing::Late));
        }
    }
}

/// What one thread changes at a time; one that panicked has left nothing half done.
fn locked(found: &Mutex<Found>) -> MutexGuard<'_, Found> {
    found.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ProvideCredentials for Chain {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.credentials())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_had_little_time_keeps_others_from_asking_for_as_little() {
        for waited in [0, 20, 3600].map(Duration::from_secs) {
            let Some(began) = Instant::now().checked_sub(waited) else { continue };
            let found = Mutex::new(Found::default());
            drop(Asking { found: &found, began, ended: false });
            locked(&found).lacks_region(NoRegion::Late, began);
            let ended = Instant::now();
            let longest = (ended - began).min(AGAIN);
            let Found { missing, no_region, .. } = found.into_inner().unwrap();
            for until in [missing.unwrap().0, no_region.unwrap().0] {
                assert!(until <= ended + longest, "{waited:?}: {:?}", until - ended);
                assert!(until >= began + waited.min(AGAIN), "{waited:?}");
            }
        }
    }
}
