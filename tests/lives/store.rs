//! The store behind the sessions: what it is asked and told, when, and what workers' events tell it.

use oncegate::rules::lock::{Acquired, Admitted, Digest, LockRecord, LockState, Nonce, ReleaseReason, Reply, Request, Signal};
use oncegate::rules::source::Source;
use oncegate::session::StoreSilent;

use crate::facts::Facts;
use crate::link::{Answer, Kept, Link, Order};
use crate::newest::without_outlived;
use crate::world::World;

/// Something that a proxy has heard and will tell the store.
pub struct Heard {
    pub due_us: u64,
    pub proxy: usize,
    pub request: Request,
}

/// Whom a request is about, and which key it names.
fn about(request: &Request) -> Option<(usize, Option<Digest>)> {
    match request {
        Request::Acquire { claim, .. }
        | Request::Commit { claim, .. }
        | Request::RenewLease { claim, .. }
        | Request::Unpublish { claim, .. }
        | Request::Admit { claim, .. }
        | Request::Renew { claim, .. }
        | Request::Run { claim, .. }
        | Request::RenewRun { claim, .. }
        | Request::Republished { claim, .. }
        | Request::Join { claim, .. }
        | Request::LeaveRun { claim, .. } => Some((Facts::index(&claim.id), Some(claim.digest))),
        Request::Signal { id, .. } => Some((Facts::index(id), None)),
        _ => None,
    }
}

/// A request in a few words.
fn brief(request: &Request) -> String {
    match request {
        Request::Acquire { reentrant, .. } => format!("Acquire{}", if *reentrant { " (again)" } else { "" }),
        Request::Commit { .. } => "Commit".into(),
        Request::RenewLease { .. } => "RenewLease".into(),
        Request::Unpublish { reason, .. } => format!("Unpublish {reason:?}"),
        Request::Admit { reentrant, .. } => format!("Admit{}", if *reentrant { " (again)" } else { "" }),
        Request::Renew { .. } => "Renew".into(),
        Request::Signal { signal, worker, .. } => format!("Signal {signal:?} {worker}"),
        Request::Run { delivery, busy, .. } => format!("Run {:x} {busy:?}", delivery.0),
        Request::RenewRun { delivery, .. } => format!("RenewRun {:x}", delivery.0),
        Request::Republished { retries, .. } => format!("Republished {retries}"),
        Request::LeaveRun { delivery, .. } => format!("LeaveRun {:x}", delivery.0),
        other => format!("{other:?}"),
    }
}

impl World {
    /// Whether this proxy does not reach the store.
    pub fn is_down(&self, proxy: usize) -> bool {
        self.now.us < self.down_until_us || self.proxies_down[proxy].is_some_and(|us| self.now.us < us)
    }

    /// Nobody reaches the store for a while, some proxies for longer.
    pub fn store_goes(&mut self, ms: u64) {
        self.down_until_us = self.now.us + 1_000 * ms;
        self.runs_wait_until(self.now.unix_ms + ms);
        for proxy in 0..self.plan.proxies {
            let more_us = 1_000 * (self.random.next() % 1_500);
            self.proxies_down[proxy] = Some(self.down_until_us + more_us);
        }
    }

    /// Proxies that reach the store again renew all that they know to be alive.
    pub fn store_comes_back(&mut self) {
        for proxy in 0..self.plan.proxies {
            if self.proxies_down[proxy].is_none_or(|us| self.now.us < us) {
                continue;
            }
            self.proxies_down[proxy] = None;
            self.facts.note_all(format!("proxy {proxy} reaches the store again"));
            self.follower_renews_all(proxy);
            let back_us = self.now.us;
            for link in self.links.values_mut().filter(|link| link.proxy == proxy) {
                link.store_back_us = Some(back_us + 1_000 * (self.random.next() % 200));
            }
        }
        let due = |link: &Link| link.store_back_us.is_some_and(|us| us <= self.now.us);
        let back: Vec<usize> = self.links.iter().filter(|(_, link)| due(link)).map(|(at, _)| *at).collect();
        for at in back {
            if let Some(link) = self.links.get_mut(&at) {
                link.store_back_us = None;
                link.session.handle_store_back(self.now);
            }
            self.collect(at);
        }
    }

