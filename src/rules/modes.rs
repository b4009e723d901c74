//! Modes that an operator sets above those of the configuration, for a while.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::RuleSet;
use super::spec::{Mode, RuleSpec};

/// Which modes are set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Modes {
    /// Every rule is off, whatever else is said.
    pub all_off: bool,
    /// For every rule for which nothing else is said. A rule that the configuration has off stays off.
    pub all: Option<Mode>,
    /// For single rules, by name.
    pub rules: BTreeMap<Arc<str>, Mode>,
}

impl Modes {
    /// The mode of a rule, which the configuration has in `own`.
    pub fn of(&self, rule: &str, own: Mode) -> Mode {
        match (self.rules.get(rule), self.all) {
            _ if self.all_off => Mode::Off,
            (Some(mode), _) => *mode,
            (None, Some(mode)) if own != Mode::Off => mode,
            (None, _) => own,
        }
    }
}

/// The name of a rule. One that has none does not compile.
fn name(spec: &RuleSpec) -> &str {
    spec.name.as_deref().or(spec.task.first().map(String::as_str)).unwrap_or_default()
}

impl RuleSet {
    /// The names of all rules, those that are off included, with their modes.
    pub fn modes(&self) -> impl Iterator<Item = (&str, Mode)> {
        self.specs.iter().map(|spec| (name(spec), spec.mode))
    }

    /// The same rules in these modes; `None` if no mode differs.
    pub fn in_modes(&self, modes: &Modes) -> Option<RuleSet> {
        if self.modes().all(|(name, own)| modes.of(name, own) == own) {
            return None;
        }
        let mut specs = self.specs.clone();
        for spec in &mut specs {
            spec.mode = modes.of(name(spec), spec.mode);
        }
        // They compiled before, and no fault is a matter of modes.
        let compiled = RuleSet::of(specs, self.signatures.clone(), Vec::new());
        compiled.ok().map(|set| set.telling(self.told.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::owed::{Callers, Told};
    use crate::rules::spec::Unique;

    fn set(rules: &[(&str, Mode)]) -> RuleSet {
        let spec = |(task, mode): &(&str, Mode)| RuleSpec {
            task: vec![(*task).to_owned()],
            unique: Some(Unique::UntilStarted),
            params: Some("a, b=1".to_owned()),
            mode: *mode,
            ..RuleSpec::default()
        };
        RuleSet::compile(rules.iter().map(spec).collect(), &[]).expect("compiles")
    }

    fn modes(set: &RuleSet) -> Vec<Mode> {
        set.modes().map(|(_, mode)| mode).collect()
    }

    const OWN: [(&str, Mode); 3] = [("a", Mode::Enforce), ("b", Mode::Observe), ("c", Mode::Off)];

    #[test]
    fn a_rule_of_its_own_goes_before_all_and_off_here_before_both() {
        use Mode::{Enforce, Observe, Off};
        let set = set(&OWN);
        assert_eq!(modes(&set), [Enforce, Observe, Off]);
        let rule = |name: &str, mode| BTreeMap::from([(Arc::from(name), mode)]);
        for (all_off, all, rules, wanted) in [
            (false, Some(Off), BTreeMap::new(), [Off, Off, Off]),
            (false, Some(Observe), BTreeMap::new(), [Observe, Observe, Off]),
            (false, Some(Enforce), BTreeMap::new(), [Enforce, Enforce, Off]),
            (false, Some(Off), rule("a", Observe), [Observe, Off, Off]),
            (false, None, rule("c", Enforce), [Enforce, Observe, Enforce]),
            (true, Some(Enforce), rule("a", Enforce), [Off, Off, Off]),
        ] {
            let wanted_modes = Modes { all_off, all, rules };
            let other = set.in_modes(&wanted_modes).expect("it differs");
            assert_eq!(modes(&other), wanted, "{wanted_modes:?}");
            let in_force = other.rules().iter().map(|rule| (rule.index, rule.mode));
            let wanted = wanted.iter().copied().enumerate().filter(|(_, mode)| *mode != Off);
            assert!(in_force.eq(wanted), "{wanted_modes:?}");
        }
    }

    #[test]
    fn results_are_told_in_the_same_way() {
        let told = Told::Published {
            vhosts: ["/".into()].into(),
            to: Callers::All,
        };
        let set = set(&OWN).telling(told.clone());
        let modes = Modes {
            all: Some(Mode::Observe),
            ..Modes::default()
        };
        assert_eq!(set.in_modes(&modes).expect("it differs").told(), &told);
    }

    #[test]
    fn what_changes_nothing_is_no_other_set() {
        let set = set(&OWN);
        for modes in [
            Modes::default(),
            Modes {
                rules: BTreeMap::from([(Arc::from("b"), Mode::Observe), (Arc::from("nobody"), Mode::Off)]),
                ..Modes::default()
            },
        ] {
            assert!(set.in_modes(&modes).is_none(), "{modes:?}");
        }
    }
}
