//! What a session costs on the wire, counted by a proxy between PHP and the server.

// A test stops at the first thing that is not as expected.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod place;

use place::{Place, script};
use testbed::need::Need;
use testbed::proxy::Proxy;
use testbed::suite::{self, Case, case};

fn main() {
    let costs: [(&str, &str, usize); 9] = [
        (
            "a_changed_session_costs_two_exchanges",
            "session_start(); $_SESSION['n']++; session_write_close();",
            2,
        ),
        ("an_unchanged_session_costs_two_exchanges", "session_start(); session_write_close();", 2),
        (
            "a_new_session_costs_two_exchanges",
            "session_id('new'); session_start(); session_write_close();",
            2,
        ),
        ("read_and_close_costs_one_exchange", "session_start(['read_and_close' => true]);", 1),
        (
            "a_changed_session_in_strict_mode_costs_two_exchanges",
            "ini_set('session.use_strict_mode', 1); session_start(); $_SESSION['n']++; session_write_close();",
            2,
        ),
        (
            "read_and_close_in_strict_mode_costs_one_exchange",
            "ini_set('session.use_strict_mode', 1); session_start(['read_and_close' => true]);",
            1,
        ),
        ("an_aborted_session_costs_two_exchanges", "session_start(); session_abort();", 2),
        ("a_destroyed_session_costs_two_exchanges", "session_start(); session_destroy();", 2),
        (
            "a_regenerated_id_costs_two_exchanges_more",
            "session_start(); session_regenerate_id(true); session_write_close();",
            4,
        ),
    ];
    let cases: Vec<Case> = costs
        .into_iter()
        .map(|(name, code, cost)| {
            case(format!("redis: {name}"), &[Need::Php, Need::Redis], move || costs_exchanges(code, cost))
        })
        .collect();
    suite::run(cases)
}

fn costs_exchanges(code: &str, cost: usize) {
    let place = Place::redis();
    let Place::Redis(server) = &place else { unreachable!("it was just made") };
    let proxy = Proxy::to(server.address());
    let save_path = format!("tcp://{}", proxy.address());
    // The server learns the scripts from the first session it ever sees.
    script(&save_path, "session_id(ID); session_start(); $_SESSION['n'] = 1; session_write_close();")
        .run()
        .ok();
    proxy.reset_counts();
    let said = script(
        &save_path,
        &format!(
            "$_SESSION = []; session_id(ID); {code}
            echo cloakroom_status()['exchanges'];"
        ),
    );
    assert_eq!(said.run().ok(), cost.to_string(), "by our own count");
    assert_eq!(proxy.exchanges(), cost, "on the wire: {:#?}", proxy.requests());
    assert_eq!(proxy.connections(), 1);
}
