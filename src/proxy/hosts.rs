//! Which client hosts still have work in hand while the proxy drains.
//!
//! A Celery worker has one connection for tasks and one for events. When either is closed it gives up both, and what it has not
//! acknowledged by then runs again. So a connection that takes no work, as that for events, a producer's or a pool child's, is not closed
//! before all connections from the same address have finished theirs. Where many clients share an address it waits for all of them, and
//! works as ever meanwhile.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// The connections from one address.
#[derive(Debug, Default)]
struct Host {
    members: Vec<u64>,
    busy: HashSet<u64>,
}

/// The connections of a proxy that drains, by the addresses of their clients.
#[derive(Debug, Default)]
pub struct Hosts(HashMap<IpAddr, Host>);

impl Hosts {
    /// A connection, which counts as busy until it says otherwise.
    pub fn join(&mut self, address: IpAddr, number: u64) {
        let host = self.0.entry(address).or_default();
        if host.busy.insert(number) {
            host.members.push(number);
        }
    }

    /// A connection has no work in hand. If it was the last of its address that had, all connections from there, some of which may be
    /// gone by now.
    pub fn finished(&mut self, address: IpAddr, number: u64) -> Option<&[u64]> {
        let host = self.0.get_mut(&address)?;
        (host.busy.remove(&number) && host.busy.is_empty()).then_some(&host.members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::BROADCAST);

    #[test]
    fn the_last_of_an_address_to_finish_frees_all_from_there() {
        let mut hosts = Hosts::default();
        for (address, number) in [(HERE, 1), (HERE, 2), (THERE, 3)] {
            hosts.join(address, number);
        }
        assert_eq!(hosts.finished(HERE, 1), None);
        assert_eq!(hosts.finished(HERE, 1), None, "said twice it counts once");
        assert_eq!(hosts.finished(THERE, 3), Some(&[3][..]));
        assert_eq!(hosts.finished(HERE, 2), Some(&[1, 2][..]));
        assert_eq!(hosts.finished(HERE, 2), None);
    }

    #[test]
    fn one_that_comes_late_is_waited_for_and_told() {
        let mut hosts = Hosts::default();
        hosts.join(HERE, 1);
        hosts.join(HERE, 1);
        assert_eq!(hosts.finished(HERE, 1), Some(&[1][..]));
        hosts.join(HERE, 2);
        assert_eq!(hosts.finished(HERE, 2), Some(&[1, 2][..]));
        assert_eq!(hosts.finished(THERE, 9), None, "nobody has joined from there");
    }
}
