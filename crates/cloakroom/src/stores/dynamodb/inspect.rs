//! What of a table's set-up endangers sessions: DescribeTable and DescribeTimeToLive; and who asks.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::credential_feature::AwsCredentialFeature as Feature;

use super::DynamoDb;
use super::table::{Capacity, Table, TimeToLive};
use crate::{Deadline, ErrorKind, Extent, Finding, Gravity, Result};

/// From here on a difference of clocks is said, in milliseconds.
const APART: i64 = 30_000;

/// A table with less write units is worth a word.
const FEW: i64 = 10;

/// Credentials that nobody renews, and that end sooner than this, are worth a word.
const SOON: Duration = Duration::from_secs(24 * 3600);

impl DynamoDb {
    /// Asks for the table and what AWS's chain says; see [`crate::Store::inspect`].
    pub(super) fn look_into(&mut self, extent: Extent, by: Deadline) -> Result<Vec<Finding>> {
        if extent == Extent::Connected {
            return Ok(Vec::new());
        }
        let mut said = Said { place: self.client.options.shown.clone(), findings: Vec::new() };
        let (_, credentials) = self.client.chain(by)?;
        match self.client.table(by) {
            Ok(Some(table)) => self.about_the_table(&table, &mut said),
            Ok(None) => said.that(
                Gravity::Unsafe,
                "there is no such table".into(),
                "create it: cloakroom create, with this URL",
            ),
            Err(error) if error.kind() == ErrorKind::Auth => said.that(
                Gravity::Note,
                "these credentials may not look at the table, and nothing is known of its key and its TTL"
                    .into(),
                "servers need not; cloakroom iam --for check says what this command needs",
            ),
            Err(error) => return Err(error),
        }
        match self.client.time_to_live(by) {
            Ok(found) => self.about_expiry(&found, &mut said),
            // Said already, or the table is not there.
            Err(error) if matches!(error.kind(), ErrorKind::Auth | ErrorKind::Config) => {}
            Err(error) => return Err(error),
        }
        if let Some(what) = apart(self.client.clock.ahead()) {
            said.that(
                Gravity::Risk,
                what,
                "set this host's clock by NTP: AWS refuses what was signed 5 minutes off. Cloakroom allows for it, \
                 AWS's own handler does not",
            );
        }
        said.about_credentials(&credentials);
        Ok(said.findings)
    }

    fn about_the_table(&self, table: &Table, said: &mut Said) {
        if !table.is_active() {
            said.that(
                Gravity::Unsafe,
                format!("the table is {}", table.status()),
                "wait until it is ACTIVE, or see in AWS's console why it is not",
            );
        }
        if let Some(what) = table.wrong(&self.client.options) {
            said.that(
                Gravity::Unsafe,
                what,
                "correct hash_key= in the URL, or take another table: its key is one string, and there is no sort key",
            );
        }
        if let Capacity::Provisioned { write, .. } = table.capacity()
            && write < FEW
        {
            said.that(
                Gravity::Note,
                few(write),
                "let it be paid per request, or give it more: aws dynamodb update-table",
            );
        }
        if let [first, rest @ ..] = table.indexes().as_slice() {
            let what = match rest {
                [] => format!("the table has an index, {first}"),
                _ => format!("the table has {} indexes, {first} and others", rest.len() + 1),
            };
            said.that(
                Gravity::Note,
                format!("{what}: each write may be billed once more for each"),
                "remove indexes that nobody asks: sessions are found by their key alone",
            );
        }
    }

    fn about_expiry(&self, found: &TimeToLive, said: &mut Said) {
        let attribute = &self.client.options.layout.expires;
        let (gravity, what) = match found {
            TimeToLive::On(by) if by == attribute => return,
            TimeToLive::On(by) => (
                Gravity::Risk,
                format!("the table's TTL is by the attribute {by}, not {attribute}: expired sessions stay"),
            ),
            TimeToLive::Off | TimeToLive::Switching => {
                (Gravity::Risk, "the table's TTL is off: expired sessions stay".to_owned())
            }
            TimeToLive::Unknown => {
                (Gravity::Note, "this engine has no TTL: expired sessions stay".to_owned())
            }
        };
        let hint = match found {
            TimeToLive::On(_) => "correct ttl= in the URL, or the table's TTL; or run cloakroom gc each day",
            TimeToLive::Unknown => "run cloakroom gc where that matters",
            _ => "switch it on: cloakroom create, with this URL; or run cloakroom gc each day",
        };
        said.that(gravity, what, hint);
    }

