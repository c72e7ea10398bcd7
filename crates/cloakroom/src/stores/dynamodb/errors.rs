//! What can go wrong with a request, and what is said of it.

use aws_sdk_dynamodb::error::SdkError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::error::display::DisplayErrorContext;

use super::client::Refused;
use super::item::Attributes;
use super::options::Options;
use crate::{Error, ErrorKind};

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The condition does not hold.
    Unmet(Option<Attributes>),
    /// The service says no.
    Said { code: String, message: String, status: u16 },
    /// Nothing was sent.
    NotBegun(Error),
    /// Nobody is there.
    NotConnected(String),
    /// It was sent, and no answer came that can be understood.
    Cut(String),
    /// It was sent, and no answer came in time.
    Late,
}

/// What the service says of a table that has more requests than its capacity, or of itself.
const BUSY: &[&str] = &[
    "ProvisionedThroughputExceededException",
    "ThrottlingException",
    "RequestLimitExceeded",
    "Throttling",
    "ThrottledException",
    "TooManyRequestsException",
    "LimitExceededException",
    "TransactionInProgressException",
    "TransactionConflictException",
    "ReplicatedWriteConflictException",
];

/// What it says of a signature of another time: with the answer came the service's.
const SKEWED: &[&str] = &["RequestTimeTooSkewed", "InvalidSignatureException", "RequestExpired"];

impl Failure {
    pub(super) fn of<E: Refused>(error: SdkError<E, HttpResponse>) -> Self {
        let shown = DisplayErrorContext(&error).to_string();
        match error {
            SdkError::ServiceError(context) => {
                let status = context.raw().status().as_u16();
                let mut said = context.into_err();
                let code = said.code().unwrap_or_default().to_owned();
                if code == "ConditionalCheckFailedException" {
                    return Failure::Unmet(said.unmet());
                }
                Failure::Said { code, message: said.message().unwrap_or_default().to_owned(), status }
            }
            SdkError::ConstructionFailure(_) => Failure::NotConnected(shown),
            SdkError::DispatchFailure(failure) => match failure.as_connector_error() {
                Some(error) if error.is_io() && !connecting(error) => Failure::Cut(shown),
                _ => Failure::NotConnected(shown),
            },
            SdkError::TimeoutError(_) => Failure::NotConnected(shown),
            _ => Failure::Cut(shown),
        }
    }

    /// Whether the change may have been made all the same.
    pub(super) fn may_be_applied(&self) -> bool {
        match self {
            Failure::Cut(_) | Failure::Late => true,
            Failure::Said { status, .. } => *status >= 500,
            _ => false,
        }
    }

    /// Whether another attempt may succeed, after so many.
    pub(super) fn may_pass(&self, attempts: u32) -> bool {
        match self {
            Failure::Said { code, .. } if SKEWED.contains(&code.as_str()) => attempts == 1,
            Failure::Said { code, status, .. } => *status >= 500 || BUSY.contains(&code.as_str()),
            Failure::NotConnected(_) | Failure::Cut(_) | Failure::Late => attempts < 3,
            Failure::Unmet(_) | Failure::NotBegun(_) => false,
        }
    }
}

/// Whether an error is about making the connection.
fn connecting(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.to_string().contains("Connect") {
            return true;
        }
        next = error.source();
    }
    false
}

/// The error for an attempt after which there is none.
pub(super) fn of(failure: Failure, doing: &str, options: &Options) -> Error {
    let error = match failure {
        Failure::NotBegun(error) => error,
        Failure::Unmet(_) => Error::new(ErrorKind::Bug, format!("{doing}: a condition was not met")),
        Failure::Late => Error::new(ErrorKind::Timeout, format!("{doing}: DynamoDB did not answer in time"))
            .hint("raise cloakroom.timeout, or find what is slow: the network, or the table's capacity"),
        Failure::Cut(why) => {
            Error::new(ErrorKind::Unreachable, format!("{doing}: the connection was cut")).source(why)
        }
        Failure::NotConnected(why) => {
            Error::new(ErrorKind::Unreachable, format!("{doing}: DynamoDB cannot be reached")).source(why)
        }
        Failure::Said { code, message, .. } => {
            let kind = match code.as_str() {
                "ResourceNotFoundException" => ErrorKind::Config,
                "AccessDeniedException" | "UnrecognizedClientException" | "ExpiredTokenException" => {
                    ErrorKind::Auth
                }
                code if BUSY.contains(&code) => ErrorKind::Timeout,
                _ => ErrorKind::Corrupt,
            };
            Error::new(kind, format!("{doing}: {code}")).source(message)
        }
    };
    error.on(options.shown.as_str())
}

pub(super) fn no_region(options: &Options) -> Error {
    Error::new(ErrorKind::Config, "no AWS region is named")
        .hint(format!(
            "write it before the table: dynamodb://eu-west-1/{}, or set AWS_REGION where PHP starts",
            options.table
        ))
        .on(options.shown.as_str())
}

pub(super) fn no_credentials(options: &Options) -> Error {
    Error::new(ErrorKind::Auth, "AWS's chain has no credentials")
        .hint(
            "give the instance, task or pod a role; or set AWS_PROFILE, or AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY, where PHP starts",
        )
        .on(options.shown.as_str())
}

pub(super) fn no_configuration(options: &Options) -> Error {
    Error::new(ErrorKind::Timeout, "AWS's configuration was not found in time")
        .hint("write the region before the table; without it the instance's metadata service is asked")
        .on(options.shown.as_str())
}
