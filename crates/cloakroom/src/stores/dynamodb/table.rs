//! The table itself, which only the command asks for: DescribeTable, DescribeTimeToLive, CreateTable, UpdateTimeToLive.

use std::time::Duration;

use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::operation::create_table::{CreateTableError, CreateTableOutput};
use aws_sdk_dynamodb::operation::describe_table::DescribeTableError;
use aws_sdk_dynamodb::operation::describe_time_to_live::DescribeTimeToLiveError;
use aws_sdk_dynamodb::operation::update_time_to_live::UpdateTimeToLiveError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, ConsumedCapacity, KeySchemaElement, KeyType, ProvisionedThroughput,
    ScalarAttributeType, TableDescription, TableStatus, TimeToLiveDescription, TimeToLiveSpecification,
    TimeToLiveStatus,
};

use super::client::{Billed, Client, Refused};
use super::tally::Purpose;
use super::{DynamoDb, Options};
use crate::{Deadline, Error, ErrorKind, Result};

/// Between two looks at a table that is being made.
const LOOK: Duration = Duration::from_millis(500);

/// With less time left there is no pause and another look: what is known of the table says more than a look that is cut short.
const LAST_LOOK: Duration = Duration::from_secs(2);

/// What requests to a table may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capacity {
    /// Any number of units, each of which is paid for.
    PayPerRequest,
    /// So many units in each second, used or not; more are throttled.
    Provisioned {
        /// Read units.
        read: i64,
        /// Write units.
        write: i64,
    },
}

/// What became of making a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// Whether the table was made; else it was there.
    pub table: bool,
    /// Its time to live.
    pub expiry: Expiry,
}

/// Whether DynamoDB removes what has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// It was switched on.
    SwitchedOn,
    /// It was on.
    WasOn,
    /// The engine has no such thing (dynalite).
    Unknown,
}

/// A table as it is.
pub(super) struct Table(TableDescription);

/// A table's time to live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TimeToLive {
    /// By this attribute.
    On(String),
    Off,
    /// It is being switched; for a while nothing can be changed.
    Switching,
    /// The engine has no such thing.
    Unknown,
}

impl DynamoDb {
    /// Makes the table that the URL names, with its time to live switched on, and waits until it can be used. `doing` is told
    /// what is waited for. A table that is there stays as it is; its time to live is switched on where it is off.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] where a table of this name is there that is not as it has to be; [`ErrorKind::Timeout`] where it is
    /// not ready at `by`.
    pub fn create_table(
        &mut self,
        capacity: Option<Capacity>,
        doing: &mut dyn FnMut(&str),
        by: Deadline,
    ) -> Result<Created> {
        let capacity_of_new = capacity.unwrap_or(Capacity::PayPerRequest);
        let (table, made) = self.active_table(capacity_of_new, doing, by)?;
        if let Some(wrong) = table.wrong(&self.client.options) {
            return Err(self.not_as_it_has_to_be(&wrong));
        }
        if let Some(index) = table.indexes().first() {
            let what = format!("it has an index, {index}: each write may be billed once more for it");
            return Err(self.not_as_it_has_to_be(&what));
        }
        if let Some(asked) = capacity.filter(|asked| *asked != table.capacity()) {
            let what = format!("its capacity is {}, not {asked}", table.capacity());
            return Err(self.not_as_it_has_to_be(&what).hint(
                "change it with aws dynamodb update-table, or leave out --read-units and --write-units",
            ));
        }
        let attribute = self.client.options.layout.expires.clone();
        let expiry = match self.client.time_to_live(by)? {
            TimeToLive::On(by) if by == attribute => Expiry::WasOn,
            TimeToLive::On(other) => {
                let what = format!("its TTL is by the attribute {other}, not {attribute}");
                let hint = format!(
                    "write ttl={other} into the URL where sessions are to have it there, or switch it off first"
                );
                return Err(self.not_as_it_has_to_be(&what).hint(hint));
            }
            TimeToLive::Switching => {
                let what = "its TTL is being switched just now";
                return Err(self.not_as_it_has_to_be(what).hint("try again in an hour"));
            }
            TimeToLive::Unknown => Expiry::Unknown,
            TimeToLive::Off => match self.client.switch_time_to_live_on(&attribute, by) {
                Ok(true) => Expiry::SwitchedOn,
                Ok(false) => Expiry::Unknown,
                // By somebody else just now, or by an attempt whose answer was lost.
                Err(_) if self.expires_by_itself(by).is_ok_and(|expires| expires) => Expiry::SwitchedOn,
                Err(error) => return Err(error),
            },
        };
        Ok(Created { table: made, expiry })
    }

