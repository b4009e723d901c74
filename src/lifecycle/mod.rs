//! The life of tasks, where the connections that pass do not tell it: who started, who ended, who is gone.
//!
//! A session tells the store what it sees of its own connection ([`crate::session`]): acks, events, results and revokes on their way. What
//! must be asked for, waited for or repeated is done here, on one thread with a runtime of its own, so that nothing here holds up a
//! publish, a delivery or an operator. Each concern is a module with one task, which
//!
//! - takes its settings from a channel, so that a reload starts, changes or stops it;
//! - gives what it learns to the store as orders ([`crate::store::Client::tell`]), which are idempotent: a signal that comes twice, late,
//!   or through another proxy too changes nothing;
//! - keeps no state that another proxy would need: what it knows can be learnt anew.
//!
//! - [`results`]: what the Redis result backend says of tasks.
//! - [`purge`]: the locks of tasks whose queue was purged or deleted.
//! - `orphans`: locks whose worker is gone, by what [`nodes`] sees of workers.
//! - [`revokes`]: tasks that workers are told never to run.
//! - [`running`]: the locks of tasks that run and that no delivery keeps alive.
//!
//! Workers that no proxy carries are heard and asked through [`crate::control`], where it has an account.
#![doc = include_str!("LIFECYCLE.md")]

pub mod nodes;
mod orphans;
pub mod purge;
pub mod results;
pub mod revokes;
pub mod running;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::config::Config;
use crate::config::account::Account;
use crate::control::{self, Control, spread};
use crate::metrics::Metrics;
use crate::rules::RuleSet;
use crate::store::Store;
use purge::Purges;
use running::Runs;

/// How often the holders of locks are looked up in the result backend.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// What follows the life of tasks. It ends when this is dropped.
#[derive(Debug)]
pub struct Lifecycle {
    results: watch::Sender<Option<results::Settings>>,
    rules: watch::Sender<Arc<RuleSet>>,
    control: watch::Sender<Vec<control::Settings>>,
    instance: Arc<str>,
}

impl Lifecycle {
    /// Starts the thread. No result backend is followed yet. `control` has no links yet. `instance` is the name of this process, as locks
    /// show it.
    pub fn start(
        store: &Store,
        metrics: &Arc<Metrics>,
        purges: &Purges,
        runs: &Arc<Runs>,
        control: &Control,
        instance: &str,
    ) -> io::Result<Lifecycle> {
        let accounts = control.clone();
        let (results, settings) = watch::channel(None);
        let (rules, in_force) = watch::channel(Arc::default());
        let (control, links) = watch::channel(Vec::new());
        let purges = purges.clone();
        let (store, metrics) = (store.clone(), Arc::clone(metrics));
        let (runs, instance) = (Arc::clone(runs), Arc::<str>::from(instance));
        let (own, accounts) = (Arc::clone(&instance), accounts.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("lifecycle".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::spawn(purge::run(store.clone(), purges));
                let workers = Arc::clone(runs.nodes()) as Arc<dyn control::Workers>;
                tokio::spawn(accounts.clone().run(store.client(), workers, Arc::clone(&metrics), links));
                tokio::spawn(orphans::run(store.clone(), Arc::clone(&runs), accounts, instance, in_force.clone()));
                tokio::spawn(running::run(store.clone(), runs, in_force));
                results::run(store, metrics, settings).await;
            });
        })?;
        Ok(Lifecycle {
            results,
            rules,
            control,
            instance: own,
        })
    }

    /// Follows what this configuration says, from now on.
    pub fn configure(&self, config: &Config) {
        self.rules.send_replace(Arc::clone(&config.rules));
        self.control.send_replace(self.links(config));
        let followed = config.results.as_ref().filter(|_| config.rules.follows_tasks());
        self.follow_results(followed.map(|results| results::Settings {
            url: results.url.clone(),
            key_prefix: results.key_prefix.clone(),
            max_message: config.proxy.max_message,
            look_every: LOOK_EVERY,
        }));
    }

    /// How the virtual hosts are looked after in which Oncegate has an account of its own.
    fn links(&self, config: &Config) -> Vec<control::Settings> {
        let name = format!("oncegate control {}", self.instance);
        let link = |account: &Account| control::Settings {
            dial: control::dial(config, account, &name),
            follows: config.rules.follows_tasks(),
            enable_events: config.rules.wants_events(config.control.enable_events),
            park_prefix: Arc::clone(&config.park.prefix),
        };
        config.control.accounts.iter().map(link).collect()
    }

    /// Follows this result backend from now on; `None`: none.
    pub fn follow_results(&self, settings: Option<results::Settings>) {
        self.results.send_if_modified(|current| {
            let differs = *current != settings;
            *current = settings;
            differs
        });
    }
}
