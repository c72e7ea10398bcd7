//! AWS's client and the runtime that drives it, both made after PHP has forked.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials as _, SharedCredentialsProvider};
use aws_sdk_dynamodb::Client as Sdk;
use aws_smithy_http_client::tls::{self, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::connection::{CaptureSmithyConnection, ConnectionMetadata};
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::DateTime;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::date_time::Format;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio::runtime::Runtime;

use super::chain::{Chain, Found, NoRegion};
use super::clock::Clock;
use super::errors::{self, Failure, Missing};
use super::options::Options;
use crate::{Deadline, Environment, Error, ErrorKind, Result, Settings};

/// A connection that was not used for so long is closed: the service closes its end sooner or later, and that would be
/// noticed only by the next request.
const IDLE: Duration = Duration::from_secs(20);

/// Names that are resolved at once, each by a thread: one that hangs is not waited for.
const RESOLVERS: usize = 4;

/// AWS's client, on the thread that waits for an answer.
pub(super) struct Engine {
    pid: u32,
    /// Taken only when it is dropped.
    driven: Option<Driven>,
    course: Arc<Mutex<Course>>,
    /// This host's end of the connection that the last request went over.
    connection: Option<SocketAddr>,
}

struct Driven {
    sdk: Sdk,
    /// What signs.
    signing: SharedCredentialsProvider,
    runtime: Runtime,
}

/// How far a request got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    /// Credentials were looked for.
    Nothing,
    /// It was signed, and no connection made.
    Signed,
    /// It was sent, or part of it.
    Sent {
        /// Whether over another connection than the one before it.
        connected: bool,
    },
}

/// What is known of a request on its way.
#[derive(Debug, Default)]
struct Course {
    began: Option<Instant>,
    connection: Option<CaptureSmithyConnection>,
    /// The status and the type of an answer that is not of the kind that DynamoDB gives.
    foreign: Option<(u16, String)>,
}

impl Engine {
    pub(super) fn new(
        options: &Options,
        settings: &Settings,
        clock: &Arc<Clock>,
        found: &Arc<Mutex<Found>>,
        by: Deadline,
    ) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(RESOLVERS)
            // Those that resolve names: PHP's signals are for PHP's thread.
            .on_thread_start(|| {
                let _ = nix::sys::signal::SigSet::all().thread_block();
            })
            .build()
            .map_err(|error| Error::new(ErrorKind::Bug, "no runtime could be made").source(error))?;
        let course = Arc::default();
        match configured(options, settings, clock, found, &course, &runtime, by) {
            Ok((sdk, signing)) => {
                let driven = Some(Driven { sdk, signing, runtime });
                Ok(Engine { pid: std::process::id(), driven, course, connection: None })
            }
            Err(error) => {
                // A name that is still being resolved is not waited for.
                runtime.shutdown_background();
                Err(error.on(options.shown.as_str()))
            }
        }
    }

    /// Whether it was made in this process.
    pub(super) fn is_ours(&self) -> bool {
        self.pid == std::process::id()
    }

    /// Sends a request and waits for its end; `None` if that is not before `by`.
    pub(super) fn run<T: Send>(
        &mut self,
        by: Deadline,
        request: &(impl AsyncFn(&Sdk) -> T + Sync),
    ) -> Option<T> {
        *locked(&self.course) = Course::default();
        let Driven { sdk, runtime, .. } = self.driven.as_ref()?;
        let noticing = async move || {
            // Nothing was driven since the last request: first the runtime hears what became of its connection, then the
            // connection does. One that has ended is not sent over.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            request(sdk).await
        };
        let answer = drive(runtime, || in_time(by, noticing()));
        if answer.is_none()
            && let Some(connection) = self.used()
        {
            // Nothing that follows is to wait for what was not answered.
            connection.poison();
        }
        answer
    }

    /// What signs requests.
    pub(super) fn credentials(&self, by: Deadline) -> Result<Credentials, Failure> {
        let Some(Driven { signing, runtime, .. }) = &self.driven else {
            return Err(Failure::NoCredentials(Missing::Late));
        };
        match drive(runtime, || in_time(by, signing.provide_credentials())) {
            Some(told) => told.map_err(|error| Failure::NoCredentials(Missing::of(&error))),
            None => Err(Failure::NoCredentials(Missing::Late)),
        }
    }

    /// How far the last request got.
    pub(super) fn reached(&mut self) -> Reached {
        match self.used() {
            Some(connection) => {
                let (last, own) = (self.connection, connection.local_addr());
                self.connection = own;
                Reached::Sent { connected: own.is_none() || own != last }
            }
            None if locked(&self.course).began.is_some() => Reached::Signed,
            None => Reached::Nothing,
        }
    }

    /// The status and type of the last answer, where it is not of the kind that DynamoDB gives: an empty page would be taken for
    /// an empty session.
    pub(super) fn foreign(&self) -> Option<(u16, String)> {
        locked(&self.course).foreign.take()
    }

    fn used(&self) -> Option<ConnectionMetadata> {
        locked(&self.course).connection.as_ref().and_then(CaptureSmithyConnection::get)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        match self.driven.take() {
            Some(driven) if self.is_ours() => driven.runtime.shutdown_background(),
            // The parent's: what the kernel watches for it is shared, and closing here would undo it there.
            driven => std::mem::forget(driven),
        }
    }
}

