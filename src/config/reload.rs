//! From one config to the next while the proxy runs.

use super::Config;

/// The settings that differ and that a running proxy cannot take over: they count from the next start. All others do at once, or for
/// new connections.
pub fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let settings = [
        ("proxy.listen", old.proxy.listen != new.proxy.listen),
        ("proxy.max_connections", old.proxy.max_connections != new.proxy.max_connections),
        ("store.url", old.store.url != new.store.url),
        ("store.prefix", old.store.prefix != new.store.prefix),
        ("store.timeout", old.store.timeout != new.store.timeout),
        ("admin.listen", old.admin.listen != new.admin.listen),
        ("admin.probes_listen", old.admin.probes_listen != new.admin.probes_listen),
        ("log.format", old.log.format != new.log.format),
        ("decisions.max", old.decisions.max != new.decisions.max),
    ];
    settings.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}
