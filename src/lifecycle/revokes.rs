//! Tasks that are not to run any more, and that a worker holds for their time: it is told, by name.
//!
//! A worker whose mailbox is consumed through this process is told there, another through Oncegate's own account (`[control]`), if it has
//! one. What is not told is told by the process that carries the worker, when it renews the lock of that delivery. It is only what makes the
//! end come sooner, or before the task begins: its message, should it come again, is stopped in any case.

use std::fmt;
use std::sync::Arc;

use super::nodes::{Node, Nodes};
use crate::control::{Control, Say};

/// The way to tell workers.
#[derive(Clone, Default)]
pub struct Revokes {
    nodes: Arc<Nodes>,
    control: Control,
}

impl fmt::Debug for Revokes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revokes").finish_non_exhaustive()
    }
}

impl Revokes {
    /// To these workers, and beyond them through these accounts.
    pub fn new(nodes: &Arc<Nodes>, control: &Control) -> Revokes {
        Revokes {
            nodes: Arc::clone(nodes),
            control: control.clone(),
        }
    }

    /// Tells this worker never to run this task. It may be lost, as with its connection.
    pub fn revoke(&self, node: &Node, id: &Arc<str>) {
        let (vhost, worker) = (&*node.vhost, &*node.name);
        let ids: Arc<[Arc<str>]> = Arc::from([Arc::clone(id)]);
        if self.nodes.revoke(node, Arc::clone(&ids)) {
            tracing::debug!(
                vhost,
                worker,
                id = &**id,
                "a superseded task is revoked at the worker that holds it"
            );
        } else if self.control.reaches(vhost) {
            self.control.say(vhost, vec![Arc::clone(&node.name)], Say::Revoke(ids));
            tracing::debug!(
                vhost,
                worker,
                id = &**id,
                "a superseded task is revoked through [control] at the worker that holds it"
            );
        } else {
            tracing::debug!(
                vhost,
                worker,
                id = &**id,
                "the worker that holds a superseded task is not connected here"
            );
        }
    }
}
