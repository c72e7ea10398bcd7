//! A Redis Cluster: which node has a session, and what to do when it is another one now.
//!
//! | when | what goes on the wire |
//! |---|---|
//! | at the first use, after a `MOVED`, and when a node fails | `CLUSTER SLOTS`, to a node that answers |
//! | `MOVED` | what it answers, and all that follows in the same write, again to the node that it names |
//! | `ASK` | `ASKING` and the command to the node that it names; what follows in the same write again to the owner |
//! | `TRYAGAIN`, `CLUSTERDOWN`, `LOADING`, a connection that is cut or refused | the same again after 1 to 20 ms, until the deadline |
//!
//! Only the masters of the sessions in use are connected, and whoever is asked for the slots. Where `CLUSTER SLOTS` is
//! refused, `MOVED` alone shows the way.
//!
//! # While a slot is moved
//! Each key is in one place at any time, and a command with one key finds it. A script may touch what is in one place:
//! see [`Scope`](super::scripts::Scope).

mod slots;

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::Value;

use super::keys::Keys;
use super::options::Endpoint;
use super::reach::Attempts;
use super::reply::{Redirection, Refusal};
use super::wire::{Client, Failure, Opening, Request, error_on, one, refused};
use crate::net::{Address, Dialer, Tls};
use crate::{Counters, Deadline, Error, ErrorKind, Result, Settings};

pub(super) use slots::hash_tag;
use slots::{Node, Slots, slot};

/// How often one exchange is sent elsewhere before it waits for the nodes to agree.
const HOPS: u32 = 5;

/// What to do when a node asks to try at another one, for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asking {
    /// To try there.
    Follow,
    /// To do without: a script would find there, or make, a part of what it works on.
    Refuse,
}

/// The way to the nodes of a cluster.
pub(super) struct Cluster {
    /// What holds for every node.
    endpoint: Arc<Endpoint>,
    settings: Settings,
    tls: Option<Arc<Tls>>,
    /// The nodes that the URL names.
    seeds: Arc<[Node]>,
    slots: Arc<Slots>,
    /// Whether the slots have to be asked for.
    stale: bool,
    /// Whether nodes tell who has which slot.
    told: bool,
    clients: Vec<(Node, Client)>,
    /// Who failed last, and is asked last.
    silent: Option<Node>,
    /// What was done over connections that are closed.
    closed: Counters,
    /// How often a node failed.
    losses: u64,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cluster({}, {:?})", self.endpoint.shown, self.counters())
    }
}

impl Cluster {
    pub(super) fn new(
        endpoint: Arc<Endpoint>,
        seeds: &[Address],
        tls: Option<Arc<Tls>>,
        settings: Settings,
    ) -> Self {
        let seeds = seeds.iter().filter_map(Node::at).collect();
        Cluster {
            endpoint,
            settings,
            tls,
            seeds,
            slots: Arc::default(),
            stale: true,
            told: true,
            clients: Vec::new(),
            silent: None,
            closed: Counters::default(),
            losses: 0,
        }
    }

    /// Another way to the same nodes, for another thread.
    pub(super) fn another(&self) -> Cluster {
        Cluster {
            endpoint: Arc::clone(&self.endpoint),
            settings: self.settings.clone(),
            tls: self.tls.clone(),
            seeds: Arc::clone(&self.seeds),
            slots: Arc::clone(&self.slots),
            stale: self.stale,
            told: self.told,
            clients: Vec::new(),
            silent: None,
            closed: Counters::default(),
            losses: 0,
        }
    }

    pub(super) fn counters(&self) -> Counters {
        self.clients.iter().fold(self.closed, |sum, (_, client)| sum + client.counters())
    }

