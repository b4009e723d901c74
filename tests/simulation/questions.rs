//! The store behind the sessions: what it is asked and told, when it answers, and when it is away.

use oncegate::rules::lock::{Acquired, Admitted, Claim, Committed, ReleaseReason, Renewed, Reply, Request, Scope, Signal};
use oncegate::rules::outcome::{DeliveryDecision, PublishDecision};
use oncegate::rules::spec::{Mode, OnStoreError};
use oncegate::session::{DeliveryEvent, Event, PublishEvent, StoreSilent, Ticket};

use crate::connection::Drain;
use crate::shadow::{Count, Shadow};
use crate::world::World;

/// For how long a store is sure to remember a worker's word about a message that it does not know yet, in milliseconds.
const FORGOTTEN_MS: u64 = 9_000;

/// A question on its way.
pub struct Ask {
    pub ticket: u64,
    request: Request,
    /// The answer, once there is one; the store may stay silent.
    answer: Option<Result<Reply, StoreSilent>>,
    again: bool,
}

impl World {
    fn is_down(&self) -> bool {
        self.now.us < self.down_until_us
    }

    /// The store goes away now and then, for up to a second and a half: less than a rule waits, or more.
    pub fn outage(&mut self) {
        if self.plan.outages && !self.is_down() && self.random.per_mille(3) {
            self.down_until_us = self.now.us + 1_000 * (self.random.next() % 1_500);
        }
    }

    /// The store does something.
    pub fn store(&mut self, at: usize) -> bool {
        let down = self.is_down();
        while !down && let Some(request) = self.connections[at].tells.pop_front() {
            self.execute(&request);
            // Renewals come with time, not with moves: they take none, or they would crowd the questions out.
            if !matches!(request, Request::RenewLease { .. } | Request::Renew { .. }) {
                return true;
            }
        }
        let connection = &mut self.connections[at];
        if !connection.kept.is_empty() && self.random.percent(30) {
            let index = self.random.below(connection.kept.len());
            let mut ask = connection.kept.swap_remove(index);
            ask.answer = None;
            ask.again = true;
            connection.asks.push(ask);
            return true;
        }
        let open: Vec<usize> = (0..connection.asks.len())
            .filter(|index| connection.asks[*index].answer.is_none())
            .collect();
        if open.is_empty() {
            return false;
        }
        let index = open[self.random.below(open.len())];
        let silent = self.random.percent(self.plan.silent_percent);
        let answer = if down {
            Err(StoreSilent::Unreachable)
        } else if !silent {
            let request = self.connections[at].asks[index].request.clone();
            Ok(self.execute(&request))
        } else {
            if self.random.percent(50) {
                let request = self.connections[at].asks[index].request.clone();
                self.execute(&request);
            }
            Err(StoreSilent::Timeout)
        };
        self.connections[at].asks[index].answer = Some(answer);
        true
    }

    /// The store does as it is asked, and a duplicate has a holder that is there.
    fn execute(&mut self, request: &Request) -> Reply {
        let free = match request {
            Request::Admit { claim, .. } => self.memory.execute(&Request::Show { digest: claim.digest }) == Reply::Lock(None),
            _ => false,
        };
        let reply = self.memory.execute(request);
        match (request, &reply) {
            (Request::Acquire { claim, note, .. }, Reply::Acquire(Acquired::Held { holder, .. })) if !note.shadow => {
                let asks = &self.shadow.messages[Shadow::index(&claim.id)];
                let holds = &self.shadow.messages[Shadow::index(holder)];
                let same_rule = asks.rule == holds.rule || asks.rule.is_some_and(|rule| holds.admitted.contains(&rule));
                assert!(same_rule && asks.key == holds.key, "{} is held up by {holder}", claim.id);
                assert!(
                    holds.reached_the_broker(),
                    "{} is a duplicate of {holder}, which the broker does not have",
                    claim.id
                );
                assert!(
                    holds
                        .ended_ms()
                        .is_none_or(|ms| self.now.unix_ms <= ms + note.settle_grace_ms + 2 * note.lease_ms),
                    "{} is a duplicate of {holder}, whose lock has ended",
                    claim.id
                );
            }
            (Request::Commit { claim, .. }, Reply::Commit(Committed::Held)) => {
                let message = &mut self.shadow.messages[Shadow::index(&claim.id)];
                // A worker's word that came long before is forgotten.
                if message.count == Count::ByDelivery {
                    message.count = Count::Twice;
                }
                message.ended_ms = message.ended_ms.filter(|ms| self.now.unix_ms < ms + FORGOTTEN_MS);
            }
            (Request::Admit { claim, .. }, Reply::Admit(digest, Admitted::Holds)) => {
                self.holds(&Claim {
                    digest: *digest,
                    id: claim.id.clone(),
                });
                if free {
                    self.shadow.messages[Shadow::index(&claim.id)].count = Count::ByDelivery;
                }
            }
            (Request::Renew { claim, .. }, Reply::Renewed(Renewed::Retaken)) => self.holds(claim),
            (Request::Admit { claim, reentrant, .. }, Reply::Admit(digest, Admitted::Held { holder, .. })) => {
                assert!(!reentrant, "{} was delivered before and is a duplicate", claim.id);
                let holds = &self.shadow.messages[Shadow::index(holder)];
                assert_eq!(
                    self.shadow.messages[Shadow::index(&claim.id)].key,
                    holds.key,
                    "{} is held up by {holder}, {digest}",
                    claim.id
                );
                assert!(
                    holds.reached_the_broker(),
                    "{} is a duplicate of {holder}, which the broker does not have",
                    claim.id
                );
            }
            (Request::Signal { id, signal, .. }, _) => {
                let message = &mut self.shadow.messages[Shadow::index(id)];
                let rule = message.rule.unwrap_or(0);
                let mut rules = message.admitted.iter().chain(std::iter::once(&rule));
                if *signal != Signal::DeliveredNoAck || rules.all(|rule| self.scopes[*rule] == Scope::UntilStarted) {
                    message.ended_ms.get_or_insert(self.now.unix_ms);
                }
            }
            _ => {}
        }
        reply
    }

