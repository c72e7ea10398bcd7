//! Everything that DynamoDB, the network or a configuration can refuse: who must act, what, where, and how.

use testbed::suite::Case;

pub(crate) fn cases() -> Vec<Case> {
    vec![]
}
