//! A real DynamoDB of two makes, and what it takes to look into it.
//!
//! Neither checks a signature nor throttles; [`Proxy`] does the latter, and what else AWS does on a bad day.

mod proxy;
mod tls;

use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};

use crate::http::Browser;
use crate::process::Process;
use crate::{START, TempDir, free_port, need, php, wait_until};

pub use proxy::{Fault, Proxy, Seen};
pub use tls::Tls;

/// Whose DynamoDB it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// dynalite, in JavaScript, where `tools/dynamodb` puts it. Without time to live and transactions.
    Dynalite,
    /// AWS's own DynamoDBLocal, where `tools/dynamodb` puts it. It deletes what has expired within some 10 seconds, and
    /// refuses empty strings, which AWS does no longer.
    Local,
}

impl Program {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Program::Dynalite => "dynalite",
            Program::Local => "DynamoDBLocal",
        }
    }

    /// The file that is run.
    pub(crate) fn path(self) -> PathBuf {
        php::workspace().join("target/engines").join(match self {
            Program::Dynalite => "dynalite/node_modules/dynalite/cli.js",
            Program::Local => "dynamodb-local/DynamoDBLocal.jar",
        })
    }
}

/// A DynamoDB on a loopback port, with its tables in memory.
#[derive(Debug)]
pub struct Engine {
    program: Program,
    port: u16,
    process: Mutex<Process>,
    directory: TempDir,
}

impl Engine {
    /// A dynalite.
    pub fn dynalite() -> Engine {
        Engine::of(Program::Dynalite)
    }

    /// A DynamoDBLocal.
    pub fn local() -> Engine {
        Engine::of(Program::Local)
    }

    /// A dynalite that takes so long to create and to delete a table, as AWS does.
    pub fn slow_dynalite(create: Duration, delete: Duration) -> Engine {
        Engine::with(Program::Dynalite, create, delete)
    }

    /// Of either make.
    pub fn of(program: Program) -> Engine {
        Engine::with(program, Duration::ZERO, Duration::ZERO)
    }

    fn with(program: Program, create: Duration, delete: Duration) -> Engine {
        let (port, directory) = (free_port(), TempDir::new());
        let process = Mutex::new(launch(program, port, &directory, [create, delete]));
        Engine { program, port, process, directory }
    }

    /// One for all cases of this process, each with a table of its own.
    pub fn shared(program: Program) -> &'static Engine {
        static DYNALITE: OnceLock<Engine> = OnceLock::new();
        static LOCAL: OnceLock<Engine> = OnceLock::new();
        let engine = match program {
            Program::Dynalite => &DYNALITE,
            Program::Local => &LOCAL,
        };
        engine.get_or_init(|| Engine::of(program))
    }

    /// Whose it is.
    pub fn program(&self) -> Program {
        self.program
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Has an operation done (`GetItem`); see [`call`].
    #[track_caller]
    pub fn call(&self, operation: &str, request: &Value) -> Value {
        call(&self.endpoint(), operation, request)
            .unwrap_or_else(|refusal| panic!("{operation} {request}: {refusal}"))
    }

    /// Creates a table whose items are found by one string, and waits until it can be used.
    #[track_caller]
    pub fn create_table(&self, name: &str, hash_key: &str) -> Table {
        let request = json!({
            "TableName": name,
            "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [{"AttributeName": hash_key, "AttributeType": "S"}],
            "KeySchema": [{"AttributeName": hash_key, "KeyType": "HASH"}],
        });
        self.call("CreateTable", &request);
        let table = Table { endpoint: self.endpoint(), name: name.into(), hash_key: hash_key.into() };
        wait_until("the table is active", START, || {
            table.call("DescribeTable", json!({}))["Table"]["TableStatus"] == "ACTIVE"
        });
        table
    }

    /// Kills it; its tables are lost.
    pub fn kill(&self) {
        self.process.lock().unwrap().kill();
    }

    /// Kills it and starts one without tables on the same port.
    pub fn restart(&self) {
        let mut process = self.process.lock().unwrap();
        process.kill();
        *process = launch(self.program, self.port, &self.directory, [Duration::ZERO; 2]);
    }

    /// Stops it where it is (SIGSTOP).
    pub fn freeze(&self) {
        self.process.lock().unwrap().freeze();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.lock().unwrap().thaw();
    }
}

/// A table, looked into behind the back of who uses it. Items are as DynamoDB writes them: `{"id": {"S": "a"}}`.
#[derive(Debug, Clone)]
pub struct Table {
    endpoint: String,
    name: String,
    hash_key: String,
}

impl Table {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Puts an item, in place of what was there.
    #[track_caller]
    pub fn put(&self, item: Value) {
        self.call("PutItem", json!({"Item": item}));
    }

    /// The item of this key.
    #[track_caller]
    pub fn get(&self, key: &str) -> Option<Value> {
        let mut answer = self.call("GetItem", json!({"Key": self.key(key), "ConsistentRead": true}));
        answer.get_mut("Item").map(Value::take)
    }

    /// Removes the item of this key, if there is one.
    #[track_caller]
    pub fn delete(&self, key: &str) {
        self.call("DeleteItem", json!({"Key": self.key(key)}));
    }

