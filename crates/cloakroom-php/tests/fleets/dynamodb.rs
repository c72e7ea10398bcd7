//! Fleets on DynamoDB.

use std::time::Duration;

use testbed::need::Need;
use testbed::suite::{Case, case};

use crate::journal::{Journal, Load};
use crate::place::{Place, Sessions, item_key};

pub(crate) fn cases() -> Vec<Case> {
    let needs = &[Need::Php, Need::Dynalite];
    vec![
        case(
            "dynamodb: half_of_them_awss_handler_lose_no_update_and_leave_no_lock",
            needs,
            half_of_them_awss_handler,
        ),
        case("dynamodb: it_loses_no_update_and_resurrects_nothing", needs, ours_alone),
    ]
}

const KEEPING: Load = Load { destroy: false, longest: Duration::from_millis(2) };
const DESTROYING: Load = Load { destroy: true, ..KEEPING };

fn half_of_them_awss_handler() {
    let place = Place::dynamodb();
    let is_ours = |worker: u64| worker.is_multiple_of(2);
    let journal = Journal::of(KEEPING, |worker, code| match is_ours(worker) {
        true => place.script(code).ini("cloakroom.lock_wait", "60"),
        // Nobody has to wait for as long as it waits.
        false => sessions(&place).awss_handler(code, "'locking' => true"),
    });
    journal.refused_nothing_to(is_ours);
    check(&journal, &place);
}

fn ours_alone() {
    let place = Place::dynamodb();
    let journal = Journal::of(DESTROYING, |_, code| {
        place.script(code).ini("cloakroom.lock_wait", "60").ini("session.use_strict_mode", "1")
    });
    journal.refused_nothing_to(|_| true);
    assert!(journal.destroyed_some());
    check(&journal, &place);
}

fn check(journal: &Journal, place: &Place) {
    let lost = journal.lost(|id| {
        let item = sessions(place).table.get(&item_key(id))?;
        Some(item["data"]["S"].as_str().expect("a session").to_owned())
    });
    assert_eq!(lost.len(), 0);
    for item in sessions(place).table.scan() {
        assert!(item.get("lock").is_none(), "a lock is left: {item}");
        assert!(item.get("expires").is_some(), "it would stay for ever: {item}");
    }
}

fn sessions(place: &Place) -> &Sessions {
    let Place::DynamoDb(sessions) = place else { unreachable!("it is for DynamoDB") };
    sessions
}
