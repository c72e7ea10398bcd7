//! The PHP extension: `session.save_handler = cloakroom`.
//!
//! PHP calls [`ffi`], which holds all `unsafe` code and nothing else; it calls its safe twin [`handler`], which gives
//! PHP's session callbacks their meaning for a [`cloakroom::Store`].

mod connected;
mod drop_in;
#[allow(unsafe_code)]
mod ffi;
mod handler;
mod ini;
mod renewer;
mod report;
