//! Keys whose newest duplicate waits for the end of the holder; the same rules as in `scripts/last.lua`.
//!
//! The one that waits has a lock of its own, inside that of the holder. It is replaced like any other that has not begun, and is the lock of
//! the key as soon as the holder's goes, whatever the reason.

use std::sync::Arc;

use super::lock::Lock;
use super::{LONGEST_MS, Step};
use crate::rules::lock::{Acquired, Admitted, Claim, Committed, IfHeld, LockNote, LockState, Nonce};

impl Lock {
    /// What has lapsed gives way to what it was to replace, else to what waits for its end.
    pub(super) fn give_way(&mut self, now: u64) {
        while self.expires_ms <= now {
            let indexed = self.indexed;
            let last = self.last.take();
            if let Some(older) = self.aside.take().filter(|older| older.expires_ms > now) {
                *self = *older;
                self.last = last;
            } else if let Some(last) = last.filter(|last| last.lives_until() > now) {
                *self = *last;
            } else {
                return;
            }
            self.indexed = indexed;
        }
    }

    /// The one that waits for the end of this one, unless it has lapsed.
    pub(super) fn waiting(&mut self, now: u64) -> Option<&mut Lock> {
        let last = self.last.as_deref_mut()?;
        last.give_way(now);
        if self.last.as_ref().is_some_and(|last| last.expires_ms <= now) {
            self.last = None;
        }
        self.last.as_deref_mut()
    }

    /// The lock of this id among this one, what it was to replace, and what waits; this one of any other id.
    pub(super) fn of(&mut self, id: &Arc<str>, now: u64) -> Option<&mut Lock> {
        match self.aside.as_ref().filter(|older| older.expires_ms > now) {
            Some(_) if self.holder == *id => return Some(self),
            Some(older) if older.holder == *id => return self.aside.as_deref_mut(),
            _ => self.give_way(now),
        }
        if self.expires_ms <= now {
            return None;
        }
        if self.holder != *id && self.last.as_ref().is_some_and(|last| last.is_for(id, now)) {
            return self.last.as_deref_mut()?.of(id, now);
        }
        Some(self)
    }

    /// Whether it is this id's, or what it was to replace is.
    fn is_for(&self, id: &Arc<str>, now: u64) -> bool {
        let of_older = self
            .aside
            .as_ref()
            .is_some_and(|older| older.holder == *id && older.expires_ms > now);
        self.lives_until() > now && (self.holder == *id || of_older)
    }

    /// Takes what this id holds out of what this lock was to replace, and of what waits for its end.
    pub(super) fn remove_inner(&mut self, id: &Arc<str>, now: u64) -> Option<Lock> {
        if let Some(older) = self.aside.take_if(|older| older.holder == *id) {
            return Some(*older);
        }
        let last = self.last.as_deref_mut()?;
        if last.holder != *id {
            return last.aside.take_if(|older| older.holder == *id).map(|older| *older);
        }
        let mut last = *self.last.take()?;
        self.last = last.follower(now).map(Box::new);
        Some(last)
    }

    /// What becomes of the key when this lock is taken out of it.
    pub(super) fn follower(&mut self, now: u64) -> Option<Lock> {
        let last = self.last.take();
        match self.aside.take().filter(|older| older.expires_ms > now) {
            Some(mut older) => {
                older.last = last;
                Some(*older)
            }
            None => last.filter(|last| last.lives_until() > now).map(|last| *last),
        }
    }
}

impl Step<'_> {
    /// The key is held by another: the id waits for its end, if the note says so.
    pub(super) fn keep(&mut self, claim: &Claim, publish: Nonce, note: &Arc<LockNote>, lease_end: u64) -> Option<Acquired> {
        if note.if_held != IfHeld::KeepLast {
            return None;
        }
        let now = self.now;
        let lock = self.table.lock(&claim.digest, now)?;
        let holder = lock.holder.clone();
        let former = lock.waiting(now).map(|last| (last.holder.clone(), last.state, last.place));
        if let Some((waits, LockState::Leased, _)) = former {
            self.note_asked(claim, note);
            return Some(Acquired::Leased { holder: waits });
        }
        let place = self.place_of_asked(claim);
        if let (Some(place), Some((waits, _, formers))) = (place, former)
            && place < formers
        {
            return Some(self.outrun(claim, note, waits));
        }
        let place = place.unwrap_or_else(|| self.next_place(claim.digest));
        self.wait_behind(claim, publish, note, LockState::Leased, lease_end, place);
        Some(Acquired::Kept { holder })
    }

    /// The id has the place behind the holder; who had it before is set aside.
    fn wait_behind(&mut self, claim: &Claim, publish: Nonce, note: &Arc<LockNote>, state: LockState, until_ms: u64, place: u64) {
        let (now, proxy) = (self.now, self.proxy.clone());
        let Some(lock) = self.table.lock(&claim.digest, now) else { return };
        let mut last = Lock::new(claim.id.clone(), state, note.clone(), proxy, now, until_ms, publish);
        last.place = place;
        last.aside = lock.last.take();
        lock.last = Some(Box::new(last));
    }

    /// The broker has a message whose place has lapsed: it has it again, if that is free.
    pub(super) fn commit_behind(&mut self, claim: &Claim, publish: Nonce, note: &Arc<LockNote>, life_end: u64) -> Option<Committed> {
        let now = self.now;
        let lock = self.table.lock(&claim.digest, now).filter(|_| note.if_held == IfHeld::KeepLast)?;
        if lock.waiting(now).is_some() {
            return None;
        }
        let place = self.next_place(claim.digest);
        self.wait_behind(claim, publish, note, LockState::Queued, life_end, place);
        Some(Committed::Held)
    }

    /// A delivery whose key another holds, where duplicates wait. One that is not known here was published past every proxy: it is newer
    /// than what was delivered before it, and older than what was not.
    pub(super) fn admit_behind(&mut self, claim: &Claim, delivery: Nonce, note: &Arc<LockNote>, reentrant: bool) -> Option<Admitted> {
        if note.if_held != IfHeld::KeepLast {
            return None;
        }
        let (now, until_ms) = (self.now, self.now + note.queued_life_ms().clamp(1, LONGEST_MS));
        let lock = self.table.lock(&claim.digest, now)?;
        let holder = lock.holder.clone();
        let nobody: Arc<str> = "".into();
        let former = lock
            .waiting(now)
            .map(|last| (last.holder.clone(), last.was_delivered(), last.since_ms));
        let since_ms = match former {
            Some((waits, _, since_ms)) if waits == claim.id => since_ms,
            Some((waits, is_delivered, _)) => {
                if reentrant || self.table.knows(&claim.id, &claim.digest, now) {
                    return Some(Admitted::Waits { holder, since_ms: now });
                }
                if !is_delivered {
                    self.outrun(claim, note, waits.clone());
                    return Some(Admitted::Outdated { newer: waits });
                }
                let place = self.next_place(claim.digest);
                self.wait_behind(claim, delivery, note, LockState::Queued, until_ms, place);
                self.supersede_aside(claim.digest, &claim.id);
                now
            }
            None => {
                let place = self.next_place(claim.digest);
                self.wait_behind(claim, delivery, note, LockState::Queued, until_ms, place);
                now
            }
        };
        if let Some(last) = self.table.lock_for(&claim.digest, &claim.id, now) {
            last.deliver(delivery, &nobody, until_ms);
            let until = last.expires_ms;
            self.table.note_id(&claim.id, claim.digest, &note.rule, until, now);
        }
        Some(Admitted::Waits { holder, since_ms })
    }
}
