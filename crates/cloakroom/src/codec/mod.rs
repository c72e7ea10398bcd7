//! PHP's session formats.
