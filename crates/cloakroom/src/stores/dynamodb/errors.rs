//! What can go wrong with a request, what helps, and what is said of it.
//!
//! Nothing that AWS's client says of itself is shown: it may tell headers, with tokens in them, and bodies, with sessions.

use std::error::Error as StdError;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_dynamodb::error::{ErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::client::Refused;
use super::engine::Reached;
use super::item::Attributes;
use super::options::Options;
use super::profile::Profile;
use crate::{Environment, Error, ErrorKind};

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The condition does not hold.
    Unmet(Option<Attributes>),
    /// The service says no.
    Said { code: String, message: String, status: u16 },
    /// Nothing was sent, for a reason that stays.
    NotBegun(Error),
    /// There are no credentials to sign with.
    NoCredentials(Missing),
    /// Nobody is there.
    NotConnected(Cause),
    /// It was sent, and the connection ended.
    Cut(Cause),
    /// It was sent, and no answer came in time.
    Late,
    /// It was sent, and what came is no answer of DynamoDB's.
    NotUnderstood { status: u16, content: String },
}

/// Why there are no credentials.
#[derive(Debug, Clone)]
pub(super) enum Missing {
    /// Nobody has any.
    Nowhere,
    /// Who has them did not say in time.
    Late,
    /// Who has them failed.
    Failed(String),
}

/// What underlies the end of a connection, or that there is none.
#[derive(Debug)]
pub(super) enum Cause {
    /// It took too long.
    Time,
    /// The name of the server has no address.
    Name(String),
    /// The server's certificate is not trusted.
    Certificate(String),
    /// The server does not speak TLS.
    NotTls,
    Other(String),
}

/// What may help after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    None,
    /// As often as there is time.
    Wait,
    /// A few times.
    Connect,
    /// Once, signed for the time that the refusal told.
    Time,
    /// Once, with what the chain has by now.
    Credentials,
}

/// What was asked, as errors tell it.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    /// `cannot lock the session`.
    pub(super) doing: &'a str,
    pub(super) attempts: u32,
    pub(super) took: Duration,
    pub(super) region: &'a str,
    pub(super) options: &'a Options,
    pub(super) environment: &'a Environment,
}

/// What the service says of a table that has more requests than its capacity, or of an account.
const BUSY: &[&str] = &[
    "ProvisionedThroughputExceededException",
    "ThrottlingException",
    "RequestLimitExceeded",
    "Throttling",
    "ThrottledException",
    "TooManyRequestsException",
    "LimitExceededException",
];

/// What it says while something else goes on.
const PASSING: &[&str] =
    &["TransactionInProgressException", "TransactionConflictException", "ReplicatedWriteConflictException"];

/// What it says of credentials that may have been changed since they were read.
const EXPIRED: &[&str] = &["ExpiredTokenException", "ExpiredToken", "RequestExpired"];
const UNKNOWN: &[&str] = &["UnrecognizedClientException", "InvalidClientTokenId", "InvalidAccessKeyId"];
const SIGNATURE: &[&str] =
    &["InvalidSignatureException", "SignatureDoesNotMatch", "IncompleteSignatureException"];

