//! One worker's way to DynamoDB: AWS's client on a runtime of its own, made at the first use, and every request counted,
//! bounded by its deadline and repeated where that helps.
//!
//! AWS's client is told to repeat nothing: an attempt that may have been applied changes what a later refusal means, and
//! only a loop of ours can tell.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_credential_types::Credentials;
use aws_sdk_dynamodb::Client as Sdk;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::delete_item::{DeleteItemError, DeleteItemOutput};
use aws_sdk_dynamodb::operation::get_item::{GetItemError, GetItemOutput};
use aws_sdk_dynamodb::operation::scan::{ScanError, ScanOutput};
use aws_sdk_dynamodb::operation::update_item::{UpdateItemError, UpdateItemOutput};
use aws_sdk_dynamodb::types::ConsumedCapacity;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::chain::Found;
use super::clock::Clock;
use super::engine::{Engine, Reached};
use super::errors::{self, Asked, Failure, Remedy};
use super::item::Attributes;
use super::options::Options;
use super::tally::{Purpose, Tally};
use crate::stores::pause::Pause;
use crate::stores::token::Token;
use crate::{Deadline, Error, ErrorKind, Result, Settings};

/// Attempts at a request that nobody answers.
const UNANSWERED: u32 = 3;

/// With less time left no attempt is begun: it would most likely end without an answer, and what is known by then of the
/// outcome would be known no more.
const WORTH_IT: Duration = Duration::from_millis(100);

/// AWS's client, and what is told of it. A clone has connections of its own, for another thread.
pub(super) struct Client {
    pub(super) options: Arc<Options>,
    pub(super) settings: Settings,
    pub(super) clock: Arc<Clock>,
    tally: Arc<Mutex<Tally>>,
    found: Arc<Mutex<Found>>,
    engine: Option<Engine>,
}

/// What a request was answered.
pub(super) enum Answer<T> {
    Done(T),
    /// Its condition does not hold for the item, which not every engine shows.
    Unmet(Option<Attributes>, Earlier),
}

impl<T> Answer<T> {
    /// The answer to a request that has no condition.
    pub(super) fn done(self) -> Result<T> {
        match self {
            Answer::Done(answer) => Ok(answer),
            Answer::Unmet(..) => Err(Error::new(ErrorKind::Bug, "there was no condition to be met")),
        }
    }
}

/// What became of earlier attempts of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Earlier {
    /// There were none, or they were refused.
    NotApplied,
    /// One of them got no answer.
    MaybeApplied,
}

impl Earlier {
    /// An error after them.
    pub(super) fn of(self, error: Error) -> Error {
        match self {
            Earlier::NotApplied => error,
            Earlier::MaybeApplied => error.maybe_applied(),
        }
    }
}

impl Client {
    pub(super) fn new(options: Arc<Options>, settings: Settings) -> Self {
        let settings = Settings {
            connect_timeout: options.connect_timeout.unwrap_or(settings.connect_timeout),
            timeout: options.timeout.unwrap_or(settings.timeout),
            ..settings
        };
        Client {
            options,
            settings,
            clock: Arc::default(),
            tally: Arc::default(),
            found: Arc::default(),
            engine: None,
        }
    }

    /// The same, with connections of its own.
    pub(super) fn another(&self) -> Self {
        Client {
            options: Arc::clone(&self.options),
            settings: self.settings.clone(),
            clock: Arc::clone(&self.clock),
            tally: Arc::clone(&self.tally),
            found: Arc::clone(&self.found),
            engine: None,
        }
    }

