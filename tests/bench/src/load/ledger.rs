//! Which publishes of a confirming channel are confirmed: each exactly once.

use std::collections::VecDeque;

use anyhow::{Result, bail};

/// Confirm numbers from 1 on.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Publishes confirmed below the first open one.
    closed: u64,
    /// For each publish after those, whether it is confirmed.
    open: VecDeque<bool>,
    confirmed: u64,
}

impl Ledger {
    /// Notes that `count` more publishes were sent.
    pub fn sent(&mut self, count: usize) {
        self.open.resize(self.open.len() + count, false);
    }

    /// How many publishes are confirmed.
    pub fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// Notes a confirm; a number that was never sent, or is confirmed already, is an error.
    pub fn confirm(&mut self, number: u64, multiple: bool) -> Result<()> {
        let Some(last) = number.checked_sub(self.closed + 1).filter(|last| *last < self.open.len() as u64) else {
            bail!(
                "surplus confirm {number}, multiple {multiple}: {} are done, {} open",
                self.closed,
                self.open.len()
            );
        };
        let first = if multiple { 0 } else { last };
        for confirmed in self.open.range_mut(first as usize..=last as usize) {
            if *confirmed && !multiple {
                bail!("publish {number} was confirmed twice");
            }
            self.confirmed += u64::from(!*confirmed);
            *confirmed = true;
        }
        while self.open.front() == Some(&true) {
            self.open.pop_front();
            self.closed += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_publish_is_confirmed_once_in_any_order() {
        let mut ledger = Ledger::default();
        ledger.sent(6);
        ledger.confirm(3, false).unwrap();
        ledger.confirm(4, true).unwrap();
        ledger.confirm(6, false).unwrap();
        assert_eq!(ledger.confirmed(), 5);
        ledger.confirm(6, true).unwrap();
        assert_eq!(ledger.confirmed(), 6);
    }

    #[test]
    fn a_surplus_confirm_is_an_error() {
        let mut ledger = Ledger::default();
        ledger.sent(3);
        ledger.confirm(2, false).unwrap();
        assert!(ledger.confirm(2, false).is_err(), "twice");
        assert!(ledger.confirm(4, false).is_err(), "never sent");
        assert!(ledger.confirm(0, true).is_err(), "no such number");
        ledger.confirm(3, true).unwrap();
        assert!(ledger.confirm(3, true).is_err(), "all done");
    }
}
