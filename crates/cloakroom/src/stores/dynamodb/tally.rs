//! What was sent, and what it cost: DynamoDB bills by units of capacity, and says with each answer how many.

use std::net::SocketAddr;

use aws_sdk_dynamodb::types::ConsumedCapacity;

use super::item::Attributes;
use crate::{Billed, Counters};

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Locks and reads a session.
    Open,
    /// Reads it without a lock.
    Read,
    /// Asks whether a lock is still held, or stands in line for it.
    Wait,
    /// Writes and unlocks.
    Commit,
    /// Prolongs a lease.
    Renew,
    /// What the command asks for: tables, lists, other sessions' locks.
    Other,
}

/// By purpose, as they are shown.
const NAMES: [&str; 6] = ["open", "read", "wait", "commit", "renew", "other"];

#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) counters: Counters,
    billed: [Billed; NAMES.len()],
    /// This host's end of the connection that the last answer came on.
    connection: Option<SocketAddr>,
}

impl Tally {
    pub(super) fn sent(&mut self, purpose: Purpose) {
        if purpose != Purpose::Renew {
            self.counters.exchanges += 1;
        }
        self.billed[purpose as usize].requests += 1;
    }

    pub(super) fn billed(&mut self, purpose: Purpose, capacity: Option<&ConsumedCapacity>) {
        let units = capacity.and_then(ConsumedCapacity::capacity_units).unwrap_or(0.0);
        let billed = &mut self.billed[purpose as usize];
        // A request reads or writes; engines that tell which are few.
        match purpose {
            Purpose::Read => billed.read_units += units,
            _ => billed.write_units += units,
        }
    }

    pub(super) fn billed_unmet(&mut self, _purpose: Purpose, _item: Option<&Attributes>) {}

    /// An answer came on this connection.
    pub(super) fn answered_on(&mut self, connection: SocketAddr) {
        if self.connection.replace(connection) != Some(connection) {
            self.counters.connects += 1;
        }
    }

    pub(super) fn bill(&self) -> Vec<(&'static str, Billed)> {
        NAMES.into_iter().zip(self.billed).filter(|(_, billed)| billed.requests > 0).collect()
    }
}
