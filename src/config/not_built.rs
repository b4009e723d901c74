//! What is known, read and checked, and does nothing yet: refused by name, so that it is never silently ignored.

/// Each key whose behaviour is not built, with the values beside the default that work nevertheless. A key that is built has no line.
const NOT_BUILT: &[(&str, &[&str])] = &[("proxy.proxy_protocol_from", &[]), ("proxy.send_proxy_protocol", &[])];

/// The values beside the default that work, for a key whose other values are not built; `None` for a key that is built.
pub(super) fn working_values(path: &str) -> Option<&'static [&'static str]> {
    NOT_BUILT.iter().find(|(known, _)| *known == path).map(|(_, values)| *values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_names_a_key() {
        let known = crate::config::known_keys();
        for (path, _) in NOT_BUILT {
            assert!(known.iter().any(|key| key == path), "{path}");
        }
    }
}