    /// The region and whose credentials; see [`crate::Store::resolved`].
    pub(super) fn chain(&mut self, by: Deadline) -> Result<Vec<(&'static str, String)>> {
        let (region, credentials) = self.client.chain(by)?;
        let key = credentials.access_key_id();
        // As AWS's own command shows it.
        let shown = match key.char_indices().nth_back(3) {
            Some((at, _)) if at > 0 => format!("...{}", &key[at..]),
            _ => key.to_owned(),
        };
        let mut told = vec![("region", region)];
        told.extend(self.client.options.endpoint.clone().map(|endpoint| ("endpoint", endpoint)));
        told.push(("credentials", format!("key {shown}, {}", origin(&credentials))));
        Ok(told)
    }
}

struct Said {
    place: String,
    findings: Vec<Finding>,
}

impl Said {
    fn that(&mut self, gravity: Gravity, what: String, hint: &str) {
        self.findings.push(Finding { gravity, what, hint: hint.into(), place: self.place.clone() });
    }

    /// Those that a role gives are renewed in time; those that somebody put somewhere are not.
    fn about_credentials(&mut self, credentials: &Credentials) {
        if !is_given(credentials) {
            return;
        }
        let hint = "let PHP's host, task or pod have a role, or use keys that do not end";
        let now = SystemTime::now();
        match credentials.expiry().map(|end| end.duration_since(now).unwrap_or_default()) {
            Some(left) if left < SOON => {
                let what = format!(
                    "the credentials ({}) end in {} minutes, and nobody renews them",
                    origin(credentials),
                    left.as_secs() / 60
                );
                self.that(Gravity::Risk, what, hint);
            }
            None if credentials.session_token().is_some() => {
                let what = format!(
                    "the credentials ({}) are temporary, and nobody renews them",
                    origin(credentials)
                );
                self.that(Gravity::Note, what, hint);
            }
            _ => {}
        }
    }
}

/// What is said of a table with so many write units a second, of which a request with a session of up to 1 KB takes two.
fn few(write: i64) -> String {
    let requests = match write {
        1 => "1 write unit a second: one request in two seconds".to_owned(),
        2 | 3 => format!("{write} write units a second: one request"),
        _ => format!("{write} write units a second: {} requests", write / 2),
    };
    format!("the table takes {requests} with a session of up to 1 KB, or fewer with larger ones")
}

/// What is said of the service's clock where it is so many milliseconds ahead.
fn apart(ahead: i64) -> Option<String> {
    let direction = if ahead < 0 { "behind" } else { "ahead of" };
    (ahead.abs() > APART)
        .then(|| format!("DynamoDB's clock is {} seconds {direction} this host's", ahead.abs() / 1000))
}

/// Where credentials come from, as AWS's chain marks them.
fn origin(credentials: &Credentials) -> &'static str {
    let marks = credentials.get_property::<Vec<Feature>>().map(Vec::as_slice).unwrap_or_default();
    // What they were got with in the end is marked first.
    match marks.first() {
        Some(Feature::CredentialsEnvVars) => "from the environment",
        Some(Feature::CredentialsProfile) => "from a profile of AWS's files",
        Some(
            Feature::CredentialsStsAssumeRole
            | Feature::CredentialsStsAssumeRoleWebId
            | Feature::CredentialsEnvVarsStsWebIdToken
            | Feature::CredentialsProfileStsWebIdToken,
        ) => "of an assumed role",
        Some(Feature::CredentialsSso | Feature::CredentialsProfileSso) => "of a single sign-on",
        Some(Feature::CredentialsProcess | Feature::CredentialsProfileProcess) => {
            "from a program that AWS's files name"
        }
        Some(Feature::CredentialsHttp) => "of the task's or pod's role",
        Some(Feature::CredentialsImds) => "of the instance's role",
        Some(Feature::CredentialsCode) => "from the URL",
        // Those that the URL has bear no mark.
        None => "from the URL",
        Some(_) => "from AWS's chain",
    }
}

/// Whether somebody put them somewhere, and no service hands out the next ones.
fn is_given(credentials: &Credentials) -> bool {
    matches!(origin(credentials), "from the environment" | "from a profile of AWS's files" | "from the URL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_with_little_capacity_is_told_what_that_is_good_for() {
        let rest = "with a session of up to 1 KB, or fewer with larger ones";
        for (write, told) in [
            (1, "1 write unit a second: one request in two seconds"),
            (3, "3 write units a second: one request"),
            (9, "9 write units a second: 4 requests"),
        ] {
            assert_eq!(few(write), format!("the table takes {told} {rest}"));
        }
    }

    #[test]
    fn clocks_are_worth_a_word_where_they_are_far_apart() {
        assert_eq!(apart(30_000), None);
        assert_eq!(apart(-61_000).unwrap(), "DynamoDB's clock is 61 seconds behind this host's");
        assert_eq!(apart(90_500).unwrap(), "DynamoDB's clock is 90 seconds ahead of this host's");
    }
}