    /// Changes an item, or makes it: `SET #expires = :expires`, whose `#` names stand for the attributes of that name.
    #[track_caller]
    pub fn update(&self, key: &str, expression: &str, values: Value) {
        let word = |text: &str| {
            text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default().to_owned()
        };
        let names: serde_json::Map<String, Value> =
            expression.split('#').skip(1).map(word).map(|name| (format!("#{name}"), name.into())).collect();
        let mut request = json!({"Key": self.key(key), "UpdateExpression": expression});
        for (field, map) in
            [("ExpressionAttributeNames", names.into()), ("ExpressionAttributeValues", values)]
        {
            if map != json!({}) {
                request[field] = map;
            }
        }
        self.call("UpdateItem", request);
    }

    /// All items, in no order.
    #[track_caller]
    pub fn scan(&self) -> Vec<Value> {
        let (mut items, mut request) = (Vec::new(), json!({"ConsistentRead": true}));
        loop {
            let mut answer = self.call("Scan", request.clone());
            items.append(answer["Items"].as_array_mut().expect("a list of items"));
            match answer.get_mut("LastEvaluatedKey") {
                Some(key) => request["ExclusiveStartKey"] = key.take(),
                None => return items,
            }
        }
    }

    /// Has items deleted some time after the moment in this attribute.
    #[track_caller]
    pub fn expire_by(&self, attribute: &str) {
        let specification = json!({"AttributeName": attribute, "Enabled": true});
        self.call("UpdateTimeToLive", json!({"TimeToLiveSpecification": specification}));
    }

    /// Has an operation done on this table.
    #[track_caller]
    pub fn call(&self, operation: &str, mut request: Value) -> Value {
        request["TableName"] = self.name.as_str().into();
        call(&self.endpoint, operation, &request)
            .unwrap_or_else(|refusal| panic!("{operation} {request}: {refusal}"))
    }

    fn key(&self, key: &str) -> Value {
        json!({&self.hash_key: {"S": key}})
    }
}

/// A PHP file whose `SdkSessionHandler::at($endpoint, $config)->register()` does what the AWS SDK's handler does on the wire.
pub fn sdk_handler() -> PathBuf {
    php::workspace().join("crates/testbed/php/dynamodb_session_handler.php")
}

/// What DynamoDB says instead of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// 400, 500, ...; 0 where there was no answer.
    pub status: u16,
    /// The part of `__type` that says it: `ResourceNotFoundException`.
    pub kind: String,
    /// Its words.
    pub message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { status, kind, message } = self;
        write!(f, "{status} {kind}: {message}")
    }
}

/// Has an operation done by whoever is at this endpoint. The request is signed by nobody, which the engines do not check.
///
/// # Errors
/// What the engine refuses it with, or that it cannot be reached.
pub fn call(endpoint: &str, operation: &str, request: &Value) -> Result<Value, Refusal> {
    let mut browser = Browser::at(endpoint)
        .header("Content-Type", "application/x-amz-json-1.0")
        .header("X-Amz-Target", &format!("{VERSION}{operation}"))
        .header("X-Amz-Date", "20260101T000000Z")
        .header(
            "Authorization",
            "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/dynamodb/aws4_request, \
             SignedHeaders=host, Signature=none",
        );
    let unreached = |error: &dyn fmt::Display| Refusal {
        status: 0,
        kind: "unreached".into(),
        message: error.to_string(),
    };
    let response = browser.send("POST", "/", &request.to_string()).map_err(|error| unreached(&error))?;
    let answer: Value = serde_json::from_str(&response.body).unwrap_or(Value::Null);
    if response.status == 200 {
        return Ok(answer);
    }
    let text = |names: [&str; 2]| {
        let value = names.into_iter().find_map(|name| answer[name].as_str());
        value.unwrap_or(&response.body).to_owned()
    };
    let kind = text(["__type", "__type"]);
    let kind = kind.rsplit_once('#').map_or(kind.as_str(), |(_, kind)| kind).to_owned();
    Err(Refusal { status: response.status, kind, message: text(["message", "Message"]) })
}

/// What every operation's name starts with, in `X-Amz-Target`.
const VERSION: &str = "DynamoDB_20120810.";

fn launch(program: Program, port: u16, directory: &TempDir, [create, delete]: [Duration; 2]) -> Process {
    let path = program.path();
    let mut command = match program {
        Program::Dynalite => {
            let mut command = Command::new(need::find("node").expect("node is installed"));
            command.arg(path).args(["--host", "127.0.0.1", "--port", &port.to_string()]);
            let [create, delete] = [create, delete].map(|time| time.as_millis().to_string());
            command.args(["--createTableMs", &create, "--deleteTableMs", &delete, "--updateTableMs", "0"]);
            command
        }
        Program::Local => {
            let mut command = Command::new(need::find("java").expect("java is installed"));
            let libraries = path.with_file_name("DynamoDBLocal_lib").display().to_string();
            // A server for a few seconds: it is not worth compiling it well.
            command.args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]);
            command.args([format!("-Dport={port}"), format!("-Djava.library.path={libraries}")]);
            command.args(["-cp", &format!("{}:{libraries}/*", path.display())]);
            command.arg("org.eclipse.jetty.xml.XmlConfiguration");
            command.arg(php::workspace().join("crates/testbed/src/dynamodb/local.xml"));
            command
        }
    };
    let process = Process::start(command.current_dir(directory.path()), directory.path(), program.name());
    let endpoint = format!("http://127.0.0.1:{port}");
    // Java starts in a second, and on a machine that does much else in half a minute.
    wait_until(&format!("{} answers", program.name()), 4 * START, || {
        assert!(process.running(), "{} ended\n{}", program.name(), process.log());
        call(&endpoint, "ListTables", &json!({})).is_ok()
    });
    process
}