    /// Whether DynamoDB removes expired sessions of this table by itself.
    ///
    /// # Errors
    /// When it cannot tell.
    pub fn expires_by_itself(&mut self, by: Deadline) -> Result<bool> {
        let attribute = self.client.options.layout.expires.clone();
        Ok(self.client.time_to_live(by)? == TimeToLive::On(attribute))
    }

    /// The table once it can be used, and whether it was made. One that is being deleted is made anew.
    fn active_table(
        &mut self,
        capacity: Capacity,
        doing: &mut dyn FnMut(&str),
        by: Deadline,
    ) -> Result<(Table, bool)> {
        let (mut made, mut told) = (false, None);
        loop {
            let status = match self.client.table(by)? {
                Some(table) if table.is_active() => return Ok((table, made)),
                Some(table) => table.status(),
                None if !made => {
                    self.client.make_table(capacity, by)?;
                    made = true;
                    continue;
                }
                // Who asks for it may be ahead of who made it.
                None => "not there yet".into(),
            };
            if by.remaining() < LAST_LOOK {
                return Err(Error::new(
                    ErrorKind::Timeout,
                    format!("the table is not ready yet: it is {status}"),
                )
                .hint("do the same again: it goes on where this stopped")
                .on(self.client.options.shown.as_str()));
            }
            if told.as_ref() != Some(&status) {
                doing(&format!("waiting for the table, which is {status}"));
                told = Some(status);
            }
            std::thread::sleep(LOOK);
        }
    }

    fn not_as_it_has_to_be(&self, what: &str) -> Error {
        let options = &self.client.options;
        Error::new(ErrorKind::Config, format!("the table {} is there, and {what}", options.table))
            .hint("take another name for the table, or correct the URL; nothing was changed")
            .on(options.shown.as_str())
    }
}

impl std::fmt::Display for Capacity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Capacity::PayPerRequest => f.write_str("paid per request"),
            Capacity::Provisioned { read, write } => {
                write!(f, "{read} read units and {write} write units a second")
            }
        }
    }
}

impl Table {
    pub(super) fn is_active(&self) -> bool {
        matches!(self.0.table_status(), Some(TableStatus::Active | TableStatus::Updating))
    }

    pub(super) fn status(&self) -> String {
        self.0.table_status().map_or("UNKNOWN", TableStatus::as_str).to_owned()
    }

    pub(super) fn capacity(&self) -> Capacity {
        let provisioned = self.0.provisioned_throughput();
        let units = |units: Option<i64>| units.unwrap_or(0);
        let mode = self.0.billing_mode_summary().and_then(|summary| summary.billing_mode());
        match (mode, provisioned) {
            (Some(BillingMode::PayPerRequest), _) | (_, None) => Capacity::PayPerRequest,
            (_, Some(it)) => Capacity::Provisioned {
                read: units(it.read_capacity_units()),
                write: units(it.write_capacity_units()),
            },
        }
    }

    /// Why sessions cannot be in this table as the URL says.
    pub(super) fn wrong(&self, options: &Options) -> Option<String> {
        let wanted = &options.layout.key;
        let keys = self.0.key_schema();
        let key = keys.iter().find(|key| *key.key_type() == KeyType::Hash)?.attribute_name();
        let of_type = |name: &str| {
            let mut defined = self.0.attribute_definitions().iter();
            defined
                .find(|attribute| attribute.attribute_name() == name)
                .map(|it| it.attribute_type().as_str())
        };
        let sort = keys.iter().find(|key| *key.key_type() == KeyType::Range);
        match (sort, of_type(key)) {
            _ if key != wanted => Some(format!("its key is {key}, not {wanted}")),
            (Some(sort), _) => Some(format!("it has a sort key, {}", sort.attribute_name())),
            (None, Some(other)) if other != "S" => Some(format!("its key is of the type {other}, not S")),
            _ => None,
        }
    }

    /// The names of its indexes: each write to the table is billed for every one of them, too.
    pub(super) fn indexes(&self) -> Vec<&str> {
        let global = self.0.global_secondary_indexes().iter().filter_map(|index| index.index_name());
        let local = self.0.local_secondary_indexes().iter().filter_map(|index| index.index_name());
        global.chain(local).collect()
    }
}

impl Client {
    /// The table; `None` where there is none.
    pub(super) fn table(&mut self, by: Deadline) -> Result<Option<Table>> {
        let options = std::sync::Arc::clone(&self.options);
        let answer = self.ask(Purpose::Other, "cannot look at the table", by, async |sdk| {
            match sdk.describe_table().table_name(&options.table).send().await {
                Ok(answer) => Ok(Asked(answer.table)),
                Err(error) => match error.as_service_error() {
                    Some(DescribeTableError::ResourceNotFoundException(_)) => Ok(Asked(None)),
                    _ => Err(error),
                },
            }
        })?;
        Ok(answer.done()?.0.map(Table))
    }

