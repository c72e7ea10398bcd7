//! What a request's session work costs on DynamoDB, which bills each request by the size of the item: counted by the engine,
//! for Cloakroom and for the twin that the tests have of AWS's own handler. AWS's network is not here, so nothing is timed.

use serde_json::{Value, json};
use testbed::dynamodb::{Engine, Proxy};
use testbed::need::Need;
use testbed::php::{Script, workspace};

/// The session: an item of 3 KB, names and all.
const STORED: &str = "$_SESSION = ['n' => 0, 'user' => str_repeat('x', 2900)]; session_write_close();";

/// What a request does with it.
const KINDS: [(&str, &str); 3] = [
    ("changed", "session_start(); $_SESSION['n']++; session_write_close();"),
    ("unchanged", "session_start(); session_write_close();"),
    ("read_and_close", "session_start(['read_and_close' => true]);"),
];

/// Beside the handlers of [`crate::contender`], which are timed.
const HANDLERS: [(&str, &str); 4] = [
    ("cloakroom_dynamodb", "cloakroom on DynamoDB"),
    ("cloakroom_dynamodb_unlocked", "cloakroom on DynamoDB, lock=off"),
    ("aws_locked", "AWS's handler, locking (a twin)"),
    ("aws", "AWS's handler (a twin)"),
];

/// Nothing where there is no dynalite.
pub(crate) fn run() -> Vec<Value> {
    if let Some(missing) = Need::Dynalite.missing() {
        println!("without DynamoDB: {missing} is missing; tools/dynamodb fetches it");
        return Vec::new();
    }
    let engine = Engine::dynalite();
    engine.create_table("bench", "id");
    let proxy = Proxy::to(&engine);
    let row = |(key, label): (&str, &str)| {
        let mut row = json!({"contender": key, "label": label});
        for (kind, code) in KINDS {
            script(key, &proxy, &format!("session_start(); {STORED}")).run().ok();
            proxy.reset_counts();
            let said = script(key, &proxy, &format!("{code} tell();")).run().ok();
            let units: Value =
                serde_json::from_str(&said).unwrap_or_else(|_| panic!("{label} said {said:?}"));
            row[kind] =
                json!({"requests": proxy.seen().len(), "read": units["read"], "write": units["write"]});
        }
        row
    };
    HANDLERS.into_iter().map(row).collect()
}

fn script(key: &str, proxy: &Proxy, code: &str) -> Script {
    let handler = workspace().join("crates/testbed/php/dynamodb_session_handler.php");
    let endpoint = proxy.endpoint();
    let locking = key == "aws_locked";
    let start = match key.starts_with("cloakroom") {
        true => "function tell() {
            $units = cloakroom_status()['units'];
            fwrite(STDOUT, json_encode(['read' => array_sum(array_column($units, 'read')),
                'write' => array_sum(array_column($units, 'write'))]));
        }"
        .to_owned(),
        false => format!(
            "require '{}';
            SdkSessionHandler::at('{endpoint}', ['table_name' => 'bench', 'locking' => {locking}])->register();
            SdkSessionHandler::$billed = [];
            function tell() {{
                $of = fn($operation) => SdkSessionHandler::$billed[$operation][1] ?? 0;
                fwrite(STDOUT, json_encode(['read' => $of('GetItem'), 'write' => $of('UpdateItem') + $of('DeleteItem')]));
            }}",
            handler.display()
        ),
    };
    let script = Script::new(format!("{start}\nsession_id('bench0{}');\n{code}", key.replace('_', "-")))
        .ini("session.use_cookies", 0)
        .ini("session.cache_limiter", "");
    if !key.starts_with("cloakroom") {
        return script;
    }
    script
        .cloakroom()
        .ini("session.save_handler", "cloakroom")
        .ini("session.save_path", format!("dynamodb://test:test@eu-west-1/bench?endpoint={endpoint}"))
        .ini("cloakroom.lock", if key.ends_with("unlocked") { "off" } else { "on" })
}
