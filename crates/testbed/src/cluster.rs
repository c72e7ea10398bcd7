//! A real Redis Cluster: three masters, each with a replica where asked for.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::process::Process;
use crate::redis::{Reply, ask, certificates, launch};
use crate::{TempDir, free_port, wait_until};

/// How many hash slots a cluster has.
const SLOTS: usize = 16384;

/// How many masters there are.
const MASTERS: usize = 3;

/// How long a cluster may take to agree on something on a loaded machine.
const AGREED: Duration = Duration::from_secs(60);

/// The nodes of a cluster, masters first.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    scheme: &'static str,
    /// One slot is moved at a time: nodes that both take over slots may never agree on who has which.
    moving: Turns,
}

/// One server of a cluster.
#[derive(Debug)]
pub struct Node {
    id: String,
    /// The port without TLS.
    port: u16,
    tls: Option<u16>,
    arguments: Vec<String>,
    process: Mutex<Process>,
    frozen: AtomicBool,
    directory: TempDir,
}

/// A slot on its way from one node to another.
#[derive(Debug)]
pub struct Migration<'a> {
    slot: u16,
    from: &'a Node,
    to: &'a Node,
    cluster: &'a Cluster,
    _alone: Turn<'a>,
}

impl Cluster {
    /// Three masters.
    pub fn start() -> Cluster {
        Cluster::of("redis+cluster://", MASTERS, None, &[])
    }

    /// Three masters, and a replica of each.
    pub fn with_replicas() -> Cluster {
        Cluster::of("redis+cluster://", 2 * MASTERS, None, &["--repl-diskless-sync-delay", "0"])
    }

    /// Three masters with more command-line arguments each.
    pub fn with(arguments: &[&str]) -> Cluster {
        Cluster::of("redis+cluster://", MASTERS, None, arguments)
    }

    /// Three masters that speak TLS as `localhost` and as `127.0.0.1`; see [`Cluster::authority`].
    pub fn tls(arguments: &[&str]) -> Cluster {
        let shared = TempDir::new();
        certificates(&shared);
        let all = ["--tls-cluster", "yes", "--tls-auth-clients", "optional"];
        Cluster::of("rediss+cluster://", MASTERS, Some(&shared), &[&all, arguments].concat())
    }

    fn of(scheme: &'static str, count: usize, certified: Option<&TempDir>, arguments: &[&str]) -> Cluster {
        let plans: Vec<Plan> = (0..count).map(|_| Plan::new(certified)).collect();
        for index in 0..count {
            plans[index].directory.write("nodes.conf", nodes_conf(index, &plans));
        }
        let nodes = plans.into_iter().enumerate().map(|(index, plan)| Node::launch(index, plan, arguments));
        let cluster = Cluster { nodes: nodes.collect(), scheme, moving: Turns::default() };
        cluster.settled();
        cluster
    }

