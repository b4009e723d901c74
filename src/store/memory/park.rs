//! The rules of parked messages.

use std::collections::VecDeque;
use std::sync::Arc;

use super::lapsing::Lapses;
use super::{FORMER_KEPT, LONGEST_MS, PARK_DONE_KEPT_MS, PARKED_KEPT, Step};
use crate::rules::park::{Fingerprint, Found, ParkNote, ParkState, Parked, Seen, Token};

/// What is known of the parked messages of one id.
#[derive(Debug, Default)]
pub(super) struct Messages(Vec<Message>);

/// A parked message.
#[derive(Debug)]
struct Message {
    fingerprint: Fingerprint,
    /// Its newest copy.
    token: Token,
    state: ParkState,
    note: Arc<ParkNote>,
    expires_ms: u64,
    /// The copies before the newest, the oldest first.
    former: VecDeque<Token>,
    /// So many of them are over whatever becomes of the newest: the broker had a later one.
    over: usize,
    /// The broker had one of the copies before the newest, so that the original is over.
    copied: bool,
}

impl Lapses for Messages {
    fn lives_until(&self) -> u64 {
        self.0.iter().map(|message| message.expires_ms).max().unwrap_or(0)
    }
}

impl Messages {
    fn get(&self, fingerprint: Fingerprint, now: u64) -> Option<&Message> {
        let of_it = |message: &&Message| message.fingerprint == fingerprint && message.expires_ms > now;
        self.0.iter().find(of_it)
    }

    fn get_mut(&mut self, fingerprint: Fingerprint, now: u64) -> Option<&mut Message> {
        let of_it = |message: &&mut Message| message.fingerprint == fingerprint && message.expires_ms > now;
        self.0.iter_mut().find(of_it)
    }

    /// Without what has lapsed; if there is no room then, without the one that would lapse first.
    fn insert(&mut self, message: Message, now: u64) {
        self.0.retain(|known| known.expires_ms > now);
        if self.0.len() >= PARKED_KEPT {
            let ends = self.0.iter().enumerate();
            let first = ends.min_by_key(|(_, known)| (known.expires_ms, known.fingerprint));
            if let Some((at, _)) = first {
                self.0.swap_remove(at);
            }
        }
        self.0.push(message);
    }
}

impl Message {
    /// Another copy is made; a late repetition of an earlier one changes nothing.
    fn copy(&mut self, token: &Token, note: &Arc<ParkNote>, now: u64) {
        if self.token == *token || self.former.contains(token) {
            return;
        }
        if self.state >= ParkState::Sent {
            self.over = self.former.len();
            self.copied = true;
        }
        self.former.push_back(std::mem::replace(&mut self.token, token.clone()));
        if self.former.len() > FORMER_KEPT {
            self.former.pop_front();
            self.over = self.over.saturating_sub(1);
        }
        self.state = ParkState::Sending;
        self.note = note.clone();
        self.renew(now);
    }

    /// It never lives shorter than before.
    fn renew(&mut self, now: u64) {
        let kept_ms = match self.state {
            ParkState::Done => PARK_DONE_KEPT_MS,
            ParkState::Sending | ParkState::Sent | ParkState::Handed => life_of(&self.note),
        };
        self.expires_ms = self.expires_ms.max(now + kept_ms);
    }

    fn found(&self, seen: &Seen) -> Found {
        // While the broker may not have the newest copy, the one before it is not over: it may be all that there is.
        let in_doubt = self.state == ParkState::Sending;
        let may_run = match seen {
            Seen::Copy(token) if *token == self.token => self.state != ParkState::Done,
            Seen::Copy(token) => match self.former.iter().position(|former| former == token) {
                Some(at) => in_doubt && at >= self.over,
                None => return Found::Unknown,
            },
            Seen::Original => in_doubt && !self.copied,
        };
        if !may_run {
            return Found::Over;
        }
        Found::Parked(Parked {
            token: self.token.clone(),
            digest: self.note.digest,
            rule: self.note.rule.clone(),
            place_ms: self.note.place_ms,
        })
    }
}

fn life_of(note: &ParkNote) -> u64 {
    note.life_ms.clamp(1, LONGEST_MS)
}

impl Step<'_> {
    pub(super) fn park(&mut self, id: &Arc<str>, token: &Token, note: &Arc<ParkNote>) {
        let messages = self.table.parked.get_mut(id, self.now);
        let known = messages.and_then(|messages| messages.get_mut(note.fingerprint, self.now));
        if let Some(message) = known {
            message.copy(token, note, self.now);
            return;
        }
        let message = Message {
            fingerprint: note.fingerprint,
            token: token.clone(),
            state: ParkState::Sending,
            note: note.clone(),
            expires_ms: self.now + life_of(note),
            former: VecDeque::new(),
            over: 0,
            copied: false,
        };
        if let Some(messages) = self.table.parked.get_mut(id, self.now) {
            messages.insert(message, self.now);
        } else {
            self.table.parked.insert(id.clone(), Messages(vec![message]), self.now);
        }
    }

    pub(super) fn mark_parked(&mut self, id: &Arc<str>, token: &Token, fingerprint: Fingerprint, state: ParkState) {
        let messages = self.table.parked.get_mut(id, self.now);
        let message = messages.and_then(|messages| messages.get_mut(fingerprint, self.now));
        if let Some(message) = message.filter(|message| message.token == *token) {
            message.state = message.state.max(state);
            message.renew(self.now);
        }
    }

    pub(super) fn find_parked(&self, id: &Arc<str>, fingerprint: Fingerprint, seen: &Seen) -> Found {
        let messages = self.table.parked.get(id, self.now);
        let message = messages.and_then(|messages| messages.get(fingerprint, self.now));
        message.map_or(Found::Unknown, |message| message.found(seen))
    }
}
