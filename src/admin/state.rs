//! What the rest of the program tells the admin listener about itself, and what follows for `/readyz`.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::store::modes::ModeOverride;
use crate::store::{Circuit, Health};

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Not listening yet.
    Starting,
    /// Serving clients.
    Running,
    /// Shutting down: no new connections are wanted.
    Draining,
}

impl Phase {
    /// The name in `/api/v1/status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Running => "running",
            Phase::Draining => "draining",
        }
    }
}

/// A load or reload of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reload {
    /// When it was tried.
    pub at: SystemTime,
    /// Why it was refused, if it was.
    pub refused: Option<String>,
}

/// What is known of this process. The proxy and main write, the admin listener reads.
#[derive(Debug)]
pub struct State(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    phase: Phase,
    upstreams: BTreeMap<String, Option<bool>>,
    reload: Reload,
    modes: ModesSet,
}

/// The modes that are set above those of the configuration, and that this process follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModesSet {
    /// A signal, or the start, has every rule off in this process.
    pub is_off: bool,
    /// What operators have set for all proxies.
    pub overrides: Vec<ModeOverride>,
}

/// The answer of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// In which of three ways.
    pub status: ReadyStatus,
    /// Why it is not plainly `ok`.
    pub reasons: Vec<String>,
}

/// Whether clients should be sent here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadyStatus {
    /// Yes.
    Ok,
    /// Yes, though something is amiss.
    Degraded,
    /// No.
    NotReady,
}

impl ReadyStatus {
    /// The word in the answer.
    pub fn as_str(self) -> &'static str {
        match self {
            ReadyStatus::Ok => "ok",
            ReadyStatus::Degraded => "degraded",
            ReadyStatus::NotReady => "unavailable",
        }
    }
}

impl Default for State {
    fn default() -> State {
        let reload = Reload {
            at: SystemTime::now(),
            refused: None,
        };
        State(Mutex::new(Inner {
            phase: Phase::Starting,
            upstreams: BTreeMap::new(),
            reload,
            modes: ModesSet::default(),
        }))
    }
}

impl State {
    /// The process has come to another phase of its life.
    pub fn set_phase(&self, phase: Phase) {
        self.inner().phase = phase;
    }

    /// The phase.
    pub fn phase(&self) -> Phase {
        self.inner().phase
    }

    /// These upstreams are configured now (`host:port`). What was known of those that stay is kept.
    pub fn set_upstreams<'a>(&self, upstreams: impl IntoIterator<Item = &'a str>) {
        let mut inner = self.inner();
        let known = std::mem::take(&mut inner.upstreams);
        inner.upstreams = upstreams
            .into_iter()
            .map(|name| (name.to_owned(), known.get(name).copied().flatten()))
            .collect();
    }

    /// The last dial of an upstream succeeded or failed.
    pub fn set_upstream_up(&self, upstream: &str, up: bool) {
        if let Some(known) = self.inner().upstreams.get_mut(upstream) {
            *known = Some(up);
        }
    }

    /// The upstreams, with the outcome of their last dial; `None` if none was tried.
    pub fn upstreams(&self) -> BTreeMap<String, Option<bool>> {
        self.inner().upstreams.clone()
    }

    /// The configuration was loaded or a reload was tried.
    pub fn set_reload(&self, reload: Reload) {
        self.inner().reload = reload;
    }

    /// The last load or reload.
    pub fn reload(&self) -> Reload {
        self.inner().reload.clone()
    }

    /// These modes are followed from now on.
    pub fn set_modes(&self, modes: ModesSet) {
        self.inner().modes = modes;
    }

    /// The modes that are followed.
    pub fn modes(&self) -> ModesSet {
        self.inner().modes.clone()
    }

    /// Whether clients should be sent here. An upstream that was not dialled yet counts as there.
    pub fn readiness(&self, store: Health) -> Readiness {
        let inner = self.inner();
        match inner.phase {
            Phase::Starting => return not_ready("starting: not listening yet"),
            Phase::Draining => return not_ready("draining"),
            Phase::Running => {}
        }
        let down = inner.upstreams.iter().filter(|(_, up)| **up == Some(false));
        let mut reasons: Vec<String> = down.map(|(name, _)| format!("upstream_down: {name}")).collect();
        if !reasons.is_empty() && reasons.len() == inner.upstreams.len() {
            reasons.insert(0, "no_upstream".to_owned());
            return Readiness {
                status: ReadyStatus::NotReady,
                reasons,
            };
        }
        if !store.up {
            reasons.push("store_down".to_owned());
        }
        if store.circuit != Circuit::Closed {
            reasons.push("store_circuit_open".to_owned());
        }
        if inner.reload.refused.is_some() {
            reasons.push("reload_refused: the configuration before it is in force".to_owned());
        }
        let status = if reasons.is_empty() {
            ReadyStatus::Ok
        } else {
            ReadyStatus::Degraded
        };
        Readiness { status, reasons }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_ready(reason: &str) -> Readiness {
    Readiness {
        status: ReadyStatus::NotReady,
        reasons: vec![reason.to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Health = Health {
        up: true,
        circuit: Circuit::Closed,
        orders_kept: 0,
    };

    #[test]
    fn not_ready_before_listening_while_draining_and_without_upstream() {
        let state = State::default();
        assert_eq!(state.readiness(UP).status, ReadyStatus::NotReady);
        state.set_phase(Phase::Running);
        assert_eq!(
            state.readiness(UP),
            Readiness {
                status: ReadyStatus::Ok,
                reasons: Vec::new()
            }
        );
        state.set_upstreams(["a:5672", "b:5672"]);
        assert_eq!(state.readiness(UP).status, ReadyStatus::Ok, "not dialled yet");
        state.set_upstream_up("a:5672", false);
        assert_eq!(state.readiness(UP).status, ReadyStatus::Degraded);
        state.set_upstream_up("b:5672", false);
        let none = state.readiness(UP);
        assert_eq!(none.status, ReadyStatus::NotReady);
        assert_eq!(none.reasons, ["no_upstream", "upstream_down: a:5672", "upstream_down: b:5672"]);
        state.set_upstreams(["b:5672", "c:5672"]);
        assert_eq!(state.readiness(UP).reasons, ["upstream_down: b:5672"]);
        state.set_phase(Phase::Draining);
        assert_eq!(state.readiness(UP).reasons, ["draining"]);
    }

    #[test]
    fn a_store_that_is_down_and_a_refused_reload_only_degrade() {
        let state = State::default();
        state.set_phase(Phase::Running);
        let store = Health {
            up: false,
            circuit: Circuit::Open,
            orders_kept: 3,
        };
        let readiness = state.readiness(store);
        assert_eq!((readiness.status, readiness.reasons.len()), (ReadyStatus::Degraded, 2));
        state.set_reload(Reload {
            at: SystemTime::UNIX_EPOCH,
            refused: Some("line 3".to_owned()),
        });
        assert_eq!(state.readiness(UP).status, ReadyStatus::Degraded);
        state.set_reload(Reload {
            at: SystemTime::UNIX_EPOCH,
            refused: None,
        });
        assert_eq!(state.readiness(UP).status, ReadyStatus::Ok);
    }
}
