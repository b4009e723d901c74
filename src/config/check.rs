//! What must hold between the keys of one rule, and what is better not written.

use crate::rules::source::{Hears, Source};
use crate::rules::spec::{
    AcksLate, Canvas, Completion, CompletionSource, LimitSpec, Mode, OnDuplicate, OnMaxWait, OnRunning, ResultMode, RuleSpec, Unique,
};

use super::WhyUnanswered;
use super::account::Account;
use super::reader::TableReader;
use super::report::Reader;
use super::rule::Written;
use super::unit::show_duration;

/// Reports the combinations of keys that make no sense.
pub(super) fn check_rule(table: &TableReader<'_>, spec: &RuleSpec) {
    check_completion(table, spec);
    check_debounce(table, spec);
    check_replace(table, spec);
    check_keep_last(table, spec);
    check_canvas(table, spec);
    if table.has("beat_origins") && spec.beat_lease.is_none() && !table.has("beat_lease") {
        table.refuse(
            "beat_origins",
            "names the beats of a beat_lease that is not set",
            "Write beat_lease = \"15s\" beside it.",
        );
    }
    let dead_letters = [
        ("on_duplicate", spec.on_duplicate == OnDuplicate::DeadLetter),
        ("on_running", spec.on_running == OnRunning::DeadLetter),
    ];
    for (key, _) in dead_letters
        .into_iter()
        .filter(|(_, is_used)| *is_used && spec.dead_letter.is_none())
    {
        let remedy = "Write dead_letter = { exchange = \"\", routing_key = \"duplicates\" }.";
        table.refuse(key, "has nowhere to go", remedy);
    }
}

/// An acknowledgement says that a task has ended, not how.
fn check_completion(table: &TableReader<'_>, spec: &RuleSpec) {
    if spec.completion != Completion::Only(vec![CompletionSource::Ack]) {
        return;
    }
    let remedy = "Add \"events\", \"rpc\" or \"redis\" to completion, which tell success from failure.";
    if spec.cooldown.is_some() {
        table.refuse(
            "cooldown",
            "begins after a success, and completion = [\"ack\"] never tells of one",
            remedy,
        );
    }
    if spec.release_on.len() == 1 {
        table.refuse(
            "release_on",
            "needs the outcome of a task, and completion = [\"ack\"] never tells it",
            remedy,
        );
    }
}

/// What may be replaced is known by the start that frees its lock, or is marked on it.
fn check_replace(table: &TableReader<'_>, spec: &RuleSpec) {
    if spec.on_duplicate == OnDuplicate::Replace && spec.unique == Some(Unique::UntilExpired) {
        table.refuse(
            "on_duplicate",
            "replaces what has not started, and unique = \"until_expired\" never hears of a start",
            "Write unique = \"until_started\" or \"until_finished\".",
        );
    }
}

/// One that waits for the end of another is let go by whatever ends that.
fn check_keep_last(table: &TableReader<'_>, spec: &RuleSpec) {
    if spec.on_duplicate != OnDuplicate::KeepLast {
        return;
    }
    if let Some(unique) = spec.unique.filter(|unique| *unique != Unique::UntilFinished) {
        let says = format!("waits for the end of the task that holds the key, and unique = \"{unique}\" does not last until then");
        table.refuse("on_duplicate", &says, "Write unique = \"until_finished\".");
    }
    if spec.cooldown.is_some() {
        table.refuse(
            "cooldown",
            "lets the key rest after a success, and on_duplicate = \"keep_last\" runs what waits at once",
            "Leave one of the two out.",
        );
    }
    if spec.release_on.len() == 1 {
        table.refuse(
            "release_on",
            "keeps the key locked after the other outcome, and what waits (on_duplicate = \"keep_last\") would wait for the ttl",
            "Leave release_on out.",
        );
    }
}

/// A member of a canvas must not be lost, and one that is a duplicate waits for the end of its holder.
fn check_canvas(table: &TableReader<'_>, spec: &RuleSpec) {
    if spec.canvas != Canvas::Dedupe {
        return;
    }
    let scope = match spec.unique {
        Some(unique @ (Unique::UntilExpired | Unique::WhileRunning)) => unique.as_str(),
        _ => "",
    };
    if !scope.is_empty() {
        table.refuse(
            "canvas",
            &format!("waits for the end of the holder of a lock, and unique = {scope:?} has none that is held until then"),
            "Write unique = \"until_finished\" or \"until_started\", or canvas = \"bypass\".",
        );
    }
    if spec.on_running != OnRunning::Wait && spec.unique == Some(Unique::UntilStartedAndWhileRunning) {
        table.refuse(
            "canvas",
            "deduplicates members of a canvas, which on_running would lose",
            "Write on_running = \"wait\", or canvas = \"bypass\".",
        );
    }
}