    /// Waits until every node that runs finds the cluster whole, and the replicas have everything.
    pub fn settled(&self) {
        let running: Vec<&Node> = self.nodes.iter().filter(|node| node.running()).collect();
        wait_until("the cluster is whole", AGREED, || {
            running.iter().all(|node| {
                let replicated = node.command(&["INFO", "replication"]);
                node.command(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
                    && (replicated.contains("role:master") || replicated.contains("master_link_status:up"))
            })
        });
    }

    /// Waits until every node that runs has the same view of who has which slots since when.
    pub fn agreed(&self) {
        let running: Vec<&Node> = self.nodes.iter().filter(|node| node.running()).collect();
        wait_until("the nodes agree", AGREED, || {
            let mut views = running.iter().map(|node| view(&node.command(&["CLUSTER", "NODES"])));
            let first = views.next();
            views.all(|view| Some(view) == first)
        });
    }

    /// As Cloakroom's users write it, with every node in it.
    pub fn url(&self) -> String {
        let addresses: Vec<String> = self.nodes.iter().map(Node::address).collect();
        format!("{}{}", self.scheme, addresses.join(","))
    }

    /// As the users of phpredis write it.
    pub fn native(&self) -> String {
        let seeds: Vec<String> = self.nodes.iter().map(|node| format!("seed[]={}", node.address())).collect();
        seeds.join("&")
    }

    /// The nodes, those first that began as masters.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Those that began as masters.
    pub fn masters(&self) -> &[Node] {
        &self.nodes[..MASTERS]
    }

    /// The authority that signed the certificate of the nodes.
    pub fn authority(&self) -> std::path::PathBuf {
        self.nodes[0].directory.join("ca.crt")
    }

    /// The slot of a key.
    pub fn slot(&self, key: &str) -> u16 {
        self.anyone().command(&["CLUSTER", "KEYSLOT", key]).parse().unwrap()
    }

    /// The master of a slot, as those that run see it.
    #[track_caller]
    pub fn owner(&self, slot: u16) -> &Node {
        let Reply::List(ranges) = self.anyone().reply(&[b"CLUSTER", b"SLOTS"]) else {
            panic!("no list of slots")
        };
        let holds = |range: &Reply| match range {
            Reply::List(parts) => match &parts[..] {
                [Reply::Number(first), Reply::Number(last), Reply::List(master), ..] => {
                    (*first..=*last).contains(&i64::from(slot)).then(|| master[2].to_string())
                }
                _ => None,
            },
            _ => None,
        };
        let id = ranges.iter().find_map(holds).unwrap_or_else(|| panic!("nobody has slot {slot}"));
        self.nodes.iter().find(|node| node.id == id).unwrap()
    }

    /// The master of a key.
    pub fn owner_of(&self, key: &str) -> &Node {
        self.owner(self.slot(key))
    }

    /// A master that does not have the key.
    pub fn other_than_owner_of(&self, key: &str) -> &Node {
        let owner = self.owner_of(key);
        self.masters().iter().find(|node| node.id != owner.id).unwrap()
    }

    /// The replica of a node.
    pub fn replica_of(&self, master: &Node) -> &Node {
        let index = self.nodes.iter().position(|node| node.id == master.id).unwrap();
        &self.nodes[index + MASTERS]
    }

    /// Every key, wherever it is.
    pub fn keys(&self) -> Vec<String> {
        let masters = self.nodes.iter().filter(|node| node.running() && node.is_master());
        let lists = masters.map(|node| node.reply(&[b"KEYS", b"*"]));
        lists.flat_map(|list| list.to_string().lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    /// Takes a node that is silent for this long for dead; a minute until this is called, since a machine that is busy
    /// is no server that is dead.
    pub fn node_timeout(&self, timeout: Duration) {
        let timeout = timeout.as_millis().to_string();
        for node in self.nodes.iter().filter(|node| node.running()) {
            assert_eq!(node.command(&["CONFIG", "SET", "cluster-node-timeout", &timeout]), "OK");
        }
    }

    /// Marks the slot as on its way; no key is moved yet.
    pub fn begin(&self, slot: u16, to: &Node) -> Migration<'_> {
        let alone = self.moving.take();
        let from = self.owner(slot);
        let to = self.nodes.iter().find(|node| node.id == to.id).unwrap();
        let set = |node: &Node, what: &str, other: &Node| {
            let set = node.command(&["CLUSTER", "SETSLOT", &slot.to_string(), what, &other.id]);
            assert_eq!(set, "OK");
        };
        set(to, "IMPORTING", from);
        set(from, "MIGRATING", to);
        Migration { slot, from, to, cluster: self, _alone: alone }
    }

    /// Moves the slot with all its keys.
    pub fn migrate(&self, slot: u16, to: &Node) {
        self.begin(slot, to).finish();
    }

    fn anyone(&self) -> &Node {
        self.nodes.iter().find(|node| node.running() && node.is_master()).expect("a master runs")
    }
}

/// Whose turn it is, first come, first served: who moves slots in a loop leaves a mutex to nobody.
#[derive(Debug, Default)]
struct Turns {
    /// How many have come, and how many have gone.
    state: Mutex<(u64, u64)>,
    changed: Condvar,
}

#[derive(Debug)]
struct Turn<'a>(&'a Turns);

impl Turns {
    fn take(&self) -> Turn<'_> {
        let mut state = self.lock();
        let mine = state.0;
        state.0 += 1;
        drop(self.changed.wait_while(state, |state| state.1 != mine));
        Turn(self)
    }

