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
        for change in &changes {
            if let Change::PassingQueue(queue) = change
                && passing.len() < PASSING_MAX
                && passing.insert(Arc::clone(queue))
            {
                *writer.passing.entry(Arc::clone(queue)).or_default() += 1;
            }
        }
        self.draw(&mut writer, name, changes);
    }

    /// A connection has ended: queues that it was the last to have declared go with it.
    fn left(&self, name: &str, passing: HashSet<Arc<str>>) {
        let mut writer = lock(&self.writer);
        let mut gone = Vec::new();
        for queue in passing {
            match writer.passing.get_mut(&queue) {
                Some(count) if *count > 1 => *count -= 1,
                _ => {
                    writer.passing.remove(&queue);
                    gone.push(Change::NoQueue(queue));
                }
            }
        }
        self.draw(&mut writer, name, gone);
    }

    /// Makes the next picture. The lock of the writer keeps others from making one of the same.
    fn draw(&self, writer: &mut Writer, name: &str, changes: Vec<Change>) {
        let mut next = Topology::clone(&self.picture.load());
        let mut differs = false;
        for change in changes {
            match next.apply(&change) {
                Applied::New => differs = true,
                Applied::Known => {}
                Applied::Full if writer.told_full => {}
                Applied::Full => {
                    writer.told_full = true;
                    tracing::warn!(
                        vhost = name,
                        limit = Topology::MAX,
                        "too many bindings to remember: a rule with a queue matcher does not match what goes over further ones"
                    );
                }
            }
        }
        if differs {
            self.picture.store(Arc::new(next));
        }
    }
}

/// One connection's eye on its virtual host.
#[derive(Debug)]
pub struct View {
    topologies: Arc<Topologies>,
    vhost: Option<(Arc<str>, Arc<Vhost>)>,
    shown: Option<Arc<Topology>>,
    /// The queues that this connection has declared and the broker takes away by itself.
    passing: HashSet<Arc<str>>,
}

impl Drop for View {
    fn drop(&mut self) {
        if let Some((name, vhost)) = self.vhost.take().filter(|_| !self.passing.is_empty()) {
            vhost.left(&name, std::mem::take(&mut self.passing));
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

    /// The virtual host, which is open when the session has something to say or to ask.
    fn vhost(&mut self, session: &Session) -> &(Arc<str>, Arc<Vhost>) {
        self.vhost.get_or_insert_with(|| {
            let name = Arc::clone(session.vhost());
            let vhost = self.topologies.vhost(&name);
            (name, vhost)
        })
    }

    /// Shows the session what is known now, if its rules ask for it. To be called before it reads a publish.
    pub fn show(&mut self, session: &mut Session) {
        if !session.wants_topology() {
            return;
        }
        let picture = self.vhost(session).1.picture.load();
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
        let (name, vhost) = self.vhost(session).clone();
        vhost.learn(&name, changes, &mut self.passing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::topology::{Arguments, Binding, Destination, Kind};

    fn bind(queue: &str) -> Change {
        let binding = Binding {
            source: Arc::from(&b"e"[..]),
            routing_key: Arc::from(&b"k"[..]),
            destination: Destination::Queue(queue.into()),
        };
        Change::Bind(binding, Arguments::None)
    }

    fn routed(vhost: &Vhost) -> Option<String> {
        vhost.picture.load().route(b"e", b"k").map(|queues| queues.join(","))
    }

    #[test]
    fn all_connections_of_a_virtual_host_see_one_picture() {
        let topologies = Topologies::default();
        let (one, two) = (topologies.vhost(&"one".into()), topologies.vhost(&"two".into()));
        let before = one.picture.load_full();
        one.learn("one", vec![bind("q")], &mut HashSet::new());
        assert_eq!(routed(&topologies.vhost(&"one".into())), Some("q".to_owned()));
        assert_eq!(routed(&two), None);
        // Who reads the former picture is not disturbed, and what changes nothing makes no new one.
        assert_eq!(before.route(b"e", b"k"), None);
        let now = one.picture.load_full();
        one.learn("one", vec![bind("q"), Change::NoQueue("other".into())], &mut HashSet::new());
        assert!(Arc::ptr_eq(&now, &one.picture.load_full()));
    }

    #[test]
    fn a_passing_queue_is_forgotten_with_the_last_connection_that_declared_it() {
        let vhost = Vhost::default();
        let (mut first, mut second) = (HashSet::new(), HashSet::new());
        let passing = || vec![Change::PassingQueue("p".into()), Change::PassingQueue("p".into()), bind("p")];
        vhost.learn("v", passing(), &mut first);
        vhost.learn(
            "v",
            vec![Change::Exchange(Arc::from(&b"e"[..]), Kind::Direct), bind("lasting")],
            &mut first,
        );
        vhost.learn("v", passing(), &mut second);
        vhost.left("v", first);
        assert_eq!(routed(&vhost), Some("lasting,p".to_owned()));
        vhost.left("v", second);
        assert_eq!(routed(&vhost), Some("lasting".to_owned()));
        assert!(lock(&vhost.writer).passing.is_empty());
    }

    #[test]
    fn threads_lose_none_of_each_other_s_changes() {
        let vhost = Vhost::default();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let vhost = &vhost;
                scope.spawn(move || {
                    for number in 0..100 {
                        vhost.learn("v", vec![bind(&format!("q{thread}-{number}"))], &mut HashSet::new());
                    }
                });
            }
        });
        assert_eq!(vhost.picture.load().len(), 400);
    }
}
