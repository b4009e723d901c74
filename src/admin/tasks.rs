//! `/api/v1/tasks/{id}`: what is on record of a task.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::answer::{Problem, respond};
use super::process::mode_of;
use super::{Admin, Answered};
use crate::store::operator;

/// Of so many of the last decisions of this process those are added that are not written down yet.
const RECENT: usize = 1_000;

/// What was decided about the id, the oldest first, and the locks of the keys that it has or had.
pub(super) async fn show(State(admin): State<Arc<Admin>>, Path(id): Path<String>) -> Answered {
    let answer = async {
        let recent = admin.feed.recent(RECENT);
        let of_id = recent.iter().rev().filter(|made| *made.decision.id == *id);
        let recent: Vec<Value> = of_id.map(|made| made.to_json(&admin.instance)).collect();
        let known = match operator::task(&admin.store, &id).await {
            Ok(known) => known,
            // What this process knows by itself is an answer, too.
            Err(_) if !recent.is_empty() => operator::Known::default(),
            Err(why) => return Err(why.into()),
        };
        let mut decisions = known.decisions;
        for decision in recent {
            if !decisions.contains(&decision) {
                decisions.push(decision);
            }
        }
        decisions.sort_by(|one, other| one["ts"].as_str().cmp(&other["ts"].as_str()));
        if decisions.is_empty() && known.locks.is_empty() {
            let message =
                "nothing is on record of this id: it was never seen, it was forwarded and holds no lock any more, or it is too long ago";
            return Err(Problem::not_found("unknown_task", message));
        }
        Ok(respond(
            StatusCode::OK,
            &admin.instance,
            admin.store_reach,
            json!({ "id": id, "decisions": decisions, "locks": known.locks, "mode": mode_of(&admin) }),
        ))
    };
    admin.answer(answer.await)
}