impl Failure {
    pub(super) fn of<E: Refused>(
        error: SdkError<E, HttpResponse>,
        reached: Reached,
        options: &Options,
    ) -> Self {
        match error {
            SdkError::ServiceError(context) => {
                let status = context.raw().status().as_u16();
                let mut said = context.into_err();
                match said.code().filter(|code| !code.is_empty()).map(str::to_owned) {
                    Some(code) if code == "ConditionalCheckFailedException" => Failure::Unmet(said.unmet()),
                    Some(code) => {
                        Failure::Said { code, message: said.message().unwrap_or_default().to_owned(), status }
                    }
                    None if status < 300 => Failure::foreign(status, "an answer that is no JSON".into()),
                    None => Failure::foreign(status, "an error without a name".into()),
                }
            }
            SdkError::ResponseError(context) => match context.raw().body().bytes() {
                // It could not be read to its end.
                None => Failure::Cut(Cause::Other("the answer ended too early".into())),
                Some(_) => {
                    Failure::foreign(context.raw().status().as_u16(), "an answer that is no JSON".into())
                }
            },
            SdkError::TimeoutError(_) => Failure::late(reached, options),
            other => {
                let source: &(dyn StdError + 'static) = &other;
                if let Some(error) = find::<CredentialsError>(source) {
                    return Failure::NoCredentials(Missing::of(error));
                }
                match reached {
                    Reached::Sent { .. } => Failure::Cut(Cause::of(source)),
                    Reached::Signed => Failure::NotConnected(Cause::of(source)),
                    Reached::Nothing => {
                        let error = Error::new(ErrorKind::Config, "the request cannot be put together");
                        Failure::NotBegun(
                            error.source(deepest(source)).hint("see the region and the endpoint"),
                        )
                    }
                }
            }
        }
    }

    /// There was no more time.
    pub(super) fn late(reached: Reached, options: &Options) -> Self {
        match reached {
            // The URL's key is not waited for: this host stood still before it could ask.
            Reached::Nothing if options.credentials.is_some() => Failure::NotConnected(Cause::Time),
            Reached::Nothing => Failure::NoCredentials(Missing::Late),
            Reached::Signed => Failure::NotConnected(Cause::Time),
            Reached::Sent { .. } => Failure::Late,
        }
    }

    /// What answered is not DynamoDB.
    pub(super) fn foreign(status: u16, content: String) -> Self {
        match status {
            // A balancer before the service speaks for it.
            500.. => Failure::Said { code: format!("HTTP {status}"), message: String::new(), status },
            _ => Failure::NotUnderstood { status, content },
        }
    }

    /// Whether the change may have been made all the same.
    pub(super) fn may_be_applied(&self) -> bool {
        match self {
            Failure::Cut(_) | Failure::Late | Failure::NotUnderstood { .. } => true,
            Failure::Said { code, status, .. } => *status >= 500 && !BUSY.contains(&code.as_str()),
            _ => false,
        }
    }

    /// What may help.
    pub(super) fn remedy(&self) -> Remedy {
        match self {
            Failure::Said { code, message, status } => match code.as_str() {
                "InvalidSignatureException" if is_of_another_time(message) => Remedy::Time,
                "RequestTimeTooSkewed" => Remedy::Time,
                code if EXPIRED.contains(&code) || UNKNOWN.contains(&code) || SIGNATURE.contains(&code) => {
                    Remedy::Credentials
                }
                code if BUSY.contains(&code) || PASSING.contains(&code) => Remedy::Wait,
                _ if *status >= 500 => Remedy::Wait,
                _ => Remedy::None,
            },
            Failure::NotConnected(Cause::Certificate(_) | Cause::NotTls) => Remedy::None,
            Failure::NotConnected(_) | Failure::Cut(_) | Failure::Late => Remedy::Connect,
            Failure::Unmet(_)
            | Failure::NotBegun(_)
            | Failure::NoCredentials(_)
            | Failure::NotUnderstood { .. } => Remedy::None,
        }
    }
}

/// What is said of a signature, where the clocks differ: `Signature expired: 20261121T... is now earlier than ...`.
fn is_of_another_time(message: &str) -> bool {
    message.contains("Signature expired") || message.contains("Signature not yet current")
}

impl Missing {
    pub(super) fn of(error: &CredentialsError) -> Self {
        match error {
            CredentialsError::CredentialsNotLoaded(_) => Missing::Nowhere,
            CredentialsError::ProviderTimedOut(_) => Missing::Late,
            other => {
                // What a program writes may be anything.
                let said = deepest(other);
                let said = said.split(". Stderr:").next().unwrap_or_default();
                Missing::Failed(shortened(said))
            }
        }
    }

