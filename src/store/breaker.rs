//! The circuit breaker: whether a store that fails is still asked.

use std::time::{Duration, Instant};

/// The state of a circuit breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Circuit {
    /// The store is asked.
    Closed,
    /// The store has failed repeatedly: it is not asked until a pause is over.
    Open,
    /// The pause is over, and a new connection shows whether the store is back.
    HalfOpen,
}

/// Failures in a row that open the circuit.
const THRESHOLD: u32 = 3;
/// The first pause; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Counts failures in a row.
#[derive(Debug)]
pub(super) struct Breaker {
    failures: u32,
    pause: Duration,
    /// While open: when to try again.
    until: Option<Instant>,
    probing: bool,
}

impl Breaker {
    pub(super) fn new() -> Breaker {
        Breaker {
            failures: 0,
            pause: FIRST_PAUSE,
            until: None,
            probing: false,
        }
    }

    pub(super) fn circuit(&self) -> Circuit {
        match (self.until, self.probing) {
            (Some(_), _) => Circuit::Open,
            (None, true) => Circuit::HalfOpen,
            (None, false) => Circuit::Closed,
        }
    }

    /// When the pause is over; `None` if there is none.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Lets the pause end.
    pub(super) fn on_time(&mut self, now: Instant) {
        if self.until.is_some_and(|until| until <= now) {
            self.until = None;
            self.probing = true;
        }
    }

    pub(super) fn on_success(&mut self) {
        *self = Breaker::new();
    }

    /// A connection was made: the store is asked again, and the next failure opens the circuit.
    pub(super) fn on_connected(&mut self) {
        if self.probing {
            self.probing = false;
            self.failures = THRESHOLD - 1;
        }
    }

    /// No connection can be made.
    pub(super) fn on_outage(&mut self, now: Instant) {
        self.failures = THRESHOLD;
        self.on_failure(now);
    }

    pub(super) fn on_failure(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.probing || self.failures >= THRESHOLD {
            self.until = Some(now + self.pause);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            self.probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_after_failures_in_a_row_and_closes_after_a_success() {
        let start = Instant::now();
        let mut breaker = Breaker::new();
        breaker.on_failure(start);
        breaker.on_failure(start);
        breaker.on_success();
        breaker.on_failure(start);
        breaker.on_failure(start);
        assert_eq!(breaker.circuit(), Circuit::Closed);
        breaker.on_failure(start);
        assert_eq!((breaker.circuit(), breaker.until()), (Circuit::Open, Some(start + FIRST_PAUSE)));
        breaker.on_time(start);
        assert_eq!(breaker.circuit(), Circuit::Open);
        breaker.on_time(start + FIRST_PAUSE);
        assert_eq!(breaker.circuit(), Circuit::HalfOpen);
        breaker.on_connected();
        assert_eq!(breaker.circuit(), Circuit::Closed);
        breaker.on_success();
        breaker.on_failure(start);
        assert_eq!(breaker.circuit(), Circuit::Closed);
    }

    #[test]
    fn one_failure_after_the_pause_opens_it_for_longer() {
        let mut now = Instant::now();
        let mut breaker = Breaker::new();
        breaker.on_outage(now);
        let mut pauses = Vec::new();
        for round in 0..6 {
            let until = breaker.until().expect("open");
            pauses.push(until - now);
            now = until;
            breaker.on_time(now);
            if round % 2 == 0 {
                breaker.on_outage(now);
            } else {
                breaker.on_connected();
                breaker.on_failure(now);
            }
        }
        assert_eq!(
            pauses.iter().map(Duration::as_millis).collect::<Vec<_>>(),
            [250, 500, 1000, 2000, 2000, 2000]
        );
    }
}
