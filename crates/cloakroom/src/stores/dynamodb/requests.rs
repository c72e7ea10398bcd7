//! The three requests that sessions need: GetItem, UpdateItem and DeleteItem; and Scan, for the command.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::{
    AttributeValue, ReturnConsumedCapacity, ReturnValue, ReturnValuesOnConditionCheckFailure,
};

use super::client::{Answer, Client, Earlier};
use super::item::{Attributes, Item};
use super::options::{LOCK, Layout, RECORD_EXPIRES, SEEN, SEEN_EXPIRES, UNTIL};
use super::tally::Purpose;
use crate::{Deadline, Result};

/// What stands for attributes in expressions: some of their names are words of DynamoDB's, and some are the user's.
fn named(layout: &Layout) -> [(&'static str, &str); 8] {
    [
        ("#id", &layout.key),
        ("#data", &layout.data),
        ("#expires", &layout.expires),
        ("#lock", LOCK),
        ("#until", UNTIL),
        ("#record", RECORD_EXPIRES),
        ("#seen", SEEN),
        ("#before", SEEN_EXPIRES),
    ]
}

/// Those that are used: DynamoDB refuses any other.
pub(super) fn names(layout: &Layout, expressions: &[Option<&str>]) -> Option<HashMap<String, String>> {
    let used = |name: &str| {
        let mut words = expressions
            .iter()
            .flatten()
            .flat_map(|expression| expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '#'));
        words.any(|word| word == name)
    };
    let all = named(layout).into_iter().filter(|(name, _)| used(name));
    let names: HashMap<String, String> =
        all.map(|(name, stands_for)| (name.into(), stands_for.into())).collect();
    (!names.is_empty()).then_some(names)
}

/// Values by what stands for them in expressions.
pub(super) type Values = Vec<(&'static str, AttributeValue)>;

fn given(values: &Values) -> Option<HashMap<String, AttributeValue>> {
    let map: HashMap<_, _> = values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    (!map.is_empty()).then_some(map)
}

/// A change of one item, and what must hold for it.
#[derive(Debug)]
pub(super) struct Update<'a> {
    /// As DynamoDB writes it: `SET #a = :a REMOVE #b`.
    pub(super) change: &'a str,
    /// As DynamoDB writes it: `#lock = :token`.
    pub(super) condition: Option<&'a str>,
    pub(super) values: Values,
    pub(super) returns: ReturnValue,
}

/// Which items of a table are looked for, page by page.
#[derive(Debug)]
pub(super) struct Scan<'a> {
    /// What is told of each: `#id, #lock`.
    pub(super) projection: &'a str,
    /// As DynamoDB writes it: `#expires < :limit`. Those that it leaves out are paid for all the same.
    pub(super) filter: Option<&'a str>,
    pub(super) values: Values,
    /// How many are looked at for a page at most; it ends after 1 MB in any case.
    pub(super) limit: Option<i32>,
    /// Whether they are as every write before has left them; twice as dear.
    pub(super) consistent: bool,
}

/// A page of items.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) items: Vec<Attributes>,
    /// How many were looked at, those included that the filter left out.
    pub(super) scanned: u64,
    /// Where the next page begins.
    pub(super) next: Option<Attributes>,
}

/// What became of a change.
pub(super) enum Changed {
    /// It was made; the item as [`Update::returns`] asks for it.
    Done(Item),
    /// The condition does not hold for this item, which not every engine shows.
    Unmet(Option<Item>, Earlier),
}

impl Client {
    /// Reads an item, or only what `projection` names of it.
    pub(super) fn get(
        &mut self,
        purpose: Purpose,
        key: &str,
        projection: Option<&str>,
        consistent: bool,
        by: Deadline,
    ) -> Result<Option<Item>> {
        let options = std::sync::Arc::clone(&self.options);
        let names = names(&options.layout, &[projection]);
        let answer = self.ask(purpose, "cannot read the session", by, async |sdk| {
            sdk.get_item()
                .table_name(&options.table)
                .key(&options.layout.key, AttributeValue::S(key.to_owned()))
                .consistent_read(consistent)
                .set_projection_expression(projection.map(str::to_owned))
                .set_expression_attribute_names(names.clone())
                .return_consumed_capacity(ReturnConsumedCapacity::Total)
                .send()
                .await
        })?;
        Ok(match answer {
            Answer::Done(answer) => answer.item.map(|item| Item::read(item, &options.layout)),
            Answer::Unmet(..) => None,
        })
    }

