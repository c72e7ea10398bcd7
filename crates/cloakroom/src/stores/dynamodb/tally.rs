//! What was sent, and what it cost: DynamoDB bills by units of capacity, and says with each answer how many.

use aws_sdk_dynamodb::types::ConsumedCapacity;

use super::client::Units;
use super::item::{self, Attributes};
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
}

impl Tally {
    /// A request was sent, over a new connection or not.
    pub(super) fn sent(&mut self, purpose: Purpose, connected: bool) {
        self.counters.connects += u64::from(connected);
        // Those are not waited for.
        if purpose != Purpose::Renew {
            self.counters.exchanges += 1;
        }
        self.billed[purpose as usize].requests += 1;
    }

    /// It was answered, and cost what the engine says.
    pub(super) fn billed(&mut self, purpose: Purpose, units: Units, capacity: Option<&ConsumedCapacity>) {
        let billed = &mut self.billed[purpose as usize];
        let counted = match units {
            Units::Read => &mut billed.read_units,
            Units::Write => &mut billed.write_units,
        };
        *counted += capacity.and_then(ConsumedCapacity::capacity_units).unwrap_or(0.0);
    }

    /// A condition did not hold. That costs as much as writing the item again, and the engine does not say so; where it does not
    /// show the item either, one unit is what is known.
    pub(super) fn billed_unmet(&mut self, purpose: Purpose, item: Option<&Attributes>) {
        let size = item.map_or(0, item::size);
        self.billed[purpose as usize].write_units += size.div_ceil(1024).max(1) as f64;
    }

    pub(super) fn bill(&self) -> Vec<(&'static str, Billed)> {
        NAMES.into_iter().zip(self.billed).filter(|(_, billed)| billed.requests > 0).collect()
    }
}
