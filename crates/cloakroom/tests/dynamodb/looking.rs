//! What is seen of sessions, and what is there.

use testbed::suite::Case;

use crate::worker::{id, put};
use crate::{Sessions, both, key};

pub(crate) fn cases() -> Vec<Case> {
    both("a_session_is_one_item_of_the_native_handler_s_shape", native_shape).into()
}

fn native_shape(sessions: &Sessions) {
    put(sessions.worker().as_mut(), &id("abc"), b"n|i:1;");
    let items = sessions.table.scan();
    let [item] = &items[..] else { panic!("{items:?}") };
    let names: Vec<&str> = item.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ["data", "expires", "id"]);
    assert_eq!((&item["id"]["S"], &item["data"]["S"]), (&key("abc").into(), &"n|i:1;".into()));
    assert!(item["expires"]["N"].is_string(), "{item}");
}
