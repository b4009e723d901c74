//! Locks that change hands before their holders have begun.
//!
//! The older lock is set aside in the newcomer's for the newcomer's lease. There it hears what becomes of its holder. It comes back when
//! the newcomer fails, or its lease lapses, and goes when the broker has the newcomer's message.

use std::collections::HashMap;
use std::sync::Arc;

use super::lapsing::Lapses;
use super::lock::{Burst, Lock};
use super::table::{Claims, Lost};
use super::{DEAD_KEPT_MS, DEAD_LONGEST_MS, ENDED_KEPT_MS, HANDED_MS, Step};
use crate::rules::lock::{
    Acquired, Begun, Claim, Committed, Digest, Extent, Freed, LockNote, LockState, Nonce, ReleaseReason, Renewed, Signal, Superseded,
};

/// The publishes that are asked again until a lease ends, by id with their places.
pub(super) struct Asked {
    last: u64,
    places: HashMap<Arc<str>, u64>,
    until_ms: u64,
}

impl Lapses for Asked {
    fn lives_until(&self) -> u64 {
        self.until_ms
    }
}

/// What the commit of a newcomer is to tell: a signal of its worker may have come before.
pub(super) struct Over {
    newcomer: Arc<str>,
    /// The commit that it was told to.
    told_to: Option<Nonce>,
    superseded: Superseded,
    until_ms: u64,
}

impl Lapses for Over {
    fn lives_until(&self) -> u64 {
        self.until_ms
    }
}

