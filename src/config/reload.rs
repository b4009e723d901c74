//! From one config to the next while the proxy runs.

use super::error::{ConfigErrors, Warning};
use super::{Config, Environment, Flags, load};

/// Whether a reload may leave no rules where there were some: `--allow-empty`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WithoutRules {
    /// It may.
    Allowed,
    /// It may not: more often than not the file was truncated, or its mount is gone.
    Refused,
}

/// A config that takes the place of another.
#[derive(Debug)]
pub struct Reloaded {
    /// The new one.
    pub config: Config,
    /// The settings that differ and count only from the next start.
    pub needs_restart: Vec<&'static str>,
    /// Its warnings that the other did not have. One that only moved within the files is not among them.
    pub new_warnings: Vec<Warning>,
}

/// Why a reload is refused. The old config stays.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReloadError {
    /// The new config is wrong.
    #[error(transparent)]
    Wrong(#[from] ConfigErrors),
    /// The new config has no rules, and the old one has some.
    #[error("the config has no rules and {0} are in effect. Start oncegate with --allow-empty if that is meant.")]
    NoRules(usize),
}

/// Reads the config anew, from where the old one came: its file, or the default ones if it had none.
pub fn reload(old: &Config, environment: &Environment, flags: &Flags, empty: WithoutRules) -> Result<Reloaded, ReloadError> {
    let config = load(old.file.as_deref(), environment, flags)?;
    let rules = old.rules.specs().len();
    if rules > 0 && config.rules.specs().is_empty() && empty == WithoutRules::Refused {
        return Err(ReloadError::NoRules(rules));
    }
    let needs_restart = needs_restart(old, &config);
    let is_new = |warning: &&Warning| !old.warnings.iter().any(|known| is_same(known, warning));
    let new_warnings = config.warnings.iter().filter(is_new).cloned().collect();
    Ok(Reloaded {
        config,
        needs_restart,
        new_warnings,
    })
}

/// Whether two warnings say the same, wherever it stands.
fn is_same(one: &Warning, other: &Warning) -> bool {
    one.rule == other.rule && one.message == other.message
}

/// The settings that differ and that a running proxy cannot take over: they count from the next start. All others do at once, or for
/// new connections.
pub fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let settings = [
        ("proxy.listen", old.proxy.listen != new.proxy.listen),
        ("proxy.upstream", old.proxy.upstream != new.proxy.upstream),
        ("proxy.upstream_policy", old.proxy.upstream_policy != new.proxy.upstream_policy),
        ("proxy.connect_timeout", old.proxy.connect_timeout != new.proxy.connect_timeout),
        ("proxy.tcp_keepalive", old.proxy.tcp_keepalive != new.proxy.tcp_keepalive),
        ("store.url", old.store.url != new.store.url),
        ("store.prefix", old.store.prefix != new.store.prefix),
        ("store.timeout", old.store.timeout != new.store.timeout),
        ("admin.listen", old.admin.listen != new.admin.listen),
        ("admin.probes_listen", old.admin.probes_listen != new.admin.probes_listen),
        ("admin.tls", old.admin.tls != new.admin.tls),
        ("log.format", old.log.format != new.log.format),
        ("watch_config", old.watch_config != new.watch_config),
    ];
    settings.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}
