//! Shared, locked PHP sessions: the stores behind the Cloakroom extension and command.
//!
//! Two paths lead through this crate:
//! - **data**: [`Store::open`] locks and reads a session, [`Store::commit`] writes and unlocks it. Each store under
//!   [`stores`] says in its module doc what it sends.
//! - **configuration**: `session.save_path`, a command line or the environment become a [`StoreUrl`] in
//!   [`SavePath::parse`] or [`detect::detect`], and [`stores::open`] makes the store that it names.

pub mod codec;
mod deadline;
pub mod detect;
pub mod envelope;
mod environment;
mod error;
#[cfg(feature = "net")]
mod net;
mod peek;
mod save_path;
mod secret;
mod session_id;
mod store;
pub mod stores;

pub use deadline::Deadline;
pub use environment::Environment;
pub use error::{Error, ErrorKind, Outcome, Result};
pub use peek::{Broken, Ends, Holder, Life, Lock, Peeked};
pub use save_path::{Param, SavePath, Server, StoreUrl};
pub use secret::Secret;
pub use session_id::SessionId;
pub use store::*;