impl Step<'_> {
    /// Takes the lock over from a holder that has not begun, if the note says so. The lock is there, and is another's.
    pub(super) fn replace(&mut self, claim: &Claim, publish: Nonce, note: &Arc<LockNote>, lease_end: u64) -> Option<Acquired> {
        let lock = self.table.lock(&claim.digest, self.now)?;
        if !note.if_held.replaces() || lock.state != LockState::Queued || lock.has_ended() {
            return None;
        }
        let (holder, holders, burst) = (lock.holder.clone(), lock.place, lock.burst);
        if note.if_held.quiet().is_some() && lock.is_about_to_begin(self.now) {
            self.note_asked(claim, note);
            return Some(Acquired::Leased { holder });
        }
        let place = self.place_of_asked(claim);
        if place.is_some_and(|place| place < holders) {
            return Some(self.outrun(claim, note, holder));
        }
        let place = place.unwrap_or_else(|| self.next_place(claim.digest));
        let mut older = self.table.remove(&claim.digest)?;
        let last = older.last.take();
        self.take(claim, publish, note, LockState::Leased, lease_end);
        if let Some(lock) = self.table.lock(&claim.digest, self.now) {
            lock.aside = Some(Box::new(older));
            lock.last = last;
            lock.place = place;
        }
        match self.put_off(claim, note, burst) {
            Some(due_ms) => Some(Acquired::PutOff {
                holder: Some(holder),
                due_ms,
            }),
            None => Some(Acquired::Replaces { holder }),
        }
    }

    /// The id has taken the lock in this burst, or in one that begins with it: when it is due, if its run is put off.
    pub(super) fn put_off(&mut self, claim: &Claim, note: &LockNote, burst: Option<Burst>) -> Option<u64> {
        let (now, quiet) = (self.now, note.if_held.quiet()?);
        let first_ms = burst.map_or(now, |burst| burst.first_ms);
        let due_ms = quiet.due_ms(first_ms, now);
        let lock = self.table.lock(&claim.digest, now)?;
        lock.burst = Some(Burst { first_ms, due_ms });
        Some(due_ms)
    }

    /// One that has waited finds a newer one: it goes out, and is not to run.
    pub(super) fn outrun(&mut self, claim: &Claim, note: &LockNote, holder: Arc<str>) -> Acquired {
        let until_ms = self.now + note.life_ms.max(1).saturating_add(DEAD_KEPT_MS).min(DEAD_LONGEST_MS);
        let lost = Freed {
            digest: claim.digest,
            holder: claim.id.clone(),
            rule: note.rule.clone(),
            task: note.task.clone(),
            vhost: note.vhost.clone(),
            reason: ReleaseReason::Replaced,
            held_ms: 0,
            shadow: note.shadow,
        };
        let lost = Lost {
            lock: Some(lost),
            to: holder.clone(),
        };
        self.table.supersede(&claim.id, claim.digest, Some(lost), until_ms, self.now);
        self.table.note_id(&claim.id, claim.digest, &note.rule, until_ms, self.now);
        if note.if_held.hides() {
            self.join(claim, &holder, &note.owed, Extent::Publish(note.scope), &note.rule, note.life_ms);
        }
        Acquired::Outrun { holder }
    }

    /// The place of a publish that has waited for a lease, which is asked for once.
    pub(super) fn place_of_asked(&mut self, claim: &Claim) -> Option<u64> {
        let asked = self.table.asked.get_mut(&claim.digest, self.now)?;
        asked.places.remove(&claim.id)
    }

    /// A place behind all others.
    pub(super) fn next_place(&mut self, digest: Digest) -> u64 {
        let until_ms = self.now + ENDED_KEPT_MS;
        if self.table.asked.get(&digest, self.now).is_none() {
            let asked = Asked {
                last: 0,
                places: HashMap::new(),
                until_ms,
            };
            self.table.asked.insert(digest, asked, self.now);
        }
        // It counts on from the time, so that it is behind those that are forgotten, too.
        let first = self.now.saturating_mul(1000);
        self.table.asked.get_mut(&digest, self.now).map_or(first, |asked| {
            asked.until_ms = until_ms;
            asked.last = first.max(asked.last + 1);
            asked.last
        })
    }

    /// A publish that replaces has found a lease: it is asked again, and then has come before those that ask meanwhile.
    pub(super) fn note_asked(&mut self, claim: &Claim, note: &LockNote) {
        if !note.if_held.takes_turns() {
            return;
        }
        let now = self.now;
        if let Some(asked) = self.table.asked.get_mut(&claim.digest, now) {
            asked.until_ms = now + ENDED_KEPT_MS;
            if asked.places.contains_key(&claim.id) {
                return;
            }
        }
        let place = self.next_place(claim.digest);
        if let Some(asked) = self.table.asked.get_mut(&claim.digest, now) {
            asked.places.insert(claim.id.clone(), place);
        }
    }

    /// One has taken a free lock; somebody may wait who came before.
    pub(super) fn takes_place(&mut self, claim: &Claim, note: &LockNote) {
        if !note.if_held.takes_turns() {
            return;
        }
        let Some(asked) = self.table.asked.get_mut(&claim.digest, self.now) else {
            return;
        };
        let place = asked.places.remove(&claim.id);
        let place = place.unwrap_or_else(|| self.next_place(claim.digest));
        if let Some(lock) = self.table.lock(&claim.digest, self.now) {
            lock.place = place;
        }
    }

    /// The broker has the message of the holder: the one whose lock was set aside is not to run any more.
    pub(super) fn supersede_aside(&mut self, digest: Digest, holder: &Arc<str>) {
        let now = self.now;
        let lock = self.table.lock_for(&digest, holder, now).filter(|lock| lock.holder == *holder);
        let Some(lock) = lock else { return };
        let Some(older) = lock.aside.take().filter(|older| older.expires_ms > now) else {
            return;
        };
        lock.prolong(now + 1);
        let until_ms = now + older.note.life_ms.max(1).saturating_add(DEAD_KEPT_MS).min(DEAD_LONGEST_MS);
        let freed = older.freed(digest, ReleaseReason::Replaced, now);
        let begun = if older.state == LockState::Running { Begun::Yes } else { Begun::No };
        let lost = Some(Lost {
            lock: (begun == Begun::No).then(|| freed.clone()),
            to: holder.clone(),
        });
        if older.note.if_held.hides() && begun == Begun::No {
            self.joins_follow(digest, &older, holder);
        }
        self.table.supersede(&older.holder, digest, lost, until_ms, now);
        self.table.note_id(&older.holder, digest, &older.note.rule, until_ms, now);
        let over = Over {
            newcomer: holder.clone(),
            told_to: None,
            superseded: Superseded {
                freed,
                vhost: older.note.vhost.clone(),
                worker: older.worker().clone(),
                begun,
            },
            until_ms: now + ENDED_KEPT_MS,
        };
        self.table.over.insert(digest, over, now);
    }

    /// The older one gets the result of the newer, and so does who waits for that of the older. What a worker has is revoked there instead.
    fn joins_follow(&mut self, digest: Digest, older: &Lock, holder: &Arc<str>) {
        self.move_joins(digest, &older.holder, holder);
        if older.worker().is_empty() {
            let (note, id) = (&older.note, older.holder.clone());
            let extent = Extent::Publish(note.scope);
            self.join(&Claim { digest, id }, holder, &note.owed, extent, &note.rule, note.life_ms);
        }
    }

    /// The locks that this id had lost to newer ones, if the signal tells that it ran all the same.
    pub(super) fn outlived(&mut self, id: &Arc<str>, signal: Signal) -> Vec<Freed> {
        if !signal.tells_of_run() {
            return Vec::new();
        }
        let claims = self
            .table
            .claims(id, self.now)
            .iter()
            .filter(|claimed| claimed.what == Claims::Publish);
        let digests: Vec<Digest> = claims.map(|claimed| claimed.digest).collect();
        let lost = digests.into_iter().filter_map(|digest| self.table.outlived(id, digest, self.now));
        lost.map(|lost| Freed {
            task: "".into(),
            vhost: "".into(),
            held_ms: 0,
            shadow: false,
            ..lost
        })
        .collect()
    }

    /// Why there is nothing to renew. What is known to have run may have been retried since, and is not to run again.
    pub(super) fn gone(&self, claim: &Claim) -> Renewed {
        if self.table.was_replaced(&claim.id, claim.digest, self.now) {
            Renewed::Superseded
        } else {
            Renewed::Gone
        }
    }

    /// What a commit tells beside what it has found.
    pub(super) fn committed(&mut self, claim: &Claim, publish: Nonce, note: &LockNote, found: Committed) -> Committed {
        if !note.if_held.takes_turns() || matches!(found, Committed::Lost { .. }) {
            return found;
        }
        match self.table.over.get_mut(&claim.digest, self.now) {
            Some(over) if over.newcomer == claim.id && over.told_to.is_none_or(|told| told == publish) => {
                over.told_to = Some(publish);
                Committed::Replaced(Box::new(over.superseded.clone()))
            }
            _ => found,
        }
    }
}

impl Lock {
    /// Whether its time has come and a worker has had its message for a moment: to let a newer one take the lock over now, again and again,
    /// would put its run off for ever.
    fn is_about_to_begin(&self, now: u64) -> bool {
        let is_due = self.burst.is_some_and(|burst| burst.due_ms <= now);
        is_due && self.handed_ms.is_some_and(|handed| now < handed + HANDED_MS)
    }

    /// This lock, or if it has lapsed the one that was set aside, or that waits.
    pub(super) fn seen(&self, now: u64) -> Option<&Lock> {
        if self.expires_ms > now {
            return Some(self);
        }
        let older = self.aside.as_deref().filter(|older| older.expires_ms > now);
        older.or_else(|| self.last.as_deref()?.seen(now))
    }

    /// When neither it nor the one that was set aside nor the one that waits is a lock any more.
    pub(super) fn lives_until(&self) -> u64 {
        let older = self.aside.as_ref().map_or(0, |older| older.expires_ms);
        self.expires_ms
            .max(older)
            .max(self.last.as_ref().map_or(0, |last| last.lives_until()))
    }
}