fn check_debounce(table: &TableReader<'_>, spec: &RuleSpec) {
    match (spec.debounce, spec.debounce_max) {
        (None, Some(_)) => table.refuse("debounce_max", "bounds a debounce that is not set", "Write debounce beside it."),
        (Some(quiet), Some(longest)) if longest < quiet => {
            table.refuse("debounce_max", "is shorter than debounce", "Write a longer one.");
        }
        _ => {}
    }
    let is_replace = matches!(spec.on_duplicate, OnDuplicate::Drop | OnDuplicate::Replace);
    if spec.debounce.is_some() && !is_replace {
        table.refuse(
            "on_duplicate",
            "stands beside debounce, which replaces",
            "Leave on_duplicate out, or write \"replace\".",
        );
    }
    let (says, remedy) = match spec.unique {
        Some(Unique::UntilStarted | Unique::UntilFinished | Unique::UntilStartedAndWhileRunning) => return,
        // The rule that it continues with may say it.
        None if spec.and_next => return,
        None => ("stands in a rule without unique", "Write unique = \"until_started\" beside it."),
        Some(Unique::WhileRunning) => (
            "puts off what a key has in its queue, and unique = \"while_running\" locks keys for runs only",
            "Write unique = \"until_started+while_running\".",
        ),
        Some(Unique::UntilExpired) => (
            "replaces what has not started, and unique = \"until_expired\" never hears of a start",
            "Write unique = \"until_started\" or \"until_finished\".",
        ),
    };
    if spec.debounce.is_some() {
        table.refuse("debounce", says, remedy);
    }
}

/// Reports what is missing or too much in one `[[rule.limit]]`.
pub(super) fn check_limit(table: &TableReader<'_>, limit: &LimitSpec) {
    let lacks = |says: &str, remedy: &str| table.refuse_table(&format!("[[rule.limit]] {says}"), remedy);
    match (limit.times, limit.per) {
        (Some(0), _) => table.refuse(
            "times",
            "is none at all",
            "Write at least 1; [[rule]] mode = \"off\" switches a rule off.",
        ),
        (Some(_), Some(_)) => {}
        (Some(_), None) => lacks("has times and no per", "Write per = \"1m\", or rate = \"2/m\" for both."),
        (None, Some(_)) => lacks("has per and no times", "Write times = 2, or rate = \"2/m\" for both."),
        (None, None) if limit.concurrent.is_some() => {}
        // A rate that could not be read has been reported.
        (None, None) if table.has("rate") => {}
        (None, None) => lacks("limits nothing", "Write rate = \"2/m\", or times and per, or concurrent = 1."),
    }
    if limit.concurrent == Some(0) {
        table.refuse("concurrent", "lets nothing run", "Write at least concurrent = 1.");
    }
    match (limit.burst, limit.times) {
        (Some(0), _) => table.refuse("burst", "lets nothing run", "Write at least burst = 1."),
        (Some(burst), Some(times)) if burst > times => {
            let says = format!("is above times ({times}), which no window may exceed");
            table.refuse("burst", &says, &format!("Write at most burst = {times}."));
        }
        (Some(_), None) => table.refuse("burst", "belongs to a rate, and there is none", "Write rate = \"2/m\" beside it."),
        _ => {}
    }
    if limit.max_wait.is_some() && limit.on_max_wait.is_none() && !table.has("on_max_wait") {
        table.refuse(
            "max_wait",
            "does not say what comes after it",
            "Write on_max_wait = \"deliver\", \"drop\" or \"dead_letter\".",
        );
    }
    if limit.on_max_wait.is_some() && limit.max_wait.is_none() && !table.has("max_wait") {
        table.refuse("on_max_wait", "has no max_wait to follow", "Write max_wait beside it.");
    }
}

/// What the settings beside the rules offer them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offered<'a> {
    /// Workers are told to publish task events.
    pub events: bool,
    /// The Redis result backend is read.
    pub redis: bool,
    /// A duplicate's own message brings its result (`results.kind = "worker"`).
    pub carried: bool,
    /// Why the ids of dropped tasks may get no result; none if they get theirs.
    pub unanswered: Option<WhyUnanswered>,
    /// The proxy's own accounts at the broker.
    pub accounts: &'a [Account],
}