    /// One exchange about a session, wherever it is, within the time limit of one at each node.
    pub(super) fn ask_patiently(
        &mut self,
        keys: &Keys,
        request: &Request,
        opening: Opening,
        asking: Asking,
        longer: Duration,
        by: Deadline,
    ) -> Result<Vec<Value>, Failure> {
        let slot = slot(&keys.session);
        if self.stale && self.told {
            self.learn(by)?;
        }
        let mut node = self.owner(slot)?;
        let mut replies = Vec::with_capacity(request.len());
        let mut rest = Cow::Borrowed(request);
        for _ in 0..HOPS {
            let mut answers = self.at(&node, |client| client.ask_patiently(&rest, opening, longer, by))?;
            let Some((index, redirection)) = redirected(&answers) else {
                replies.append(&mut answers);
                return Ok(replies);
            };
            if matches!(redirection, Redirection::Ask { .. }) && asking == Asking::Refuse {
                replies.append(&mut answers);
                return Ok(replies);
            }
            // Those behind it may have been carried out, with the node's eyes: they are asked again in order.
            replies.extend(answers.drain(..index));
            rest = Cow::Owned(rest.from(index));
            match redirection {
                Redirection::Moved { slot, host, port } => {
                    node = node.or_at(&host, port);
                    Arc::make_mut(&mut self.slots).give(slot, node.clone());
                    self.stale = true;
                }
                Redirection::Ask { host, port, .. } => {
                    let there = node.or_at(&host, port);
                    let first = rest.first().after(Request::of(&[b"ASKING"]));
                    let answers =
                        self.at(&there, |client| client.ask_patiently(&first, opening, longer, by))?;
                    // A refused ASKING is followed by what the command is refused with.
                    let answers: Vec<Value> = answers.into_iter().skip(1).collect();
                    if redirected(&answers).is_some() {
                        // It has come or gone meanwhile.
                        continue;
                    }
                    rest = Cow::Owned(rest.from(answers.len()));
                    replies.extend(answers);
                    if rest.len() == 0 {
                        return Ok(replies);
                    }
                }
            }
        }
        Err(Failure::Failed(
            self.locate(
                Error::new(ErrorKind::Unreachable, "the nodes do not agree which of them has the session")
                    .hint("compare CLUSTER NODES of all nodes (redis-cli --cluster check)"),
            ),
        ))
    }

    /// Whether another attempt makes sense after this failure; who has which slot is known anew then.
    pub(super) fn heal(&mut self, attempts: &mut Attempts, failure: &Failure, by: Deadline) -> bool {
        let passes = failure.passes(Refusal::passes_in_cluster);
        self.stale |= passes;
        if !passes || failure.is_unanswered() || !attempts.pause(by) {
            return false;
        }
        self.closed.retries += 1;
        if !self.told {
            // Whoever else is asked says where the session is.
            self.slots = Arc::default();
        }
        !self.told || self.learn(by).is_ok()
    }

    pub(super) fn look_alive(&mut self, keys: &Keys) {
        let Some(node) = self.slots.owner(slot(&keys.session)) else { return };
        if let Some((_, client)) = self.clients.iter_mut().find(|(known, _)| known == node) {
            client.look_alive();
        }
    }

    pub(super) fn look_around(&mut self) {
        for (_, client) in &mut self.clients {
            client.look_around();
        }
    }

    /// The masters: together they have all sessions.
    pub(super) fn masters(&mut self, by: Deadline) -> Result<Vec<&mut Client>> {
        let learned = self.learn(by);
        learned.map_err(|failure| self.error(failure))?;
        let masters = self.slots.masters();
        // Those that MOVED has named may not be all.
        if !self.told {
            return Err(self.locate(
                Error::new(ErrorKind::Unsupported, "the cluster does not tell which nodes it has")
                    .hint("allow CLUSTER SLOTS to the server's user (+cluster|slots)"),
            ));
        }
        for node in &masters {
            self.client(node);
        }
        let all = self.clients.iter_mut().filter(|(node, _)| masters.contains(node));
        Ok(all.map(|(_, client)| client).collect())
    }

    /// How often a node failed.
    pub(super) fn losses(&self) -> u64 {
        self.losses
    }

    /// The nodes that were asked something.
    pub(super) fn known(&mut self) -> Vec<&mut Client> {
        self.clients.iter_mut().map(|(_, client)| client).collect()
    }

    /// Ends a request; see [`Client::rest`].
    pub(super) fn rest(&mut self, by: Deadline) {
        for (_, client) in &mut self.clients {
            client.rest(by);
        }
    }

    /// The failure as the user's error.
    pub(super) fn error(&self, failure: Failure) -> Error {
        error_on(&self.endpoint, failure)
    }

    /// The error with the store's name.
    pub(super) fn locate(&self, error: Error) -> Error {
        error.on(self.endpoint.shown.as_str())
    }

