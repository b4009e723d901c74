//! Medians, ratios within rounds, Markdown.

use super::measure::{Results, Turn};
use super::scenarios::{Broker, PLAIN, Scenario, UNIQUE, Work};
use super::subjects::Subject;

/// The middle value, or the mean of the two middle ones.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    values.get(middle - 1).map(|lower| f64::midpoint(*lower, upper))
}

/// The value below which that share of `values` lies.
fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
        .get(((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1)))
        .copied()
}

fn column(turns: &[Turn], value: impl Fn(&Turn) -> Option<f64>) -> Vec<f64> {
    turns.iter().filter_map(value).collect()
}

/// For each round a subject's value combined with `base`'s value of the same round.
fn paired(
    results: &Results,
    subject: Subject,
    base: Subject,
    value: impl Fn(&Turn) -> Option<f64>,
    combine: impl Fn(f64, f64) -> f64,
) -> Vec<f64> {
    let turns = |wanted: Subject| results.iter().find(|(subject, _)| *subject == wanted).map(|(_, turns)| turns);
    let pairs = turns(subject).into_iter().flatten().zip(turns(base).into_iter().flatten());
    pairs
        .filter_map(|(own, base)| Some(combine(value(own)?, value(base)?)))
        .filter(|value| value.is_finite())
        .collect()
}

/// Median and, in brackets, the lowest and highest round.
fn spread(values: &[f64], digits: usize) -> String {
    let low = values.iter().copied().min_by(f64::total_cmp);
    let high = values.iter().copied().max_by(f64::total_cmp);
    match (median(values.to_vec()), low, high) {
        (Some(middle), Some(low), Some(high)) => format!("{middle:.digits$} ({low:.digits$} to {high:.digits$})"),
        _ => "–".to_owned(),
    }
}

fn ratio(own: f64, base: f64) -> f64 {
    own / base
}

fn cell(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
}

/// Digits in groups of three.
fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.max(0.0));
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn p50(turn: &Turn) -> Option<f64> {
    quantile(&turn.latencies, 0.5)
}

fn p99(turn: &Turn) -> Option<f64> {
    quantile(&turn.latencies, 0.99)
}

/// Prints the table of one scenario.
pub fn print(scenario: &Scenario, results: &Results) {
    println!("## {}\n", scenario.name);
    match scenario.work {
        Work::Publish { .. } | Work::Deliver(_) | Work::Halves(_) => print_rates(results),
        Work::Latency(..) => print_latencies(results),
        Work::Idle(count) => print_memory(results, count),
    }
    for (subject, turns) in results {
        if let Some(turn) = turns.last().filter(|turn| !turn.decisions.is_empty()) {
            let list: Vec<String> = turn.decisions.iter().map(|(name, count)| format!("{count} {name}")).collect();
            println!("\n{}, decisions of the last round: {}.", subject.label(), list.join(", "));
        }
        for (round, turn) in turns.iter().enumerate() {
            if let Some(doubt) = &turn.doubt {
                println!("\n**Not what was meant**: {}, round {}: {doubt}.", subject.label(), round + 1);
            }
        }
    }
    println!();
}

fn print_rates(results: &Results) {
    println!("| | messages/s (min–max) | ÷ bare | ÷ HAProxy | proxy CPU µs/message | ÷ HAProxy | client CPU µs | broker CPU µs |");
    println!("|---|---|---|---|---|---|---|---|");
    for (subject, turns) in results {
        let rates = column(turns, |turn| turn.rate);
        let (low, high) = (
            rates.iter().copied().fold(f64::INFINITY, f64::min),
            rates.iter().copied().fold(0.0, f64::max),
        );
        println!(
            "| {} | {} ({}–{}) | {} | {} | {} | {} | {} | {} |",
            subject.label(),
            grouped(median(rates).unwrap_or(0.0)),
            grouped(low),
            grouped(high),
            cell(median(paired(results, *subject, Subject::Bare, |turn| turn.rate, ratio)), 2),
            cell(median(paired(results, *subject, Subject::HaProxy, |turn| turn.rate, ratio)), 2),
            cell(median(column(turns, |turn| turn.proxy_cpu)), 2),
            cell(median(paired(results, *subject, Subject::HaProxy, |turn| turn.proxy_cpu, ratio)), 2),
            cell(median(column(turns, |turn| turn.client_cpu)), 2),
            cell(median(column(turns, |turn| turn.broker_cpu)), 2),
        );
    }
}

fn print_latencies(results: &Results) {
    println!("| | p50 µs (lowest to highest round) | p50 − bare | p99 µs | p99 − bare |");
    println!("|---|---|---|---|---|");
    for (subject, turns) in results {
        let middles = column(turns, p50);
        let (low, high) = (
            middles.iter().copied().fold(f64::INFINITY, f64::min),
            middles.iter().copied().fold(0.0, f64::max),
        );
        println!(
            "| {} | {} ({low:.0}–{high:.0}) | {} | {} | {} |",
            subject.label(),
            cell(median(middles), 0),
            spread(&paired(results, *subject, Subject::Bare, p50, |own, base| own - base), 0),
            cell(median(column(turns, p99)), 0),
            spread(&paired(results, *subject, Subject::Bare, p99, |own, base| own - base), 0),
        );
    }
}

fn print_memory(results: &Results, count: usize) {
    println!("| | kB per connection ({count} connections) |");
    println!("|---|---|");
    for (subject, turns) in results.iter().filter(|(subject, _)| *subject != Subject::Bare) {
        println!(
            "| {} | {} |",
            subject.label(),
            cell(median(column(turns, |turn| turn.memory)).map(|bytes| bytes / 1000.0), 1)
        );
    }
}