    /// The store does the oldest that a connection wants of it. While it is away it refuses questions, and orders wait.
    pub fn serve(&mut self, at: usize) {
        let Some(proxy) = self.links.get(&at).map(|link| link.proxy) else {
            return;
        };
        let down = self.is_down(proxy);
        let silent = self.random.percent(self.plan.silent_percent);
        let executed = !silent || self.random.percent(50);
        let Some(link) = self.links.get_mut(&at) else { return };
        if down {
            // Without a connection renewals are not kept.
            let renewal = |order: &Order| matches!(order, Order::Tell(Request::Renew { .. } | Request::RenewRun { .. }));
            link.orders.retain(|(_, order)| !renewal(order));
        }
        let question = link.orders.iter().position(|(_, order)| matches!(order, Order::Ask(..)));
        let Some(order) = link.orders.remove(if down { question.unwrap_or(usize::MAX) } else { 0 }) else {
            return;
        };
        match order.1 {
            Order::Tell(request) => {
                self.follower_hears(proxy, &request);
                self.gives_up(at, &request);
                let reply = self.execute(&request);
                self.told(proxy, &request, &reply);
            }
            Order::Ask(ticket, request) => {
                if link.cancelled.contains(&ticket) && matches!(request, Request::Admit { .. }) {
                    return;
                }
                let answer = if down {
                    Err(StoreSilent::Unreachable)
                } else {
                    let reply = executed.then(|| self.execute(&request));
                    self.let_through(at, &request, reply.as_ref());
                    reply.filter(|_| !silent).ok_or(StoreSilent::Timeout)
                };
                self.answered(at, ticket, request, answer);
            }
        }
    }

    fn answered(&mut self, at: usize, ticket: u64, request: Request, answer: Answer) {
        let now = self.now;
        let Some(link) = self.links.get_mut(&at) else { return };
        if let Ok(Reply::Acquire(Acquired::Leased { .. })) = &answer
            && !link.cancelled.contains(&ticket)
        {
            link.kept.push(Kept {
                ticket,
                request,
                again_us: now.us + 100_000,
            });
        }
        link.answers.push_back((now.us, ticket, answer));
    }

    /// Asks again for what found its key leased.
    pub fn ask_again(&mut self, at: usize) {
        let now = self.now;
        let Some(down) = self.links.get(&at).map(|link| self.is_down(link.proxy)) else {
            return;
        };
        let Some(link) = self.links.get_mut(&at) else { return };
        let Some(index) = link.kept.iter().position(|kept| kept.again_us <= now.us) else {
            return;
        };
        if down {
            link.kept[index].again_us = now.us + 200_000;
            return;
        }
        let request = link.kept[index].request.clone();
        let reply = self.execute(&request);
        let Some(link) = self.links.get_mut(&at) else { return };
        if let Reply::Acquire(Acquired::Leased { .. }) = reply {
            link.kept[index].again_us = now.us + 200_000;
        } else {
            let kept = link.kept.remove(index);
            link.answers.push_back((now.us, kept.ticket, Ok(reply)));
        }
    }

    pub fn show(&self, digest: Digest) -> Option<LockRecord> {
        match self.memory.execute(&Request::Show { digest }) {
            Reply::Lock(lock) => lock.map(|lock| *lock),
            other => panic!("{other:?} is no answer to that"),
        }
    }