    /// Asks for the slots, until a node tells.
    fn learn(&mut self, by: Deadline) -> Result<(), Failure> {
        let request = Request::of(&[b"CLUSTER", b"SLOTS"]);
        let mut last = None;
        for node in self.candidates() {
            match self.at(&node, |client| client.ask(&request, Opening::WithRequest, by).and_then(one)) {
                Ok(answer) => {
                    let Some(slots) = Slots::told(&answer, &node) else { continue };
                    self.slots = Arc::new(slots);
                    self.stale = false;
                    self.forget();
                    return Ok(());
                }
                Err(Failure::Refused(refusal)) if refusal.forbidden() => {
                    self.told = false;
                    return Ok(());
                }
                Err(Failure::Refused(refusal)) if !refusal.passes_in_cluster() => {
                    return Err(Failure::Refused(refusal));
                }
                Err(Failure::Failed(error))
                    if !matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Timeout) =>
                {
                    return Err(Failure::Failed(error));
                }
                Err(failure) => last = Some(failure),
            }
            if by.passed() {
                break;
            }
        }
        Err(last.unwrap_or_else(|| {
            let error = Error::new(ErrorKind::Unreachable, "no node of the cluster has slots");
            Failure::Failed(self.locate(error.hint("create the cluster (redis-cli --cluster create)")))
        }))
    }

    /// Whom to ask for the slots: those who are connected first, whoever failed last.
    fn candidates(&self) -> Vec<Node> {
        let connected = self.clients.iter().map(|(node, _)| node);
        let mut all: Vec<Node> = Vec::new();
        for node in connected.chain(self.slots.nodes()).chain(self.seeds.iter()) {
            if !all.contains(node) {
                all.push(node.clone());
            }
        }
        if let Some(silent) =
            self.silent.as_ref().and_then(|silent| all.iter().position(|node| node == silent))
        {
            let silent = all.remove(silent);
            all.push(silent);
        }
        all
    }

    /// The master of a slot, or whoever can tell.
    fn owner(&self, slot: u16) -> Result<Node, Failure> {
        let known = self.slots.owner(slot).cloned().or_else(|| self.candidates().into_iter().next());
        known.ok_or_else(|| {
            Failure::Failed(Error::new(ErrorKind::Bug, "the URL of the cluster names no node"))
        })
    }

    /// Does something at a node, and says in its failure which one it was.
    fn at<T>(
        &mut self,
        node: &Node,
        exchange: impl FnOnce(&mut Client) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let done = exchange(self.client(node));
        match done {
            Ok(done) => {
                if self.silent.as_ref() == Some(node) {
                    self.silent = None;
                }
                Ok(done)
            }
            Err(Failure::Refused(refusal)) => Err(Failure::Refused(refusal)),
            Err(failure) => {
                self.silent = Some(node.clone());
                self.losses += 1;
                Err(match failure {
                    Failure::Cut(error) => {
                        Failure::Cut(io::Error::new(error.kind(), format!("{node}: {error}")))
                    }
                    Failure::Failed(error) => Failure::Failed(self.client(node).locate(error)),
                    refused @ Failure::Refused(_) => refused,
                })
            }
        }
    }

    fn client(&mut self, node: &Node) -> &mut Client {
        let index = match self.clients.iter().position(|(known, _)| known == node) {
            Some(index) => index,
            None => {
                let dialer = Arc::new(Dialer::new(node.address(), self.tls.clone()));
                let shown = format!("{} at {node}", self.endpoint.shown);
                let endpoint = Arc::new(Endpoint { shown, ..Endpoint::clone(&self.endpoint) });
                let client = Client::new(endpoint, dialer, &self.settings);
                self.clients.push((node.clone(), client));
                self.clients.len() - 1
            }
        };
        &mut self.clients[index].1
    }

    /// Closes the connections to nodes that have left, and to seeds that are known by another name.
    fn forget(&mut self) {
        let slots = Arc::clone(&self.slots);
        let mut closed = self.closed;
        self.clients.retain(|(node, client)| {
            let stays = slots.nodes().any(|known| known == node);
            if !stays {
                closed = closed + client.counters();
            }
            stays
        });
        self.closed = closed;
    }
}

/// The first of the answers that is at another node.
fn redirected(answers: &[Value]) -> Option<(usize, Redirection)> {
    let of = |refusal: Refusal| refusal.redirection();
    answers.iter().enumerate().find_map(|(index, answer)| Some((index, refused(answer).and_then(of)?)))
}
