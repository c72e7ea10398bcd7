//! The DynamoDB store where it differs from the others: its items beside those of AWS's own session handler, its locks and
//! who waits for them, and what is seen of both.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod credentials;
mod docs;
#[path = "../documented/mod.rs"]
mod documented;
mod expiry;
mod faults;
mod locks;
mod looking;
mod native;
mod refusals;
mod service;
mod storm;
mod versions;
mod wire;
#[path = "../worker/mod.rs"]
mod worker;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cloakroom::{Settings, Store};
use testbed::dynamodb::{Engine, Program, Proxy, Table};
use testbed::need::Need;
use testbed::suite::{Case, case};

/// How long something may take that happens at once on an idle machine.
const LIMIT: Duration = Duration::from_secs(30);

const DYNALITE: &[Need] = &[Need::Dynalite];
const LOCAL: &[Need] = &[Need::DynamoDbLocal];

fn main() {
    worker::become_worker();
    let cases = [
        native::cases(),
        locks::cases(),
        looking::cases(),
        versions::cases(),
        expiry::cases(),
        wire::cases(),
        faults::cases(),
        storm::cases(),
        refusals::cases(),
        credentials::cases(),
        docs::cases(),
    ];
    testbed::suite::run(cases.into_iter().flatten().collect())
}

/// A table of its own for one case, of an engine that all cases share.
struct Sessions {
    engine: &'static Engine,
    table: Table,
    save_path: String,
}

impl Sessions {
    fn on(program: Program) -> Sessions {
        static CASES: AtomicU32 = AtomicU32::new(0);
        let engine = Engine::shared(program);
        let table = engine.create_table(&format!("case{}", CASES.fetch_add(1, Ordering::Relaxed)), "id");
        let save_path = save_path(&table, &engine.endpoint());
        Sessions { engine, table, save_path }
    }

    /// The store of one more worker.
    fn worker(&self) -> Box<dyn Store> {
        store(&self.save_path)
    }

    /// The same behind a proxy.
    fn worker_behind(&self, proxy: &Proxy) -> Box<dyn Store> {
        store(&save_path(&self.table, &proxy.endpoint()))
    }

    fn worker_with(&self, settings: Settings) -> Box<dyn Store> {
        worker::store_with(&self.save_path, settings)
    }

    /// The same with more options: `&break_after=0`.
    fn worker_of(&self, options: &str) -> Box<dyn Store> {
        store(&format!("{}{options}", self.save_path))
    }
}

/// The same, behind a proxy that counts and fails.
struct Proxied {
    proxy: Proxy,
    table: Table,
    save_path: String,
    /// Past the proxy.
    direct: String,
}

impl Proxied {
    fn on(program: Program) -> Proxied {
        let Sessions { engine, table, save_path } = Sessions::on(program);
        let proxy = Proxy::to(engine);
        let through = save_path.replace(&engine.endpoint(), &proxy.endpoint());
        Proxied { proxy, table, save_path: through, direct: save_path }
    }

    /// The store of one more worker.
    fn worker(&self) -> Box<dyn Store> {
        store(&self.save_path)
    }

    fn worker_with(&self, settings: Settings) -> Box<dyn Store> {
        worker::store_with(&self.save_path, settings)
    }
}

/// A case behind a proxy before dynalite.
fn proxied(name: &str, run: fn(&Proxied)) -> Case {
    case(name, DYNALITE, move || run(&Proxied::on(Program::Dynalite)))
}

fn save_path(table: &Table, endpoint: &str) -> String {
    format!("dynamodb://key:secret@local/{}?endpoint={endpoint}", table.name())
}

/// Those of who has the time: what is counted must not be asked again, nor a lease end, because the machine stood still.
fn patient() -> Settings {
    Settings { connect_timeout: LIMIT, timeout: LIMIT, lease: 4 * LIMIT, ..Settings::default() }
}

/// A new worker's store.
fn store(save_path: &str) -> Box<dyn Store> {
    worker::store_with(save_path, patient())
}

/// A lease that is soon over.
fn short() -> Settings {
    Settings { lease: Duration::from_secs(1), ..patient() }
}

/// The service's time, in seconds since 1970.
fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap()
}

/// A case on dynalite, which is quick.
fn quick(name: &str, run: fn(&Sessions)) -> Case {
    case(name, DYNALITE, move || run(&Sessions::on(Program::Dynalite)))
}

/// A case that may depend on the engine: one on each.
fn both(name: &str, run: fn(&Sessions)) -> [Case; 2] {
    [
        case(format!("dynalite: {name}"), DYNALITE, move || run(&Sessions::on(Program::Dynalite))),
        case(format!("AWS's own engine: {name}"), LOCAL, move || run(&Sessions::on(Program::Local))),
    ]
}

/// The key of a session.
fn key(session: &str) -> String {
    format!("PHPSESSID_{session}")
}