    /// Its time to live.
    pub(super) fn time_to_live(&mut self, by: Deadline) -> Result<TimeToLive> {
        let options = std::sync::Arc::clone(&self.options);
        let answer =
            self.ask(Purpose::Other, "cannot look at the table's TTL", by, async |sdk| {
                match sdk.describe_time_to_live().table_name(&options.table).send().await {
                    Ok(answer) => Ok(Asked(answer.time_to_live_description)),
                    Err(error) if is_unknown(&error) => Ok(Asked(None)),
                    Err(error) => Err(error),
                }
            })?;
        Ok(match answer.done()?.0 {
            None => TimeToLive::Unknown,
            Some(told) => TimeToLive::of(&told),
        })
    }

    fn make_table(&mut self, capacity: Capacity, by: Deadline) -> Result<()> {
        let options = std::sync::Arc::clone(&self.options);
        let invalid = |error: aws_sdk_dynamodb::error::BuildError| {
            Error::new(ErrorKind::Bug, "cannot put the request together").source(error)
        };
        let key = options.layout.key.as_str();
        let attribute = AttributeDefinition::builder()
            .attribute_name(key)
            .attribute_type(ScalarAttributeType::S)
            .build()
            .map_err(invalid)?;
        let schema = KeySchemaElement::builder()
            .attribute_name(key)
            .key_type(KeyType::Hash)
            .build()
            .map_err(invalid)?;
        let (mode, throughput) = match capacity {
            Capacity::PayPerRequest => (BillingMode::PayPerRequest, None),
            Capacity::Provisioned { read, write } => {
                let units = ProvisionedThroughput::builder()
                    .read_capacity_units(read)
                    .write_capacity_units(write)
                    .build()
                    .map_err(invalid)?;
                (BillingMode::Provisioned, Some(units))
            }
        };
        let answer = self.ask(Purpose::Other, "cannot create the table", by, async |sdk| {
            let made = sdk
                .create_table()
                .table_name(&options.table)
                .attribute_definitions(attribute.clone())
                .key_schema(schema.clone())
                .billing_mode(mode.clone())
                .set_provisioned_throughput(throughput.clone())
                .send()
                .await;
            match made {
                Err(error) => match error.as_service_error() {
                    // By somebody else just now, or by an attempt whose answer was lost.
                    Some(CreateTableError::ResourceInUseException(_)) => {
                        Ok(CreateTableOutput::builder().build())
                    }
                    _ => Err(error),
                },
                made => made,
            }
        })?;
        answer.done().map(drop)
    }

    /// Whether it could be: some engines have no time to live.
    fn switch_time_to_live_on(&mut self, attribute: &str, by: Deadline) -> Result<bool> {
        let options = std::sync::Arc::clone(&self.options);
        let specification =
            TimeToLiveSpecification::builder().attribute_name(attribute).enabled(true).build().map_err(
                |error| Error::new(ErrorKind::Bug, "cannot put the request together").source(error),
            )?;
        let answer = self.ask(Purpose::Other, "cannot switch the table's TTL on", by, async |sdk| {
            let switched = sdk
                .update_time_to_live()
                .table_name(&options.table)
                .time_to_live_specification(specification.clone())
                .send()
                .await;
            match switched {
                Ok(answer) => Ok(Asked(Some(answer))),
                Err(error) if is_unknown(&error) => Ok(Asked(None)),
                Err(error) => Err(error),
            }
        })?;
        Ok(answer.done()?.0.is_some())
    }
}

impl TimeToLive {
    fn of(told: &TimeToLiveDescription) -> Self {
        let attribute = told.attribute_name().unwrap_or_default().to_owned();
        match told.time_to_live_status() {
            Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling) => TimeToLive::On(attribute),
            Some(TimeToLiveStatus::Disabling) => TimeToLive::Switching,
            _ => TimeToLive::Off,
        }
    }
}

/// Whether the engine does not have what was asked for.
fn is_unknown<E: ProvideErrorMetadata, R>(error: &aws_sdk_dynamodb::error::SdkError<E, R>) -> bool {
    error.code() == Some("UnknownOperationException")
}

/// What was asked for, where the engine has it.
struct Asked<T>(Option<T>);

impl<T: Send> Billed for Asked<T> {
    fn capacity(&self) -> Option<&ConsumedCapacity> {
        None
    }
}

impl Billed for CreateTableOutput {
    fn capacity(&self) -> Option<&ConsumedCapacity> {
        None
    }
}

impl Refused for DescribeTableError {}
impl Refused for DescribeTimeToLiveError {}
impl Refused for CreateTableError {}
impl Refused for UpdateTimeToLiveError {}
