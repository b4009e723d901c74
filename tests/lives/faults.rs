//! What goes wrong, and when.

use oncegate::rules::lock::Signal;

use crate::link::Order;
use crate::plan::Fault;
use crate::world::World;

impl World {
    /// Something goes wrong, if it is time.
    pub fn fault(&mut self) {
        if self.plan.faults.is_empty() || !self.active() || self.now.unix_ms < self.next_fault_ms {
            return;
        }
        self.next_fault_ms = self.now.unix_ms + self.random.next() % (2 * self.plan.fault_every_ms);
        let fault = self.plan.faults[self.random.below(self.plan.faults.len())];
        let worker = self.random.below(self.workers.len());
        match fault {
            Fault::ProxyKilled => self.kill_proxy(),
            Fault::WorkerKilled => self.worker_dies(worker),
            Fault::WorkerDetached => self.worker_detaches(worker),
            Fault::WorkerLeaves => self.worker_is_asked_to_leave(worker),
            Fault::BrokerDrops => self.drop_link(),
            Fault::ProducerGone => {
                let index = self.random.below(self.producers.len());
                self.producer_vanishes(index);
            }
            Fault::StoreAway => {
                let ms = 500 + self.random.next() % 8_000;
                self.facts.note_all(format!("the store is away for {ms} ms"));
                self.store_goes(ms);
            }
            Fault::StoreEmptied => {
                let ms = 100 + self.random.next() % 3_000;
                self.store_goes(ms);
                self.empty_store();
            }
            Fault::Revoke => self.revoke(),
            Fault::Purge => {
                let queue = if self.random.percent(50) { "even" } else { "odd" };
                let index = self.random.below(self.producers.len());
                self.purge_through(index, queue);
            }
        }
    }

    /// A proxy is killed. What it has written arrives, or a part of it.
    fn kill_proxy(&mut self) {
        let proxy = self.random.below(self.plan.proxies);
        self.facts.note_all(format!("proxy {proxy} is killed"));
        let links: Vec<usize> = self
            .links
            .iter()
            .filter(|(_, link)| link.proxy == proxy)
            .map(|(at, _)| *at)
            .collect();
        for at in links {
            let executed = self.random.below(self.links[&at].orders.len() + 1);
            for _ in 0..if self.is_down(proxy) { 0 } else { executed } {
                let order = self.links.get_mut(&at).and_then(|link| link.orders.pop_front());
                if let Some((_, Order::Ask(_, request) | Order::Tell(request))) = order {
                    self.execute(&request);
                }
            }
            self.forget_orders(at);
            self.break_link(at);
            let Some(link) = self.links.remove(&at) else { continue };
            for task in link.published {
                // What it was to tell of the broker's word, it did not.
                self.facts.tasks[task].untold = true;
            }
        }
        self.heard.retain(|heard| heard.proxy != proxy);
        self.follower_dies(proxy);
        self.joiner_dies(proxy);
    }

    /// Both ends of a connection find it gone; what was written to the broker may arrive.
    fn break_link(&mut self, at: usize) {
        let arrives = self.random.percent(50);
        if let Some(link) = self.links.get_mut(&at)
            && arrives
            && link.broker.open
        {
            let bytes = std::mem::take(&mut link.to_broker.bytes);
            for unit in link.broker.reader.feed(&bytes) {
                self.broker_reads(at, &unit);
            }
        }
        self.broker_loses(at);
        self.client_loses(at);
    }

    /// The broker drops a connection: what was on its way there is lost, and perhaps what was on its way back.
    fn drop_link(&mut self) {
        let open: Vec<usize> = self.links.iter().filter(|(_, link)| link.broker.open).map(|(at, _)| *at).collect();
        if open.is_empty() {
            return;
        }
        let at = open[self.random.below(open.len())];
        self.facts.note_all(format!("the broker drops link {at}"));
        self.broker_loses(at);
        let arrives = self.random.percent(50);
        if let Some(link) = self.links.get_mut(&at) {
            if !arrives {
                link.from_broker.bytes.clear();
            }
            let published = link.published.clone();
            for task in published {
                self.facts.tasks[task].unconfirmed = true;
            }
        }
    }

    /// Somebody revokes a task: all proxies' workers hear it, and so does the proxy it passes.
    fn revoke(&mut self) {
        if self.facts.tasks.is_empty() {
            return;
        }
        let recent = self.facts.tasks.len().min(6);
        let task = self.facts.tasks.len() - 1 - self.random.below(recent);
        let terminate = self.random.percent(50);
        self.facts.tasks[task].revoked = true;
        self.facts.note(task, format!("is revoked, its run ended: {terminate}"));
        self.hears(task, Signal::RevokeAsked, "", 300);
        self.workers_hear_revoke(task, terminate);
    }
}