    /// The store does as it is asked, and each step of it is judged.
    pub fn execute(&mut self, request: &Request) -> Reply {
        let Some((task, digest)) = about(request) else {
            return self.memory.execute(request);
        };
        let mut digest = digest.or(self.facts.tasks[task].digest);
        let before = digest.and_then(|digest| self.show(digest));
        let run_before = digest.and_then(|digest| self.judge_run_lapse(digest));
        let reply = self.memory.execute(request);
        if let Reply::Admit(found, _) = &reply {
            digest = Some(*found);
        }
        self.facts.note(task, format!("{} → {}", brief(request), brief_reply(&reply)));
        let Some(digest) = digest else { return reply };
        self.facts.tasks[task].digest = Some(digest);
        let after = self.show(digest);
        self.dropped_by_store(task, request, &reply);
        self.carried_step(task, request, &reply, before.as_ref(), after.as_ref());
        self.judge_replace_step(task, digest, request, &reply, before.as_ref(), after.as_ref());
        self.judge_newer(task, &reply);
        let told = without_outlived(&reply);
        self.judge_step(task, digest, request, told.as_ref().unwrap_or(&reply), before.as_ref(), after);
        self.judge_run_step(task, digest, request, told.as_ref().unwrap_or(&reply), run_before.as_ref());
        self.follower_answered(request, &reply);
        reply
    }

    /// A worker's event is on its way: it comes soon or late, once, twice or never, and through any proxy.
    pub fn tells(&mut self, task: usize, signal: Signal, worker: &str) {
        let times = match () {
            () if self.random.percent(self.plan.lost_percent) => 0,
            () if self.random.percent(self.plan.doubled_percent) => 2,
            () => 1,
        };
        for _ in 0..times {
            let late_ms = if self.random.percent(20) { 6_000 } else { 400 };
            self.hears(task, signal, worker, late_ms);
        }
    }

    /// A proxy hears something of a task.
    pub fn hears(&mut self, task: usize, signal: Signal, worker: &str, late_ms: u64) {
        let nonce = self.random.next();
        let heard = Heard {
            due_us: self.now.us + 1_000 * (self.random.next() % late_ms),
            proxy: self.random.below(self.plan.proxies),
            request: Request::Signal {
                id: self.facts.tasks[task].id.clone(),
                settlement: Nonce(if signal == Signal::Orphaned { 0 } else { nonce }),
                signal,
                source: source_of(signal),
                worker: worker.into(),
            },
        };
        self.heard.push(heard);
    }

    /// The store is told what is due.
    pub fn tell_heard(&mut self) {
        let is_due = |world: &World, heard: &Heard| heard.due_us <= world.now.us && !world.is_down(heard.proxy);
        while let Some(index) = self.heard.iter().position(|heard| is_due(self, heard)) {
            let heard = self.heard.remove(index);
            self.follower_hears(heard.proxy, &heard.request);
            self.execute(&heard.request);
        }
    }

    /// What this request would have told is lost.
    pub fn lost(&mut self, request: &Request) {
        if let Some((task, _)) = about(request) {
            self.facts.tasks[task].untold = true;
            self.facts.note(task, format!("lost: {}", brief(request)));
        }
    }

    /// The locks that were taken before this time by messages in a queue that was purged.
    pub fn scan_purged(&mut self, queue: &str, before_ms: u64) {
        for lock in self.present_locks() {
            let task = Facts::index(&lock.holder);
            if &*lock.queue == queue && lock.state == LockState::Queued && lock.since_ms < before_ms {
                self.hears(task, Signal::Purged, "", 300);
            } else {
                self.facts.tasks[task].passed_over = true;
            }
        }
    }
}

/// Who is heard to say so.
fn source_of(signal: Signal) -> Source {
    match signal {
        Signal::Orphaned | Signal::Purged | Signal::RevokeAsked => Source::Other,
        _ => Source::Events,
    }
}

/// Names a reply in a few words.
fn brief_reply(reply: &Reply) -> String {
    match reply {
        Reply::Acquire(Acquired::Held { holder, state, .. }) | Reply::Admit(_, Admitted::Held { holder, state, .. }) => {
            format!("held by {holder} ({state:?})")
        }
        Reply::Acquire(other) => format!("{other:?}"),
        Reply::Admit(_, other) => format!("{other:?}"),
        Reply::Released(freed) => {
            let reasons: Vec<ReleaseReason> = freed.iter().map(|freed| freed.reason).collect();
            format!("freed {reasons:?}")
        }
        other => format!("{other:?}"),
    }
}