/// Which side of a goal is good.
#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// The goals that a run can judge: what, found, verdict.
#[derive(Default)]
pub struct Goals(Vec<(String, String, &'static str)>);

impl Goals {
    /// The median decides; where the rounds disagree the verdict says so.
    fn add(&mut self, what: &str, found: &[f64], bound: Bound, digits: usize) {
        let Some(middle) = median(found.to_vec()) else { return };
        let (text, meets): (String, &dyn Fn(f64) -> bool) = match bound {
            Bound::AtLeast(goal) => (format!("{what} at least {goal}"), &move |value| value >= goal),
            Bound::AtMost(goal) => (format!("{what} at most {goal}"), &move |value| value <= goal),
        };
        let unanimous = found.iter().all(|value| meets(*value) == meets(middle));
        let verdict = match (meets(middle), unanimous) {
            (true, true) => "yes",
            (true, false) => "yes at the median, not in every round",
            (false, true) => "**no**",
            (false, false) => "**no** at the median, yes in some rounds",
        };
        self.0.push((text, spread(found, digits), verdict));
    }

    /// A turn that did not do what was meant proves no goal.
    fn doubt(&mut self, name: &str, turns: &[Turn]) {
        let doubtful = turns.iter().filter(|turn| turn.doubt.is_some()).count();
        if doubtful > 0 {
            let found = format!("{doubtful} of {} turns were not what was meant, see the table", turns.len());
            self.0.push((format!("{name} every turn sound"), found, "**no**"));
        }
    }

    /// Adds what this scenario says about a goal.
    pub fn judge(&mut self, scenario: &Scenario, results: &Results) {
        for (subject, turns) in results.iter().filter(|(subject, _)| subject.is_oncegate()) {
            let name = format!("{}, {}:", scenario.name, subject.label());
            self.doubt(&name, turns);
            match (scenario.work, scenario.broker) {
                (Work::Publish { task: UNIQUE, .. }, Broker::Null) => {
                    let goal = if *subject == Subject::OncegateRedis { 40_000.0 } else { 150_000.0 };
                    self.add(
                        &format!("{name} messages/s"),
                        &column(turns, |turn| turn.rate),
                        Bound::AtLeast(goal),
                        0,
                    );
                }
                (Work::Publish { task: PLAIN, .. } | Work::Deliver(PLAIN), _) => {
                    let rates = paired(results, *subject, Subject::HaProxy, |turn| turn.rate, ratio);
                    self.add(&format!("{name} rate ÷ HAProxy"), &rates, Bound::AtLeast(0.9), 2);
                    let costs = paired(results, *subject, Subject::HaProxy, |turn| turn.proxy_cpu, ratio);
                    self.add(&format!("{name} CPU ÷ HAProxy"), &costs, Bound::AtMost(1.5), 2);
                }
                (Work::Deliver(_), _) => {
                    let rates = paired(results, *subject, Subject::HaProxy, |turn| turn.rate, ratio);
                    self.add(&format!("{name} rate ÷ HAProxy"), &rates, Bound::AtLeast(0.9), 2);
                }
                (Work::Latency(..), _) if *subject == Subject::OncegateRedis => {
                    let added = paired(results, *subject, Subject::Bare, p50, |own, base| own - base);
                    self.add(&format!("{name} µs added at the median"), &added, Bound::AtMost(150.0), 0);
                }
                (Work::Idle(_), _) => {
                    let memory = column(turns, |turn| turn.memory.map(|bytes| bytes / 1000.0));
                    self.add(&format!("{name} kB per connection"), &memory, Bound::AtMost(12.0), 1);
                }
                _ => {}
            }
        }
    }

    /// Prints the table of goals, if any was judged.
    pub fn print(&self) {
        if self.0.is_empty() {
            return;
        }
        println!("## Goals\n\n| goal | found: median (lowest to highest round) | met |\n|---|---|---|");
        for (goal, found, verdict) in &self.0 {
            println!("| {goal} | {found} | {verdict} |");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_within_rounds() {
        let turn = |rate| Turn {
            rate: Some(rate),
            ..Turn::default()
        };
        let results = vec![
            (Subject::HaProxy, vec![turn(100.0), turn(10.0), turn(50.0)]),
            (Subject::OncegateMemory, vec![turn(90.0), turn(8.0), turn(50.0)]),
        ];
        let found = paired(&results, Subject::OncegateMemory, Subject::HaProxy, |turn| turn.rate, ratio);
        assert_eq!(found, vec![0.9, 0.8, 1.0]);
        assert_eq!(spread(&found, 2), "0.90 (0.80 to 1.00)");
        assert!(paired(&results, Subject::OncegateMemory, Subject::Bare, |turn| turn.rate, ratio).is_empty());
    }

    #[test]
    fn a_verdict_says_when_rounds_disagree() {
        let mut goals = Goals::default();
        goals.add("a", &[0.9, 1.0, 1.1], Bound::AtLeast(0.9), 2);
        goals.add("b", &[0.8, 1.0, 1.1], Bound::AtLeast(0.9), 2);
        goals.add("c", &[1.6, 1.7], Bound::AtMost(1.5), 2);
        goals.add("d", &[], Bound::AtMost(1.5), 2);
        goals.doubt(
            "e",
            &[Turn {
                doubt: Some("1 lost".to_owned()),
                ..Turn::default()
            }],
        );
        let verdicts: Vec<&str> = goals.0.iter().map(|(_, _, verdict)| *verdict).collect();
        assert_eq!(verdicts, ["yes", "yes at the median, not in every round", "**no**", "**no**"]);
    }

    #[test]
    fn medians_and_quantiles() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
        let values: Vec<f64> = (0..100).map(f64::from).collect();
        assert_eq!(quantile(&values, 0.99), Some(99.0));
        assert_eq!(grouped(1_234_567.0), "1,234,567");
    }
}