    /// The same as an error of AWS's chain, of which [`Missing::of`] makes the same again.
    pub(super) fn into_error(self) -> CredentialsError {
        match self {
            Missing::Nowhere => CredentialsError::not_loaded_no_source(),
            Missing::Late => CredentialsError::provider_timed_out(Duration::ZERO),
            Missing::Failed(why) => CredentialsError::provider_error(why),
        }
    }
}

impl Cause {
    fn of(error: &(dyn StdError + 'static)) -> Self {
        if let Some(tls) = find::<rustls::Error>(error) {
            return match tls {
                rustls::Error::InvalidCertificate(why) => Cause::Certificate(why.to_string()),
                rustls::Error::InvalidMessage(_) => Cause::NotTls,
                other => Cause::Other(other.to_string()),
            };
        }
        let words: Vec<String> = chain(error).map(ToString::to_string).collect();
        if words.iter().any(|words| words == "tls handshake eof") {
            return Cause::NotTls;
        }
        if words.iter().any(|words| words == "dns error") {
            return Cause::Name(deepest(error));
        }
        if find::<aws_smithy_async::future::timeout::TimedOutError>(error).is_some()
            || words.iter().any(|words| words.contains("timeout"))
        {
            return Cause::Time;
        }
        Cause::Other(deepest(error))
    }
}

/// An error and what underlies it, the errors in those of the system included.
fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<std::io::Error>() {
        Some(system) => system.get_ref().map(|inner| inner as _),
        None => error.source(),
    })
}

fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    chain(error).find_map(|error| error.downcast_ref())
}