impl Offered<'_> {
    /// Whether the duplicates of this rule bring their results themselves.
    pub(super) fn carries(self, spec: &RuleSpec) -> bool {
        let knows_ends = !matches!(spec.unique, Some(Unique::UntilExpired | Unique::WhileRunning));
        self.carried && spec.result == ResultMode::Join && knows_ends
    }
}

/// Says which signal a rule needs and cannot have, by what the configuration alone shows. Events that workers publish untold, and rpc
/// results, show themselves only at run time.
fn unheard(spec: &RuleSpec, offered: Offered<'_>) -> Option<String> {
    let hears = Hears::of(&spec.completion);
    let counts_runs = spec.limits.iter().any(|limit| limit.concurrent.is_some());
    let (what, ack_tells) = match spec.unique {
        _ if counts_runs => ("end", spec.acks_late == AcksLate::True),
        None | Some(Unique::UntilExpired) => return None,
        Some(Unique::UntilStarted) => ("start", true),
        Some(Unique::UntilFinished | Unique::WhileRunning | Unique::UntilStartedAndWhileRunning) => {
            ("end", spec.acks_late == AcksLate::True)
        }
    };
    let told = [
        (Source::Ack, ack_tells),
        (Source::Events, offered.events),
        (Source::Redis, offered.redis),
    ];
    if told.iter().any(|(source, tells)| *tells && hears.hears(*source)) {
        return None;
    }
    let ttl = show_duration(spec.ttl);
    if spec.completion == Completion::Auto {
        return Some(format!(
            "hears of the end of a task by rpc results alone, since control.enable_events is false and results.url is not set: without them \
             its locks go by ttl, after {ttl}. Leave enable_events out, set results.url to Celery's Redis result backend, or write \
             acks_late = true if the tasks acknowledge after their run."
        ));
    }
    if hears.hears(Source::Rpc) {
        return None;
    }
    let mut whys = Vec::new();
    let mut remedies = Vec::new();
    for (source, why, remedy) in [
        (
            Source::Ack,
            "an ack before the run says nothing of the end",
            "write acks_late = true if the tasks acknowledge after their run",
        ),
        (
            Source::Events,
            "control.enable_events is false",
            "leave enable_events out, or start the workers with -E",
        ),
        (
            Source::Redis,
            "results.url is not set",
            "set results.url to Celery's Redis result backend",
        ),
    ] {
        if hears.hears(source) {
            whys.push(why);
            remedies.push(remedy);
        }
    }
    Some(format!(
        "hears of the {what} of a task by nothing that its completion lists, since {}: its locks go by ttl, after {ttl}. Write \
         completion = \"auto\"; or {}.",
        whys.join(" and "),
        remedies.join("; or ")
    ))
}

/// Says what a rule loses that replaces tasks, where probably nobody means that.
fn lost_by_replace(spec: &RuleSpec) -> Vec<(&'static str, &'static str)> {
    let mut losses = Vec::new();
    let locks = !matches!(spec.unique, None | Some(Unique::UntilExpired | Unique::WhileRunning));
    let replaces = spec.debounce.is_some() || spec.on_duplicate == OnDuplicate::Replace;
    if locks && replaces && spec.canvas == Canvas::Dedupe {
        losses.push((
            "canvas",
            "deduplicates members of groups, chords and chains, and replaces what has not started: a call outside of a canvas that replaces a \
             member ends that canvas with TaskRevokedError. Write canvas = \"bypass\", or on_duplicate = \"drop\" or \"keep_last\" without \
             debounce.",
        ));
    }
    if spec.unique == Some(Unique::UntilFinished) && spec.debounce.is_some() {
        losses.push((
            "debounce",
            "puts off what comes before its task starts, and drops what comes while that runs (unique = \"until_finished\"), though it may \
             not see the change. Write unique = \"until_started\", or on_duplicate = \"keep_last\" without debounce.",
        ));
    }
    losses
}