    fn lock(&self) -> MutexGuard<'_, (u64, u64)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.lock().1 += 1;
        self.0.changed.notify_all();
    }
}

impl Migration<'_> {
    /// Moves one key.
    #[track_caller]
    pub fn carry(&self, key: &str) {
        assert_eq!(self.moved(&[key.to_owned()]), "OK", "{key}");
    }

    /// Moves one of the keys that are left; the answer is false when none was.
    #[track_caller]
    pub fn carry_one(&self) -> bool {
        let left = self.from.command(&["CLUSTER", "GETKEYSINSLOT", &self.slot.to_string(), "1"]);
        if left.is_empty() {
            return false;
        }
        let answer = self.moved(&[left]);
        assert!(matches!(answer.as_str(), "OK" | "NOKEY"), "{answer}");
        true
    }

    /// Moves what is left, and gives the slot to its new node.
    #[track_caller]
    pub fn finish(self) {
        let slot = self.slot.to_string();
        // What is gone from there never comes back: a key that is not there is asked for at its new place.
        loop {
            let left = self.from.command(&["CLUSTER", "GETKEYSINSLOT", &slot, "10"]);
            let left: Vec<String> = left.lines().map(str::to_owned).collect();
            if left.is_empty() {
                break;
            }
            // A key that ended in between is no key to move.
            let answer = self.moved(&left);
            assert!(matches!(answer.as_str(), "OK" | "NOKEY"), "{answer}");
        }
        // The new node first, as redis-cli does it: the slot is nobody's at no time.
        let others = self.cluster.nodes.iter().filter(|node| node.running() && node.is_master());
        for node in [self.to, self.from].into_iter().chain(others) {
            assert_eq!(node.command(&["CLUSTER", "SETSLOT", &slot, "NODE", &self.to.id]), "OK");
        }
        self.cluster.agreed();
    }

    fn moved(&self, keys: &[String]) -> String {
        let port = self.to.tls.unwrap_or(self.to.port).to_string();
        let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000"];
        if let Some(password) = self.to.password() {
            words.extend(["AUTH", password]);
        }
        words.push("KEYS");
        words.extend(keys.iter().map(String::as_str));
        self.from.command(&words)
    }
}

/// Each node with its epoch and its slots, in the order of their names.
fn view(nodes: &str) -> Vec<String> {
    let mut view: Vec<String> = nodes
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            // The slots that are moved are shown by the two nodes alone.
            let slots: Vec<&str> = words[8..].iter().filter(|slot| !slot.starts_with('[')).copied().collect();
            format!("{} {} {slots:?}", words[0], words[6])
        })
        .collect();
    view.sort();
    view
}

/// What has to be known of all nodes before the first starts.
struct Plan {
    port: u16,
    tls: Option<u16>,
    bus: u16,
    directory: TempDir,
}

impl Plan {
    fn new(certified: Option<&TempDir>) -> Plan {
        // A node syncs its file of the nodes to the disk, and answers nobody meanwhile.
        let directory = TempDir::in_memory();
        for name in ["server.crt", "server.key", "ca.crt"] {
            if let Some(from) = certified {
                std::fs::copy(from.join(name), directory.join(name)).unwrap();
            }
        }
        Plan { port: free_port(), tls: certified.map(|_| free_port()), bus: free_port(), directory }
    }
}