/// What an error comes from.
fn deepest(error: &(dyn StdError + 'static)) -> String {
    let said = |refusal: &ErrorMetadata| {
        format!(
            "{}: {}",
            refusal.code().unwrap_or("an error"),
            refusal.message().unwrap_or("nothing is said")
        )
    };
    let last = chain(error).last().unwrap_or(error);
    shortened(&last.downcast_ref().map_or_else(|| last.to_string(), said))
}

/// The first part of a text of others, on one line.
fn shortened(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(400).collect::<String>().trim().to_owned()
}

/// The error for an attempt after which there is none.
pub(super) fn of(failure: Failure, asked: &Asked<'_>) -> Error {
    let Asked { doing, options, .. } = asked;
    let new = |kind, what: &str| Error::new(kind, format!("{doing}: {what}"));
    let error = match failure {
        Failure::NotBegun(error) => error,
        Failure::Unmet(_) => new(ErrorKind::Bug, "a condition was not met"),
        Failure::NoCredentials(missing) => no_credentials(missing, asked),
        Failure::NotConnected(cause) => not_connected(cause, asked),
        Failure::Late => new(ErrorKind::Timeout, "DynamoDB did not answer in time")
            .hint("raise cloakroom.timeout, or find what is slow: the network, a proxy, or DynamoDB itself"),
        Failure::Cut(cause) => {
            let plain = options.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
            let error = new(ErrorKind::Unreachable, "the connection to DynamoDB was cut").hint(match plain {
                true => {
                    "find what ends connections: a server that wants TLS (endpoint=https://...), a proxy, a firewall, or an \
                     endpoint that was started again"
                }
                false => "find what ends connections: a proxy, a firewall, or an endpoint that was started again",
            });
            match cause {
                Cause::Time => error.source("it took too long"),
                Cause::NotTls => error.source("the answer is not TLS"),
                Cause::Name(why) | Cause::Certificate(why) | Cause::Other(why) => error.source(why),
            }
        }
        Failure::NotUnderstood { status, content } => new(
            ErrorKind::Corrupt,
            &format!("what answers is no DynamoDB: HTTP {status}, {}", shortened(&content)),
        )
        .hint("see endpoint= in session.save_path, AWS_ENDPOINT_URL, and proxies in between"),
        Failure::Said { code, message, status } => said(&code, &message, status, asked),
    };
    error.on(options.shown.as_str())
}

fn no_credentials(missing: Missing, asked: &Asked<'_>) -> Error {
    let doing = asked.doing;
    match missing {
        Missing::Nowhere if let Some(profile) = Profile::named(asked.options, asked.environment) => {
            let Profile { name, by, .. } = profile;
            let (what, help) = match profile.is_written() {
                true => (format!("the profile {name} gives no AWS credentials"), "complete"),
                false => (format!("AWS's files have no profile {name}"), "write"),
            };
            Error::new(ErrorKind::Auth, format!("{doing}: {what}")).hint(format!(
                "correct {by}, or {help} the profile: {}. The user PHP runs as must be able to read the files; AWS_CONFIG_FILE \
                 and AWS_SHARED_CREDENTIALS_FILE name others than ~/.aws of who starts PHP",
                profile.places()
            ))
        }
        Missing::Nowhere => Error::new(ErrorKind::Auth, format!("{doing}: there are no AWS credentials"))
            .hint(
                "give the instance, task or pod a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY where PHP \
                 starts, or name a profile (profile=). Asked were the environment, AWS's files (AWS_CONFIG_FILE, \
                 AWS_SHARED_CREDENTIALS_FILE, ~/.aws of who starts PHP), a web identity, and the metadata services of \
                 container and instance",
            ),
        Missing::Late => {
            Error::new(ErrorKind::Timeout, format!("{doing}: no AWS credentials were given in time")).hint(
                "the metadata service of the instance or container, or a program of the profile, does not answer: let it, \
                 or set AWS_EC2_METADATA_DISABLED=true where there is none",
            )
        }
        Missing::Failed(why) => {
            Error::new(ErrorKind::Auth, format!("{doing}: no AWS credentials were given")).source(why).hint(
                "the first that has any is asked: the environment, the profile, a web identity, the container, the instance",
            )
        }
    }
}

fn not_connected(cause: Cause, asked: &Asked<'_>) -> Error {
    let new = |kind| Error::new(kind, format!("{}: DynamoDB cannot be reached", asked.doing));
    let (where_to, network) = match asked.options.endpoint {
        Some(_) => {
            ("check that endpoint= in session.save_path is right and its server runs", "check endpoint=")
        }
        None => (
            "check the region, and that this host may reach AWS: a NAT gateway, or a VPC endpoint for DynamoDB",
            "check the region",
        ),
    };
    match cause {
        Cause::Time => new(ErrorKind::Timeout).source("connecting took too long").hint(where_to),
        Cause::Name(why) => {
            new(ErrorKind::Unreachable).source(why).hint(format!("{network}, and the resolver of this host"))
        }
        Cause::Certificate(why) => {
            new(ErrorKind::Unreachable).source(format!("its certificate is not trusted: {why}")).hint(
                "name the authority that signed it with cafile= or AWS_CA_BUNDLE, or install ca-certificates",
            )
        }
        Cause::NotTls => new(ErrorKind::Unreachable)
            .source("it does not speak TLS")
            .hint("write endpoint=http://... for a server without TLS, which is for this host alone"),
        Cause::Other(why) => new(ErrorKind::Unreachable).source(why).hint(where_to),
    }
}

/// The service's refusal, by its name.
fn said(code: &str, message: &str, status: u16, asked: &Asked<'_>) -> Error {
    let Asked { doing, attempts, took, region, options, .. } = asked;
    let (table, shown) = (&options.table, &options.shown);
    let new = |kind, what: &str| Error::new(kind, format!("{doing}: {what}"));
    let times = format!("{attempts} requests in {:.1} s", took.as_secs_f64());
    let keys = match options.credentials {
        Some(_) => "see the access key and its secret in session.save_path",
        None => "see the credentials in the environment, the profile, or the role that AWS's chain found",
    };
    match code {
        "ResourceNotFoundException" => new(
            ErrorKind::Config,
            &format!("there is no table {table} in {region}"),
        )
        .hint(format!(
            "make it with 'cloakroom create {shown}', or correct the table's name, the region or the endpoint"
        )),
        "AccessDeniedException" => new(ErrorKind::Auth, "AWS does not allow it")
            .source(shortened(message))
            .hint(format!("attach the policy that 'cloakroom iam {shown}' prints to who is named")),
        code if UNKNOWN.contains(&code) => {
            new(ErrorKind::Auth, "AWS does not know the access key, or not its session token").hint(keys)
        }
        code if EXPIRED.contains(&code) => new(ErrorKind::Auth, "the credentials have expired")
            .hint(format!("{keys}; they are read again each time")),
        "RequestTimeTooSkewed" => clocks_differ(doing),
        "InvalidSignatureException" if is_of_another_time(message) => clocks_differ(doing),
        // Its message tells the headers, and so a token.
        code if SIGNATURE.contains(&code) => {
            new(ErrorKind::Auth, "the signature is wrong: the secret is not this access key's").hint(keys)
        }
        "MissingAuthenticationTokenException" | "MissingAuthenticationToken" => {
            new(ErrorKind::Auth, "the signature did not arrive")
                .hint("find the proxy that drops the header Authorization")
        }
        "ValidationException" if message.contains("size has exceeded") || message.contains("Item size") => {
            too_large(doing, options)
        }
        "RequestEntityTooLargeException" | "RequestEntityTooLarge" => too_large(doing, options),
        _ if status == 413 => too_large(doing, options),
        "ValidationException" if is_about_the_key(message) => {
            let key = &options.layout.key;
            new(ErrorKind::Config, &format!("the key of the table {table} is not the string {key} alone"))
                .hint(format!("hash_key= must name it; 'cloakroom doctor {shown}' shows the table"))
        }
        code if BUSY.contains(&code) => {
            new(ErrorKind::Timeout, &format!("DynamoDB has throttled it ({times}): {code}")).hint(format!(
                "switch the table {table} to on-demand capacity, or raise its provisioned capacity"
            ))
        }
        code if status >= 500 => {
            new(ErrorKind::Unreachable, &format!("DynamoDB has failed ({times}): {code}"))
                .hint("nothing here is wrong: look at the health of AWS, or of the endpoint")
        }
        code => new(ErrorKind::Corrupt, &format!("DynamoDB refuses it: {code}"))
            .source(shortened(message))
            .hint(format!("'cloakroom doctor {shown}' looks at the table")),
    }
}

fn is_about_the_key(message: &str) -> bool {
    let words = [
        "does not match the schema",
        "Type mismatch for key",
        "Type mismatch for attribute to update",
        "Missing the key",
        "One of the required keys was not given a value",
    ];
    words.iter().any(|words| message.contains(words))
}

fn clocks_differ(doing: &str) -> Error {
    Error::new(ErrorKind::Auth, format!("{doing}: the request was signed for another time than AWS's"))
        .hint("set this host's clock; the answer did not say what time it is")
}

/// The session is larger than an item can be.
pub(super) fn too_large(doing: &str, options: &Options) -> Error {
    Error::new(
        ErrorKind::TooLarge,
        format!("{doing}: with its key and the names of attributes it is larger than 400 KB, the limit of DynamoDB"),
    )
    .hint("keep less in the session")
    .on(options.shown.as_str())
}

pub(super) fn no_region(options: &Options, environment: &Environment) -> Error {
    let profile = Profile::named(options, environment).filter(|profile| !profile.is_written());
    let or_there = profile.map_or_else(String::new, |profile| {
        let Profile { name, by, .. } = profile;
        format!("; AWS's files have no profile {name}, which {by} names: {}", profile.places())
    });
    Error::new(ErrorKind::Config, "no AWS region is named")
        .hint(format!(
            "write it before the table, dynamodb://eu-west-1/{}, or set AWS_REGION where PHP starts{or_there}",
            options.table
        ))
        .on(options.shown.as_str())
}

pub(super) fn no_configuration(options: &Options) -> Error {
    Error::new(ErrorKind::Timeout, "AWS's configuration was not found in time")
        .hint("write the region before the table, or set AWS_REGION: without it the instance's metadata service is asked")
        .on(options.shown.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SavePath;

    #[test]
    fn a_host_that_stood_still_is_not_said_to_lack_the_credentials_of_its_url() {
        let late = |save_path: &str| {
            let Ok(SavePath::Store(url)) = SavePath::parse(save_path, &Environment::default()) else {
                panic!("{save_path} is a URL")
            };
            Failure::late(Reached::Nothing, &Options::parse(&url).unwrap())
        };
        let given = late("dynamodb://key:secret@eu-west-1/sessions");
        assert_eq!(given.remedy(), Remedy::Connect, "{given:?}");
        let chain = late("dynamodb://eu-west-1/sessions");
        assert!(matches!(chain, Failure::NoCredentials(Missing::Late)), "{chain:?}");
    }
}