    /// A delivery holds its key: it is alive, whatever was heard of it before.
    fn holds(&mut self, claim: &Claim) {
        let (rule, key) = self.digests[&claim.digest];
        let message = &mut self.shadow.messages[Shadow::index(&claim.id)];
        assert_eq!(message.key, Some(key), "{} holds another key", claim.id);
        message.ended_ms = None;
        message.admitted.insert(rule);
        self.shadow.safe.insert((rule, key));
    }

    /// An answer of the store comes in.
    pub fn answer(&mut self, at: usize) -> bool {
        let connection = &mut self.connections[at];
        let ready: Vec<usize> = (0..connection.asks.len())
            .filter(|index| connection.asks[*index].answer.is_some())
            .collect();
        if ready.is_empty() {
            return false;
        }
        let ask = connection.asks.swap_remove(ready[self.random.below(ready.len())]);
        let answer = ask.answer.clone().unwrap_or(Err(StoreSilent::Timeout));
        let cancelled = connection.cancelled.contains(&ask.ticket);
        let Request::Acquire { claim, publish, note, .. } = &ask.request else {
            connection.session.handle_answer(Ticket(ask.ticket), answer, self.now);
            self.collect(at);
            return true;
        };
        let observed = note.shadow;
        let index = Shadow::index(&claim.id);
        let leased = matches!(answer, Ok(Reply::Acquire(Acquired::Leased { .. })));
        let held = matches!(answer, Ok(Reply::Acquire(Acquired::Held { .. })));
        if leased && !cancelled && !observed {
            self.shadow.messages[index].kept = true;
        }
        if cancelled
            && ask.again
            && matches!(
                answer,
                Ok(Reply::Acquire(
                    Acquired::Taken | Acquired::Replaces { .. } | Acquired::Reentry { .. }
                ))
            )
        {
            connection.tells.push_back(Request::Unpublish {
                claim: claim.clone(),
                publish: *publish,
                reason: ReleaseReason::Unconfirmed,
            });
        }
        if !leased || !ask.again {
            connection.session.handle_answer(Ticket(ask.ticket), answer, self.now);
        }
        if leased && !cancelled {
            connection.kept.push(ask);
        }
        self.collect(at);
        if held && !cancelled && !observed {
            let message = &self.shadow.messages[index];
            assert!(message.dropped || message.let_go, "m{index} is a duplicate and was not dropped");
        }
        true
    }

    /// Takes the questions and events out of a session.
    pub fn collect(&mut self, at: usize) {
        while self.noted < self.shadow.messages.len() {
            let owner = self.shadow.messages[self.noted].connection;
            self.connections[owner].unread.push_back(self.noted);
            self.noted += 1;
        }
        let connection = &mut self.connections[at];
        let (asks, tells) = connection.session.questions();
        let (asks, tells): (Vec<_>, Vec<_>) = (std::mem::take(asks), std::mem::take(tells));
        let in_force = connection.rules;
        for (ticket, request) in asks {
            self.asked(&request, in_force);
            self.connections[at].asks.push(Ask {
                ticket,
                request,
                answer: None,
                again: false,
            });
        }
        for request in &tells {
            self.told(request);
        }
        let connection = &mut self.connections[at];
        connection.tells.extend(tells);
        let mut forgotten = Vec::new();
        for ticket in connection.session.cancelled().drain(..) {
            connection.kept.retain(|ask| ask.ticket != ticket.0);
            connection.cancelled.insert(ticket.0);
            // It reaches the store before all that comes of the delivery, or never.
            let of_delivery = |ask: &mut Ask| ask.ticket == ticket.0 && matches!(ask.request, Request::Admit { .. });
            forgotten.extend(connection.asks.extract_if(.., of_delivery));
        }
        let events = std::mem::take(connection.session.events());
        connection.session.take_counts();
        if !connection.session.wants(oncegate::session::Side::Client) {
            self.shadow.deliveries.over.insert(at);
            connection.to_client.stop();
        }
        for ask in forgotten {
            if ask.answer.is_none() && self.random.percent(50) {
                self.execute(&ask.request);
            }
        }
        for event in events {
            match event {
                Event::Publish(event) => self.decided(&event),
                Event::Admission(event) => self.admitted(&event),
                _ => {}
            }
        }
        if self.connections[at].drain == Drain::Begun {
            // At this moment the client is told to go, if it is.
            self.connections[at].take_output_to_client(&mut self.shadow);
        }
    }