    /// What was counted so far, to read or to add to.
    pub(super) fn tally<T>(&self, with: impl FnOnce(&mut Tally) -> T) -> T {
        with(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends a request until it is answered, as long as there is time. `doing` is what the errors say. One whose outcome is not
    /// known says so.
    pub(super) fn ask<T: Billed, E: Refused>(
        &mut self,
        purpose: Purpose,
        doing: &str,
        by: Deadline,
        request: impl AsyncFn(&Sdk) -> Result<T, SdkError<E, HttpResponse>> + Sync,
    ) -> Result<Answer<T>> {
        let began = Instant::now();
        let mut pause = Backoff::new()?;
        let mut earlier = Earlier::NotApplied;
        let (mut unanswered, mut other_credentials, mut other_time) = (0, false, false);
        let mut said = None;
        for attempts in 1.. {
            let failed = match self.attempt(purpose, by, &request) {
                Ok(answer) => return Ok(Answer::Done(answer)),
                Err(Failure::Unmet(item)) => return Ok(Answer::Unmet(item, earlier)),
                Err(failed) => failed,
            };
            if failed.may_be_applied() {
                earlier = Earlier::MaybeApplied;
            }
            let again = match failed.remedy() {
                Remedy::None => false,
                Remedy::Wait => true,
                Remedy::Connect => {
                    unanswered += 1;
                    unanswered < UNANSWERED
                }
                Remedy::Time => !std::mem::replace(&mut other_time, true),
                Remedy::Credentials => {
                    !std::mem::replace(&mut other_credentials, true) && self.forget_credentials()
                }
            };
            let pause = pause.next();
            if !again || by.remaining() <= pause + WORTH_IT {
                // What was said before tells more than a silence.
                let failed = if matches!(failed, Failure::Late) { said.unwrap_or(failed) } else { failed };
                return Err(earlier.of(self.error(failed, doing, attempts, began)));
            }
            if matches!(failed, Failure::Said { .. }) {
                said = Some(failed);
            }
            self.tally(|tally| tally.counters.retries += 1);
            std::thread::sleep(pause);
        }
        unreachable!("the loop ends only by returning")
    }

    /// Sends a request once.
    fn attempt<T: Billed, E: Refused>(
        &mut self,
        purpose: Purpose,
        by: Deadline,
        request: &(impl AsyncFn(&Sdk) -> Result<T, SdkError<E, HttpResponse>> + Sync),
    ) -> Result<T, Failure> {
        let (connecting, time) = (self.settings.connect_timeout, self.settings.timeout);
        let connected = self.engine.as_ref().is_some_and(Engine::is_ours);
        let by = by.within(if connected { time } else { connecting + time });
        let engine = self.engine(by)?;
        let answer = engine.run(by, request);
        let (reached, foreign) = (engine.reached(), engine.foreign());
        if let Reached::Sent { connected } = reached {
            self.tally(|tally| tally.sent(purpose, connected));
        }
        if let (Some(_), Some((status, kind))) = (&answer, foreign) {
            return Err(Failure::foreign(status, kind));
        }
        match answer {
            Some(Ok(answer)) => {
                self.tally(|tally| tally.billed(purpose, T::UNITS, answer.capacity()));
                Ok(answer)
            }
            Some(Err(failure)) => {
                let failure = Failure::of(failure, reached, &self.options);
                if let Failure::Unmet(item) = &failure {
                    self.tally(|tally| tally.billed_unmet(purpose, item.as_ref()));
                }
                Err(failure)
            }
            None => Err(Failure::late(reached, &self.options)),
        }
    }

    /// Where AWS's chain of settings came to, and as whom: the region, and what signs.
    pub(super) fn chain(&mut self, by: Deadline) -> Result<(String, Credentials)> {
        let began = Instant::now();
        let by = by.within(self.settings.connect_timeout + self.settings.timeout);
        let told = self.engine(by).and_then(|engine| engine.credentials(by));
        told.map(|credentials| (self.region(), credentials))
            .map_err(|failure| self.error(failure, "cannot begin", 1, began))
    }

    fn region(&self) -> String {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).region.clone().unwrap_or_default()
    }

    fn error(&self, failure: Failure, doing: &str, attempts: u32, began: Instant) -> Error {
        let (region, took) = (&self.region(), began.elapsed());
        let (options, environment) = (&self.options, &self.settings.environment);
        errors::of(failure, &Asked { doing, attempts, took, region, options, environment })
    }

    /// AWS's client, made at the first use and again in a forked child: what belongs to the parent is left alone.
    fn engine(&mut self, by: Deadline) -> Result<&mut Engine, Failure> {
        let ours = self.engine.take_if(|engine| engine.is_ours());
        let engine = match ours {
            Some(engine) => engine,
            None => Engine::new(&self.options, &self.settings, &self.clock, &self.found, by)
                .map_err(Failure::NotBegun)?,
        };
        Ok(self.engine.insert(engine))
    }

    /// Has AWS's chain asked for credentials again, for those that it gave may have been changed since.
    fn forget_credentials(&mut self) -> bool {
        self.engine = None;
        self.found.lock().unwrap_or_else(PoisonError::into_inner).forget_credentials()
    }
}

/// Pauses between attempts: from 10 ms, twice as long each time, up to half a second, never quite the same for two.
struct Backoff {
    jitter: Pause,
    longest: Duration,
}

impl Backoff {
    fn new() -> Result<Self> {
        Ok(Backoff { jitter: Pause::new(&Token::new()?, 0), longest: Duration::from_millis(10) })
    }

    fn next(&mut self) -> Duration {
        self.longest = (self.longest * 2).min(Duration::from_millis(500));
        self.jitter.about(self.longest)
    }
}

/// An answer that says what it cost.
pub(super) trait Billed: Send {
    /// What such a request is billed in.
    const UNITS: Units = Units::Read;

    fn capacity(&self) -> Option<&ConsumedCapacity>;
}

/// What a request is billed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Units {
    Read,
    Write,
}

/// An error that may say that a condition does not hold.
pub(super) trait Refused: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static {
    /// The item that it does not hold for, where the engine shows it.
    fn unmet(&mut self) -> Option<Attributes> {
        None
    }
}

macro_rules! billed {
    ($($output:ty: $units:ident),+) => {
        $(impl Billed for $output {
            const UNITS: Units = Units::$units;

            fn capacity(&self) -> Option<&ConsumedCapacity> {
                self.consumed_capacity()
            }
        })+
    };
}

billed![GetItemOutput: Read, ScanOutput: Read, UpdateItemOutput: Write, DeleteItemOutput: Write];

impl Refused for GetItemError {}

impl Refused for ScanError {}

impl Refused for UpdateItemError {
    fn unmet(&mut self) -> Option<Attributes> {
        match self {
            UpdateItemError::ConditionalCheckFailedException(refused) => refused.item.take(),
            _ => None,
        }
    }
}

impl Refused for DeleteItemError {
    fn unmet(&mut self) -> Option<Attributes> {
        match self {
            DeleteItemError::ConditionalCheckFailedException(refused) => refused.item.take(),
            _ => None,
        }
    }
}
