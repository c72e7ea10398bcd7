//! One worker's way to DynamoDB: AWS's client on a runtime of its own, made at the first use, and every request counted,
//! bounded by its deadline and repeated where that helps.
//!
//! AWS's client is told to repeat nothing: an attempt that may have been applied changes what a later refusal means, and
//! only a loop of ours can tell.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials as _;
use aws_sdk_dynamodb::Client as Sdk;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::delete_item::{DeleteItemError, DeleteItemOutput};
use aws_sdk_dynamodb::operation::get_item::{GetItemError, GetItemOutput};
use aws_sdk_dynamodb::operation::scan::{ScanError, ScanOutput};
use aws_sdk_dynamodb::operation::update_item::{UpdateItemError, UpdateItemOutput};
use aws_sdk_dynamodb::types::ConsumedCapacity;
use aws_smithy_http_client::tls::{self, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::connection::CaptureSmithyConnection;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::DateTime;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::date_time::Format;
use tokio::runtime::Runtime;

use super::clock::Clock;
use super::errors::{self, Failure};
use super::item::Attributes;
use super::options::Options;
use super::tally::{Purpose, Tally};
use crate::stores::pause::Pause;
use crate::stores::token::Token;
use crate::{Deadline, Environment, Error, ErrorKind, Result, Settings};

/// A connection that was not used for so long is closed: the service closes its end sooner or later, and that would be
/// noticed only by the next request.
const IDLE: Duration = Duration::from_secs(20);

/// AWS's client, and what is told of it. A clone has connections of its own, for another thread.
pub(super) struct Client {
    pub(super) options: Arc<Options>,
    pub(super) settings: Settings,
    pub(super) clock: Arc<Clock>,
    tally: Arc<Mutex<Tally>>,
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

impl Client {
    pub(super) fn new(options: Arc<Options>, settings: Settings) -> Self {
        let settings = Settings {
            connect_timeout: options.connect_timeout.unwrap_or(settings.connect_timeout),
            timeout: options.timeout.unwrap_or(settings.timeout),
            ..settings
        };
        Client { options, settings, clock: Arc::default(), tally: Arc::default(), engine: None }
    }

    /// The same, with connections of its own.
    pub(super) fn another(&self) -> Self {
        Client {
            options: Arc::clone(&self.options),
            settings: self.settings.clone(),
            clock: Arc::clone(&self.clock),
            tally: Arc::clone(&self.tally),
            engine: None,
        }
    }

    /// What was counted so far, to read or to add to.
    pub(super) fn tally<T>(&self, with: impl FnOnce(&mut Tally) -> T) -> T {
        with(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends a request until it is answered, as long as there is time. `doing` is what the errors say.
    pub(super) fn ask<T: Billed, E: Refused>(
        &mut self,
        purpose: Purpose,
        doing: &str,
        by: Deadline,
        request: impl AsyncFn(&Sdk) -> Result<T, SdkError<E, HttpResponse>>,
    ) -> Result<Answer<T>> {
        let mut pause = Backoff::new()?;
        let mut earlier = Earlier::NotApplied;
        for attempt in 1.. {
            let failed = match self.attempt(purpose, by, &request) {
                Ok(answer) => return Ok(Answer::Done(answer)),
                Err(Failure::Unmet(item)) => return Ok(Answer::Unmet(item, earlier)),
                Err(failed) => failed,
            };
            if failed.may_be_applied() {
                earlier = Earlier::MaybeApplied;
            }
            let pause = pause.next();
            if !failed.may_pass(attempt) || by.remaining() <= pause {
                let error = errors::of(failed, doing, &self.options);
                return Err(match earlier {
                    Earlier::NotApplied => error,
                    Earlier::MaybeApplied => error.maybe_applied(),
                });
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
        request: &impl AsyncFn(&Sdk) -> Result<T, SdkError<E, HttpResponse>>,
    ) -> Result<T, Failure> {
        let settings = (self.settings.connect_timeout, self.settings.timeout);
        let connecting =
            if self.engine.as_ref().is_some_and(Engine::is_ours) { Duration::ZERO } else { settings.0 };
        let by = by.within(settings.1 + connecting);
        let engine = self.engine(by)?;
        let left = by.remaining();
        let answer = engine.run(async { tokio::time::timeout(left, request(&engine.sdk)).await });
        self.tally(|tally| tally.sent(purpose));
        match answer.ok_or(Failure::Late)? {
            Ok(Ok(answer)) => {
                self.tally(|tally| tally.billed(purpose, answer.capacity()));
                Ok(answer)
            }
            Ok(Err(failure)) => {
                let failure = Failure::of(failure);
                if let Failure::Unmet(item) = &failure {
                    self.tally(|tally| tally.billed_unmet(purpose, item.as_ref()));
                }
                Err(failure)
            }
            Err(_) => Err(Failure::Late),
        }
    }

    /// Where AWS's chain of settings came to, and as whom: the region, and what signs.
    pub(super) fn chain(&mut self, by: Deadline) -> Result<(String, Credentials)> {
        let options = Arc::clone(&self.options);
        let engine = self.engine(by).map_err(|failure| errors::of(failure, "cannot begin", &options))?;
        let left = by.remaining();
        let region = engine.loaded.region().map(ToString::to_string).unwrap_or_default();
        let provider = engine.loaded.credentials_provider();
        let found = engine.run(async {
            let asked = async { Some(provider?.provide_credentials().await) };
            tokio::time::timeout(left, asked).await.ok().flatten()
        });
        match found.flatten() {
            Some(Ok(credentials)) => Ok((region, credentials)),
            Some(Err(error)) => Err(errors::no_credentials(&options).source(error)),
            None => Err(errors::no_credentials(&options)),
        }
    }

    /// AWS's client, made at the first use and again in a forked child: what belongs to the parent is left alone.
    fn engine(&mut self, by: Deadline) -> Result<&Engine, Failure> {
        if !self.engine.as_ref().is_some_and(Engine::is_ours) {
            let made = Engine::new(&self.options, &self.settings, &self.clock, &self.tally, by);
            self.engine = Some(made.map_err(Failure::NotBegun)?);
        }
        match &self.engine {
            Some(engine) => Ok(engine),
            None => Err(Failure::NotBegun(Error::new(ErrorKind::Bug, "no client was made"))),
        }
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

/// AWS's client and the runtime that drives it, on the thread that waits for an answer.
struct Engine {
    pid: u32,
    sdk: Sdk,
    /// What AWS's chain of settings came to.
    loaded: aws_config::SdkConfig,
    /// Always there until it is dropped.
    runtime: Option<Runtime>,
}

impl Engine {
    fn new(
        options: &Options,
        settings: &Settings,
        clock: &Arc<Clock>,
        tally: &Arc<Mutex<Tally>>,
        by: Deadline,
    ) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            // Those that resolve names: PHP's signals are for PHP's thread.
            .on_thread_start(|| {
                let _ = nix::sys::signal::SigSet::all().thread_block();
            })
            .build()
            .map_err(|error| Error::new(ErrorKind::Bug, "no runtime could be made").source(error))?;
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(CryptoMode::Ring))
            .tls_context(trust(options, &settings.environment)?)
            .pool_idle_timeout(IDLE)
            .build_https();
        let timeouts = TimeoutConfig::builder().connect_timeout(settings.connect_timeout).build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .env(variables(&settings.environment))
            .http_client(http)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .time_source(ClockOf(Arc::clone(clock)))
            .disable_clock_skew_correction(true);
        if let Some(region) = &options.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(endpoint) = &options.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        if let Some(profile) = &options.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(given) = &options.credentials {
            let secret = given.secret.reveal();
            loader = loader.credentials_provider(Credentials::new(
                &given.key_id,
                secret,
                None,
                None,
                "session.save_path",
            ));
        }
        let left = by.remaining();
        let loaded = runtime.block_on(async { tokio::time::timeout(left, loader.load()).await });
        let Ok(loaded) = loaded else {
            runtime.shutdown_background();
            return Err(errors::no_configuration(options));
        };
        if loaded.region().is_none() {
            runtime.shutdown_background();
            return Err(errors::no_region(options));
        }
        let watch = Watch { clock: Arc::clone(clock), tally: Arc::clone(tally) };
        let config = aws_sdk_dynamodb::config::Builder::from(&loaded).interceptor(watch).build();
        Ok(Engine { pid: std::process::id(), sdk: Sdk::from_conf(config), loaded, runtime: Some(runtime) })
    }

    /// Whether it was made in this process.
    fn is_ours(&self) -> bool {
        self.pid == std::process::id()
    }

    fn run<F: Future>(&self, future: F) -> Option<F::Output> {
        self.runtime.as_ref().map(|runtime| runtime.block_on(future))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        match self.is_ours() {
            // A name that is still being resolved is not waited for.
            true => runtime.shutdown_background(),
            // The parent's: what the kernel watches for it is shared, and closing here would undo it there.
            false => std::mem::forget(runtime),
        }
    }
}

/// The authorities that a server's certificate must be signed by.
fn trust(options: &Options, environment: &Environment) -> Result<tls::TlsContext> {
    let bundle = environment.var("AWS_CA_BUNDLE").map(std::path::PathBuf::from);
    let store = match options.cafile.clone().or(bundle) {
        Some(path) => {
            let pem = std::fs::read(&path).map_err(|error| {
                Error::new(ErrorKind::Config, format!("cannot read the authorities in {}", path.display()))
                    .source(error)
                    .hint("see cafile= in session.save_path, or AWS_CA_BUNDLE")
            })?;
            tls::TrustStore::empty().with_pem_certificate(pem)
        }
        None => tls::TrustStore::default(),
    };
    tls::TlsContext::builder().with_trust_store(store).build().map_err(|error| {
        Error::new(ErrorKind::Config, "the authorities cannot be used").source(error.to_string())
    })
}

/// The variables that AWS's chain looks at: those of the snapshot, for PHP-FPM clears its workers' environment.
fn variables(environment: &Environment) -> aws_types::os_shim_internal::Env {
    let all = environment.names().filter_map(|name| Some((name, environment.var(name)?)));
    aws_types::os_shim_internal::Env::from_slice(&all.collect::<Vec<_>>())
}

/// The service's time, for signatures.
#[derive(Debug)]
struct ClockOf(Arc<Clock>);

impl aws_smithy_async::time::TimeSource for ClockOf {
    fn now(&self) -> std::time::SystemTime {
        aws_smithy_async::time::TimeSource::now(self.0.as_ref())
    }
}

/// Reads what answers tell beside what was asked.
#[derive(Debug)]
struct Watch {
    clock: Arc<Clock>,
    tally: Arc<Mutex<Tally>>,
}

impl Intercept for Watch {
    fn name(&self) -> &'static str {
        "cloakroom"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> std::result::Result<(), BoxError> {
        let connection = config.load::<CaptureSmithyConnection>().and_then(CaptureSmithyConnection::get);
        if let Some(address) = connection.and_then(|connection| connection.local_addr()) {
            self.tally.lock().unwrap_or_else(PoisonError::into_inner).answered_on(address);
        }
        let date = context.response().headers().get("date");
        let dated = date.and_then(|date| DateTime::from_str(date, Format::HttpDate).ok());
        if let Some(dated) = dated.and_then(|dated| u64::try_from(dated.secs()).ok()) {
            self.clock.learn(dated);
        }
        Ok(())
    }
}

/// An answer that says what it cost.
pub(super) trait Billed {
    fn capacity(&self) -> Option<&ConsumedCapacity>;
}

/// An error that may say that a condition does not hold.
pub(super) trait Refused: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static {
    /// The item that it does not hold for, where the engine shows it.
    fn unmet(&mut self) -> Option<Attributes> {
        None
    }
}

macro_rules! answers {
    ($($output:ty),+) => {
        $(impl Billed for $output {
            fn capacity(&self) -> Option<&ConsumedCapacity> {
                self.consumed_capacity()
            }
        })+
    };
}

answers![GetItemOutput, UpdateItemOutput, DeleteItemOutput, ScanOutput];

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