    /// Changes an item, or makes it.
    pub(super) fn update(
        &mut self,
        purpose: Purpose,
        key: &str,
        update: &Update<'_>,
        by: Deadline,
    ) -> Result<Changed> {
        let options = std::sync::Arc::clone(&self.options);
        let names = names(&options.layout, &[Some(update.change), update.condition]);
        let values = given(&update.values);
        let doing = match purpose {
            Purpose::Open | Purpose::Wait => "cannot lock the session",
            Purpose::Renew => "cannot renew the session's lock",
            _ => "cannot write the session",
        };
        let answer = self.ask(purpose, doing, by, async |sdk| {
            sdk.update_item()
                .table_name(&options.table)
                .key(&options.layout.key, AttributeValue::S(key.to_owned()))
                .update_expression(update.change)
                .set_condition_expression(update.condition.map(str::to_owned))
                .set_expression_attribute_names(names.clone())
                .set_expression_attribute_values(values.clone())
                .return_values(update.returns.clone())
                .set_return_values_on_condition_check_failure(
                    update.condition.map(|_| ReturnValuesOnConditionCheckFailure::AllOld),
                )
                .return_consumed_capacity(ReturnConsumedCapacity::Total)
                .send()
                .await
        })?;
        Ok(match answer {
            Answer::Done(answer) => {
                Changed::Done(Item::read(answer.attributes.unwrap_or_default(), &options.layout))
            }
            Answer::Unmet(item, earlier) => {
                Changed::Unmet(item.map(|item| Item::read(item, &options.layout)), earlier)
            }
        })
    }

    /// Removes an item.
    pub(super) fn delete(
        &mut self,
        purpose: Purpose,
        key: &str,
        condition: Option<&str>,
        values: Values,
        by: Deadline,
    ) -> Result<Changed> {
        let options = std::sync::Arc::clone(&self.options);
        let names = names(&options.layout, &[condition]);
        let values = given(&values);
        let answer = self.ask(purpose, "cannot remove the session", by, async |sdk| {
            sdk.delete_item()
                .table_name(&options.table)
                .key(&options.layout.key, AttributeValue::S(key.to_owned()))
                .set_condition_expression(condition.map(str::to_owned))
                .set_expression_attribute_names(names.clone())
                .set_expression_attribute_values(values.clone())
                .set_return_values_on_condition_check_failure(
                    condition.map(|_| ReturnValuesOnConditionCheckFailure::AllOld),
                )
                .return_consumed_capacity(ReturnConsumedCapacity::Total)
                .send()
                .await
        })?;
        Ok(match answer {
            Answer::Done(_) => Changed::Done(Item::default()),
            Answer::Unmet(item, earlier) => {
                Changed::Unmet(item.map(|item| Item::read(item, &options.layout)), earlier)
            }
        })
    }

    /// A page of a table's items: the first, or the one that begins at `from`.
    pub(super) fn scan(
        &mut self,
        purpose: Purpose,
        scan: &Scan<'_>,
        from: Option<Attributes>,
        by: Deadline,
    ) -> Result<Page> {
        let options = std::sync::Arc::clone(&self.options);
        let names = names(&options.layout, &[Some(scan.projection), scan.filter]);
        let values = given(&scan.values);
        let answer = self.ask(purpose, "cannot walk through the table", by, async |sdk| {
            sdk.scan()
                .table_name(&options.table)
                .projection_expression(scan.projection)
                .set_filter_expression(scan.filter.map(str::to_owned))
                .set_expression_attribute_names(names.clone())
                .set_expression_attribute_values(values.clone())
                .set_limit(scan.limit)
                .consistent_read(scan.consistent)
                .set_exclusive_start_key(from.clone())
                .return_consumed_capacity(ReturnConsumedCapacity::Total)
                .send()
                .await
        })?;
        let page = answer.done()?;
        Ok(Page {
            scanned: u64::try_from(page.scanned_count).unwrap_or(0),
            items: page.items.unwrap_or_default(),
            next: page.last_evaluated_key.filter(|key| !key.is_empty()),
        })
    }
}