fn id(index: usize) -> String {
    format!("{:040}", index + 1)
}

/// The nodes as one of them saves them: nothing has to be agreed upon.
fn nodes_conf(index: usize, plans: &[Plan]) -> String {
    let share = |index: usize| SLOTS * index / MASTERS;
    let line = |(at, other): (usize, &Plan)| {
        let myself = if at == index { "myself," } else { "" };
        let place = format!("127.0.0.1:{}@{}", other.tls.unwrap_or(other.port), other.bus);
        match at.checked_sub(MASTERS) {
            None => {
                let slots = format!("{}-{}", share(at), share(at + 1) - 1);
                format!("{} {place} {myself}master - 0 0 {} connected {slots}\n", id(at), at + 1)
            }
            Some(of) => format!("{} {place} {myself}slave {} 0 0 {} connected\n", id(at), id(of), of + 1),
        }
    };
    let lines: String = plans.iter().enumerate().map(line).collect();
    format!("{lines}vars currentEpoch 3 lastVoteEpoch 0\n")
}

impl Node {
    fn launch(index: usize, plan: Plan, arguments: &[&str]) -> Node {
        let mut all = vec!["--cluster-enabled".to_owned(), "yes".to_owned()];
        for (name, value) in [("--cluster-node-timeout", "60000"), ("--cluster-config-file", "nodes.conf")] {
            all.extend([name.to_owned(), value.to_owned()]);
        }
        all.extend(["--cluster-port".to_owned(), plan.bus.to_string()]);
        if let Some(port) = plan.tls {
            all.extend(["--tls-port".to_owned(), port.to_string()]);
            for (name, file) in [
                ("--tls-cert-file", "server.crt"),
                ("--tls-key-file", "server.key"),
                ("--tls-ca-cert-file", "ca.crt"),
            ] {
                all.extend([name.to_owned(), plan.directory.join(file).display().to_string()]);
            }
        }
        all.extend(arguments.iter().map(ToString::to_string));
        Node {
            id: id(index),
            port: plan.port,
            tls: plan.tls,
            process: Mutex::new(launch(plan.port, &all, plan.directory.path())),
            frozen: AtomicBool::new(false),
            arguments: all,
            directory: plan.directory,
        }
    }

    /// The name by which the cluster knows it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The port that clients are to use.
    pub fn port(&self) -> u16 {
        self.tls.unwrap_or(self.port)
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    /// Runs one command over a connection of its own, and answers what the node did.
    #[track_caller]
    pub fn command(&self, words: &[&str]) -> String {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        self.reply(&words).to_string()
    }

    /// The same for words and answers that may be any bytes.
    #[track_caller]
    pub fn reply(&self, words: &[&[u8]]) -> Reply {
        ask(self.port, self.password(), words).unwrap_or_else(|error| panic!("ask a node: {error}"))
    }

    fn password(&self) -> Option<&str> {
        let password = self.arguments.iter().position(|argument| argument == "--requirepass");
        password.map(|at| self.arguments[at + 1].as_str())
    }

    /// Whether it is a master.
    pub fn is_master(&self) -> bool {
        self.command(&["ROLE"]).starts_with("master")
    }

    fn running(&self) -> bool {
        !self.frozen.load(Ordering::SeqCst) && self.process.lock().unwrap().running()
    }

    /// Kills it (SIGKILL).
    pub fn kill(&self) {
        self.process.lock().unwrap().kill();
    }

    /// Starts it again where it was, without its data.
    pub fn restart(&self) {
        self.kill();
        let directory: &Path = self.directory.path();
        *self.process.lock().unwrap() = launch(self.port, &self.arguments, directory);
    }

    /// Stops it where it is (SIGSTOP).
    pub fn freeze(&self) {
        self.frozen.store(true, Ordering::SeqCst);
        self.process.lock().unwrap().freeze();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.lock().unwrap().thaw();
        self.frozen.store(false, Ordering::SeqCst);
    }
}