    /// A claim is of one rule set: the one in force when its publish was complete.
    fn asked(&mut self, request: &Request, in_force: usize) {
        let (Request::Acquire { claim, note, .. } | Request::Admit { claim, note, .. }) = request else {
            panic!("neither a publish nor a delivery");
        };
        if let Request::Admit { .. } = request {
            return self.asked_of_delivery(claim, &note.rule, in_force);
        }
        let message = &mut self.shadow.messages[Shadow::index(&claim.id)];
        if message.rule.is_none() {
            message.rule = Some(in_force);
            message.asked_us = self.now.us;
        }
        let rule = message.rule.expect("set above");
        let Some(key) = message.key else {
            panic!("{} has no key and is asked about", claim.id);
        };
        assert_eq!(
            (&*note.rule, note.scope, note.shadow),
            (&*format!("r{rule}"), self.scopes[rule], self.shadow.observes[rule]),
            "{} was decided by two rule sets",
            claim.id
        );
        let known = self.digests.insert(claim.digest, (rule, key));
        assert!(
            known.is_none_or(|known| known == (rule, key)),
            "{} has the digest of another key or rule set",
            claim.id
        );
    }

    /// A delivery is of the rule set that is in force where it is consumed.
    fn asked_of_delivery(&mut self, claim: &Claim, rule: &str, in_force: usize) {
        let Some(key) = self.shadow.messages[Shadow::index(&claim.id)].key else {
            panic!("{} has no key and is asked about", claim.id);
        };
        let set: usize = rule.strip_prefix('r').and_then(|set| set.parse().ok()).expect("a rule of ours");
        assert!(!self.shadow.observes[set], "{} is asked about for a rule that observes", claim.id);
        if *rule == *format!("r{in_force}") {
            let known = self.digests.entry(claim.digest).or_insert((in_force, key));
            assert_eq!(known.1, key, "{} has the digest of another key", claim.id);
        }
    }

    fn admitted(&mut self, event: &DeliveryEvent) {
        assert!(
            matches!(
                event.decision,
                DeliveryDecision::Forwarded | DeliveryDecision::Dropped | DeliveryDecision::ForwardedUnchecked
            ),
            "{} was {:?}",
            event.id,
            event.decision
        );
        if event.decision == DeliveryDecision::Dropped {
            let (rule, _) = self.digests[&event.digest];
            let holder = event.holder.as_deref().expect("the holder of its key");
            self.shadow.dropped_late(&event.id, holder, rule);
        }
    }

    fn told(&mut self, request: &Request) {
        match request {
            Request::Commit { claim, note, .. } | Request::RenewLease { claim, note, .. } => {
                let rule = self.shadow.messages[Shadow::index(&claim.id)].rule.expect("it was asked about");
                assert_eq!(*note.rule, *format!("r{rule}"), "{} was decided by two rule sets", claim.id);
            }
            Request::Signal { id, .. } => self.shadow.signalled(id),
            _ => {}
        }
    }

    /// A decision is of the rule set that asked, and says why as that rule wants it.
    fn decided(&mut self, event: &PublishEvent) {
        let message = &mut self.shadow.messages[Shadow::index(&event.id)];
        let rule = message.rule.expect("it was asked about");
        assert_eq!(*event.rule.name, *format!("r{rule}"), "{} was decided by two rule sets", event.id);
        let spec = &self.plan.rules[rule];
        if spec.mode == Mode::Observe {
            return;
        }
        match event.decision {
            PublishDecision::Dropped => self.shadow.dropped(&event.id),
            PublishDecision::Rejected => {
                assert!(
                    spec.on_store_error == OnStoreError::Reject,
                    "{} was rejected, and its rule says otherwise",
                    event.id
                );
                self.shadow.rejected(&event.id);
            }
            PublishDecision::ForwardedUnchecked => {
                let waited = self.now.us - message.asked_us;
                let fits = match event.reason {
                    "memory" | "channel_closing" | "tx_select" => true,
                    "store_wait" => spec.on_store_error != OnStoreError::Forward && u128::from(waited) >= spec.store_wait.as_micros(),
                    _ => spec.on_store_error == OnStoreError::Forward,
                };
                assert!(fits, "{} was let go after {waited} us: {}", event.id, event.reason);
                message.let_go = true;
            }
            _ => {}
        }
    }
}