/// Waits for what a future comes to. A thread that drives futures already cannot wait for another runtime's; one of its own
/// can.
fn drive<F: Future<Output: Send>>(runtime: &Runtime, future: impl FnOnce() -> F + Send) -> F::Output {
    if tokio::runtime::Handle::try_current().is_err() {
        return runtime.block_on(future());
    }
    std::thread::scope(|scope| {
        let driving = scope.spawn(|| runtime.block_on(future()));
        driving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// AWS's client, told everything that is known.
fn configured(
    options: &Options,
    settings: &Settings,
    clock: &Arc<Clock>,
    found: &Arc<Mutex<Found>>,
    course: &Arc<Mutex<Course>>,
    runtime: &Runtime,
    by: Deadline,
) -> Result<(Sdk, SharedCredentialsProvider)> {
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(CryptoMode::Ring))
        .tls_context(trust(options, &settings.environment)?)
        .pool_idle_timeout(IDLE)
        .build_https();
    let timeouts = TimeoutConfig::builder().connect_timeout(settings.connect_timeout).build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .env(variables(options, &settings.environment))
        .http_client(http)
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .time_source(ClockOf(Arc::clone(clock)))
        .disable_clock_skew_correction(true);
    let lacks = |why: NoRegion| match why {
        NoRegion::Nowhere => errors::no_region(options, &settings.environment),
        NoRegion::Late => errors::no_configuration(options),
    };
    let region = options.region.clone().or_else(|| locked(found).region.clone());
    let is_known = region.is_some();
    match (region, locked(found).no_region()) {
        (Some(region), _) => loader = loader.region(Region::new(region)),
        (None, Some(why)) => return Err(lacks(why)),
        (None, None) => {}
    }
    if let Some(endpoint) = &options.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if let Some(profile) = &options.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(given) = &options.credentials {
        let secret = given.secret.reveal();
        loader =
            loader.credentials_provider(Credentials::new(&given.key_id, secret, None, None, "save_path"));
    }
    let began = Instant::now();
    let lacking = |why: NoRegion| {
        // Where it is known, nobody was asked: this host stood still.
        if !is_known {
            locked(found).lacks_region(why, began);
        }
        lacks(why)
    };
    let loaded = drive(runtime, || in_time(by, loader.load()));
    let loaded = loaded.ok_or_else(|| lacking(NoRegion::Late))?;
    let region = loaded.region().ok_or_else(|| lacking(NoRegion::Nowhere))?;
    locked(found).region = Some(region.to_string());
    let none = || Error::new(ErrorKind::Bug, "AWS's client has no chain of credentials");
    let chain = loaded.credentials_provider().ok_or_else(none)?;
    let signing = match options.credentials {
        Some(_) => chain,
        None => SharedCredentialsProvider::new(Chain::new(chain, Arc::clone(clock), Arc::clone(found))),
    };
    let config = aws_sdk_dynamodb::config::Builder::from(&loaded)
        .interceptor(Watch { clock: Arc::clone(clock), course: Arc::clone(course) })
        .credentials_provider(signing.clone());
    Ok((Sdk::from_conf(config.build()), signing))
}

async fn in_time<T>(by: Deadline, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(by.remaining(), future).await.ok()
}

/// The authorities that a server's certificate must be signed by.
fn trust(options: &Options, environment: &Environment) -> Result<tls::TlsContext> {
    let bundle = environment.var("AWS_CA_BUNDLE").map(std::path::PathBuf::from);
    let store = match options.cafile.clone().or(bundle) {
        Some(path) => {
            let pem = std::fs::read(&path).map_err(|error| {
                Error::new(ErrorKind::Config, format!("cannot read the authorities in {}", path.display()))
                    .source(error)
                    .hint("cafile= in session.save_path, or AWS_CA_BUNDLE, names a PEM file that the user PHP runs as can read")
            })?;
            if !holds_authorities(&pem) {
                let what = format!("there are no authorities in {}", path.display());
                return Err(Error::new(ErrorKind::Config, what).hint(
                    "cafile= in session.save_path, or AWS_CA_BUNDLE, names a PEM file of certificates",
                ));
            }
            tls::TrustStore::empty().with_pem_certificate(pem)
        }
        None => tls::TrustStore::default(),
    };
    tls::TlsContext::builder().with_trust_store(store).build().map_err(|error| {
        Error::new(ErrorKind::Config, "the authorities cannot be used").source(error.to_string())
    })
}

/// AWS's client panics over what it cannot use.
fn holds_authorities(pem: &[u8]) -> bool {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let mut roots = rustls::RootCertStore::empty();
    certificates.is_ok_and(|found| {
        !found.is_empty() && found.into_iter().all(|certificate| roots.add(certificate).is_ok())
    })
}

/// The variables that AWS's chain looks at: those of the snapshot, for PHP-FPM clears its workers' environment. A profile that
/// the URL names is not to be overruled by them.
fn variables(options: &Options, environment: &Environment) -> aws_types::os_shim_internal::Env {
    let keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];
    let names = environment.names().filter(|name| options.profile.is_none() || !keys.contains(name));
    let all = names.filter_map(|name| Some((name, environment.var(name)?)));
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

/// Sees requests on their way, and reads what answers tell beside what was asked.
#[derive(Debug)]
struct Watch {
    clock: Arc<Clock>,
    course: Arc<Mutex<Course>>,
}

impl Intercept for Watch {
    fn name(&self) -> &'static str {
        "cloakroom"
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> std::result::Result<(), BoxError> {
        let connection = config.load::<CaptureSmithyConnection>().cloned();
        *locked(&self.course) = Course { began: Some(Instant::now()), connection, foreign: None };
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> std::result::Result<(), BoxError> {
        let (headers, mut course) = (context.response().headers(), locked(&self.course));
        let took = course.began.map(|began| began.elapsed()).unwrap_or_default();
        let kind = headers.get("content-type").unwrap_or("of no type");
        if !kind.contains("amz-json") {
            course.foreign = Some((context.response().status().as_u16(), kind.to_owned()));
            // Its time is not the service's either.
            return Ok(());
        }
        let date = headers.get("date");
        let dated = date.and_then(|date| DateTime::from_str(date, Format::HttpDate).ok());
        if let Some(dated) = dated.and_then(|dated| u64::try_from(dated.secs()).ok()) {
            self.clock.learn(dated, took);
        }
        Ok(())
    }
}

/// What one thread changes at a time; one that panicked has left nothing half done.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
