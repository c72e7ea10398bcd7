//! (being written)
#![allow(missing_docs, unused)]
use crate::*;
use std::time::Duration;
#[derive(Debug, Clone)]
pub struct Options;
impl Options {
    pub fn parse(url: &StoreUrl) -> Result<Self> {
        Ok(Options)
    }
}
pub struct Files;
impl Files {
    pub fn new(options: Options, settings: Settings) -> Self {
        Files
    }
}
impl Store for Files {
    fn guarantees(&self) -> Guarantees {
        Guarantees {
            lock: LockKind::Lease,
            versions: false,
            listing: false,
            sweeping: Sweeping::ByEngine,
            size_limit: None,
            survives_restart: Durability::AsConfigured,
            shared_between_hosts: Sharing::Shared,
            waiter_cap: WaiterCap::Everywhere,
        }
    }
    fn counters(&self) -> Counters {
        Counters::default()
    }
    fn exists(&mut self, id: &SessionId, by: Deadline) -> Result<bool> {
        Err(Error::new(ErrorKind::Bug, "not written yet"))
    }
    fn open(&mut self, id: &SessionId, access: Access, by: Deadline) -> Result<Opened> {
        Err(Error::new(ErrorKind::Bug, "not written yet"))
    }
    fn commit(&mut self, id: &SessionId, hold: Hold, change: Change<'_>, by: Deadline) -> Result<Committed> {
        Err(Error::new(ErrorKind::Bug, "not written yet"))
    }
    fn sweep(&mut self, lifetime: Duration, by: Deadline) -> Result<u64> {
        Err(Error::new(ErrorKind::Bug, "not written yet"))
    }
    fn list(&mut self, each: &mut dyn FnMut(SessionId) -> bool, by: Deadline) -> Result<()> {
        Err(Error::new(ErrorKind::Bug, "not written yet"))
    }
}
