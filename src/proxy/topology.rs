//! What all connections have seen of the exchanges, queues and bindings of each virtual host.
//!
//! A worker declares and binds on its own connection, and producers publish on others, on other threads. Each virtual host has one
//! immutable picture; a change makes the next one, which shares what stays. A connection takes the picture when it reads, and only if a
//! rule asks for queues.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use crate::session::Session;
use crate::session::topology::{Applied, Change, Topology};

/// The most queues of one connection that are forgotten when it ends.
const PASSING_MAX: usize = 10_000;

/// What is known of every virtual host.
#[derive(Debug, Default)]
pub struct Topologies {
    vhosts: Mutex<HashMap<Arc<str>, Arc<Vhost>>>,
}

/// One virtual host.
#[derive(Debug, Default)]
struct Vhost {
    picture: ArcSwap<Topology>,
    writer: Mutex<Writer>,
}

/// What only those who make the next picture need.
#[derive(Debug, Default)]
struct Writer {
    /// How many connections have declared a queue that the broker takes away by itself.
    passing: HashMap<Arc<str>, usize>,
    told_full: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Topologies {
    fn vhost(&self, name: &Arc<str>) -> Arc<Vhost> {
        Arc::clone(lock(&self.vhosts).entry(Arc::clone(name)).or_default())
    }
}

impl Vhost {
    fn learn(&self, name: &str, changes: Vec<Change>, passing: &mut HashSet<Arc<str>>) {
        let mut writer = lock(&self.writer);
        let mut next = Topology::clone(&self.picture.load());
        let mut changed = false;
        for change in changes {
            if let Change::PassingQueue(queue) = &change
                && passing.len() < PASSING_MAX
                && passing.insert(Arc::clone(queue))
            {
                *writer.passing.entry(Arc::clone(queue)).or_default() += 1;
            }
            match next.apply(&change) {
                Applied::New => changed = true,
                Applied::Known => {}
                Applied::Full if writer.told_full => {}
                Applied::Full => {
                    writer.told_full = true;
                    tracing::warn!(
                        vhost = name,
                        bindings = next.len(),
                        limit = Topology::MAX,
                        "too many bindings and exchanges to remember: rules with a queue matcher do not match what goes over further ones"
                    );
                }
            }
        }
        if changed {
            self.picture.store(Arc::new(next));
        }
    }

    /// A connection has ended: queues that it was the last to have declared go with it.
    fn left(&self, passing: HashSet<Arc<str>>) {
        let mut writer = lock(&self.writer);
        let mut next = Topology::clone(&self.picture.load());
        let mut changed = false;
        for queue in passing {
            let count = writer.passing.get_mut(&queue);
            if let Some(count) = count.filter(|count| **count > 1) {
                *count -= 1;
                continue;
            }
            writer.passing.remove(&queue);
            changed |= next.apply(&Change::NoQueue(queue)) == Applied::New;
        }
        if changed {
            self.picture.store(Arc::new(next));
        }
    }
}

/// One connection's eye on its virtual host.
#[derive(Debug)]
pub struct View {
    topologies: Arc<Topologies>,
    vhost: Option<Arc<Vhost>>,
    shown: Option<Arc<Topology>>,
    /// The queues that this connection has declared and the broker takes away by itself.
    passing: HashSet<Arc<str>>,
}

impl Drop for View {
    fn drop(&mut self) {
        if let Some(vhost) = self.vhost.take().filter(|_| !self.passing.is_empty()) {
            vhost.left(std::mem::take(&mut self.passing));
        }
    }
}

impl View {
    /// The view of a connection that has not opened a virtual host yet.
    pub fn new(topologies: &Arc<Topologies>) -> View {
        View {
            topologies: Arc::clone(topologies),
            vhost: None,
            shown: None,
            passing: HashSet::new(),
        }
    }

    fn vhost(&mut self, session: &Session) -> &Arc<Vhost> {
        self.vhost.get_or_insert_with(|| self.topologies.vhost(session.vhost()))
    }

    /// Shows the session what is known now, if its rules ask for it. To be called before it reads a publish.
    pub fn show(&mut self, session: &mut Session) {
        if !session.wants_topology() {
            return;
        }
        let picture = self.vhost(session).picture.load();
        if self.shown.as_ref().is_none_or(|shown| !Arc::ptr_eq(shown, &picture)) {
            let picture = Arc::clone(&picture);
            session.handle_topology(Arc::clone(&picture));
            self.shown = Some(picture);
        }
    }

    /// Takes what the session has done. To be called before anything is written: who has read an answer finds that all know of it.
    pub fn note(&mut self, session: &mut Session) {
        if session.changes().is_empty() {
            return;
        }
        let changes = std::mem::take(session.changes());
        let vhost = Arc::clone(self.vhost(session));
        vhost.learn(session.vhost(), changes, &mut self.passing);
    }
}
