//! AWS's own chain of credentials, asked for a worker and not for each of its connections: behind it may be a service of the
//! instance or container, a program, or another request to AWS.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, Result, SharedCredentialsProvider, future};
use aws_smithy_async::time::TimeSource;

use super::clock::Clock;

/// Credentials that expire sooner are asked for again.
const LEFT: Duration = Duration::from_secs(60);

/// What AWS's chain told one of a worker's connections, for the others.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) region: Option<String>,
    credentials: Option<Credentials>,
}

impl Found {
    /// Has the chain asked again; `false` where it never was.
    pub(super) fn forget_credentials(&mut self) -> bool {
        self.credentials.take().is_some()
    }
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
        let known = self.found.lock().unwrap_or_else(PoisonError::into_inner).credentials.clone();
        let now = TimeSource::now(self.clock.as_ref());
        let last_until = |moment: SystemTime| {
            known.clone().filter(|known| known.expiry().is_none_or(|expiry| expiry > moment))
        };
        if let Some(known) = last_until(now + LEFT) {
            return Ok(known);
        }
        match self.chain.provide_credentials().await {
            Ok(told) => {
                let told = told.clone();
                self.found.lock().unwrap_or_else(PoisonError::into_inner).credentials = Some(told.clone());
                Ok(told)
            }
            // What is still good is used as long as there is nothing better.
            Err(error) => last_until(now).ok_or(error),
        }
    }
}

impl ProvideCredentials for Chain {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.credentials())
    }
}
