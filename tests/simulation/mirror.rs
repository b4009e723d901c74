//! What leaves a session against what came, per channel.

use std::collections::{HashMap, VecDeque};

use oncegate::amqp::method::MethodId;

use crate::wire::{Reader, Unit};

/// What may be missing or added on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// Nothing.
    Exact,
    /// Confirms are Oncegate's to write, returns that it asked for are its own, and deliveries may stay: which, the shadow judges.
    ToClient,
}

/// One direction of one session.
pub struct Mirror {
    strictness: Strictness,
    input: Reader,
    output: Reader,
    expected: HashMap<u16, VecDeque<Unit>>,
    /// One peer is gone, and what leaves is Oncegate's own.
    over: bool,
}

impl Mirror {
    pub fn new(strictness: Strictness) -> Mirror {
        Mirror {
            strictness,
            input: Reader::default(),
            output: Reader::default(),
            expected: HashMap::new(),
            over: false,
        }
    }

    /// Its peer is gone, and was told so before.
    pub fn stop(&mut self) {
        self.over = true;
    }

    /// Bytes come in.
    pub fn comes(&mut self, bytes: &[u8]) {
        if self.over {
            return;
        }
        for unit in self.input.feed(bytes) {
            self.expected.entry(unit.channel).or_default().push_back(unit);
        }
    }

    /// Bytes leave. What left, method by method.
    pub fn leaves(&mut self, bytes: &[u8]) -> Vec<Unit> {
        if self.over {
            return Vec::new();
        }
        let units = self.output.feed(bytes);
        for unit in &units {
            if unit.channel == 0 && unit.method == MethodId::CONNECTION_CLOSE {
                self.over = true;
                break;
            }
            if self.is_own(unit) {
                continue;
            }
            let expected = self.expected.entry(unit.channel).or_default();
            loop {
                let Some(next) = expected.pop_front() else {
                    panic!("{} {:?} on channel {} leaves and never came", unit.method, unit.id, unit.channel);
                };
                if next.raw == unit.raw {
                    break;
                }
                assert!(
                    self.strictness == Strictness::ToClient && may_stay(&next),
                    "{} {:?} on channel {} came, and {} {:?} leaves in its place",
                    next.method,
                    next.id,
                    next.channel,
                    unit.method,
                    unit.id
                );
            }
        }
        units
    }

    fn is_own(&self, unit: &Unit) -> bool {
        self.strictness == Strictness::ToClient && matches!(unit.method, MethodId::BASIC_ACK | MethodId::BASIC_NACK)
    }

    /// One peer goes, and what leaves from here on is Oncegate's own: nothing that came before is still inside.
    pub fn end(&mut self) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        for units in self.expected.values() {
            let mut behind_a_question = false;
            for unit in units {
                behind_a_question |= self.strictness == Strictness::ToClient && unit.method == MethodId::BASIC_DELIVER;
                // A close waits for the broker's word on claims.
                let is_close = matches!(unit.method, MethodId::CONNECTION_CLOSE | MethodId::CHANNEL_CLOSE);
                assert!(
                    is_close || behind_a_question || self.strictness == Strictness::ToClient && may_stay(unit),
                    "{} {:?} on channel {} came and never left",
                    unit.method,
                    unit.id,
                    unit.channel
                );
            }
        }
    }
}

fn may_stay(unit: &Unit) -> bool {
    matches!(
        unit.method,
        MethodId::BASIC_ACK | MethodId::BASIC_NACK | MethodId::BASIC_RETURN | MethodId::BASIC_DELIVER
    )
}