/// Says that nobody can send the dead letters of a rule, by what the configuration alone shows.
fn unsent(spec: &RuleSpec, accounts: &[Account]) -> Option<(&'static str, String)> {
    let runs = matches!(spec.unique, Some(Unique::WhileRunning | Unique::UntilStartedAndWhileRunning));
    let has_duplicates = spec.unique.is_some_and(|unique| unique != Unique::WhileRunning);
    let key = if has_duplicates && spec.on_duplicate == OnDuplicate::DeadLetter {
        "on_duplicate"
    } else if runs && spec.on_running == OnRunning::DeadLetter {
        "on_running"
    } else if spec.limits.iter().any(|limit| limit.on_max_wait == Some(OnMaxWait::DeadLetter)) {
        "on_max_wait"
    } else {
        return None;
    };
    if spec.mode != Mode::Enforce {
        return None;
    }
    let is_pattern = |vhost: &&String| vhost.contains(['*', '?', '[', '{', '\\']);
    let is_served = |vhost: &&String| is_pattern(vhost) || accounts.iter().any(|account| *account.vhost == ***vhost);
    let unserved: Vec<String> = spec
        .vhost
        .iter()
        .filter(|vhost| !is_served(vhost))
        .map(|vhost| format!("{vhost:?}"))
        .collect();
    let (lacks, remedy) = match (accounts, unserved.as_slice()) {
        ([], _) => (
            "no account of its own at the broker ([control])".to_owned(),
            "[control] url = \"amqp://USER:PASSWORD@HOST:5672/VHOST\"".to_owned(),
        ),
        (_, []) => return None,
        (_, [first, ..]) => (
            format!("no account of its own ([control]) for the virtual host {}", unserved.join(", ")),
            format!("[control.vhosts.{first}] url = \"amqp://USER:PASSWORD@HOST:5672\""),
        ),
    };
    let says = format!(
        "sends dead letters, for which Oncegate has {lacks}: instead of them what may not run is dropped, and counted. Write {remedy}, or {key} = \"drop\"."
    );
    Some((key, says))
}

/// What is allowed in the rules and probably not meant.
pub(super) fn warn(reader: &Reader, rules: &[Written<'_>], offered: Offered<'_>) {
    let mut is_continued = false;
    for rule in rules {
        let spec = &rule.spec;
        is_continued |= spec.and_next;
        if spec.mode == Mode::Off || !rule.is_read {
            continue;
        }
        let table = rule.table(reader);
        let name = spec.name.as_deref().or(spec.task.first().map(String::as_str)).unwrap_or_default();
        let say = |key: &str, message: String| {
            let at = table.node(key).map_or(rule.at, |node| node.at);
            reader.warn(at, Some(name), format!("rule {name:?} {message}"));
        };
        if spec.bypass {
            if spec.unique.is_some() {
                say(
                    "unique",
                    "forwards untouched (bypass), so that unique does nothing. Keep one of them.".to_owned(),
                );
            }
            continue;
        }
        let may_hold_up = spec.unique.is_some() || !spec.limits.is_empty() || is_continued;
        let amends = !spec.retry_delays.is_empty() || spec.beat_lease.is_some();
        if !may_hold_up && !amends {
            say(
                "name",
                "decides nothing. Write unique = \"until_started\", or bypass = true if that is meant.".to_owned(),
            );
        }
        let matches_all = spec
            .task
            .iter()
            .any(|glob| !glob.is_empty() && glob.chars().all(|character| character == '*'));
        if matches_all && spec.mode == Mode::Enforce && (may_hold_up || !amends) {
            say(
                "task",
                "matches every task and enforces. Write mode = \"observe\" first, or name the tasks.".to_owned(),
            );
        }
        for (key, message) in lost_by_replace(spec) {
            say(key, message.to_owned());
        }
        if let Some((key, message)) = unsent(spec, offered.accounts) {
            say(key, message);
        }
        if spec.on_duplicate == OnDuplicate::Raise {
            say(
                "on_duplicate",
                "raises in producers that wait for confirms, and drops for all others. Set broker_transport_options = \
                 {\"confirm_publish\": True} in the application."
                    .to_owned(),
            );
        }
        let written = spec.given.as_ref().is_some_and(|given| given.contains("result"));
        if let Some(why) = offered.unanswered.filter(|why| *why != WhyUnanswered::OnlyRpc)
            && written
            && spec.result != ResultMode::None
            && !offered.carries(spec)
        {
            let (result, remedy) = (spec.result.as_str(), why.remedy());
            let what = match why {
                WhyUnanswered::NoAccount => "no account is there to publish results with",
                WhyUnanswered::NoBackend | WhyUnanswered::OnlyRpc => "no result backend is known",
            };
            say(
                "result",
                format!("says result = {result:?}, and {what}: the ids of dropped tasks get no result. {remedy}."),
            );
        }
        if let Some(message) = unheard(spec, offered) {
            say(
                if spec.completion == Completion::Auto {
                    "unique"
                } else {
                    "completion"
                },
                message,
            );
        }
    }
}
