//! The only place with policy: which rule a message falls under, and what its unique key is.

pub mod lock;
pub mod spec;

/// The rules.
#[derive(Debug, Default)]
pub struct RuleSet(Vec<spec::RuleSpec>);
impl RuleSet {
    /// See `spec`.
    pub fn compile(specs: Vec<spec::RuleSpec>, _signatures: &[(String, String)]) -> Result<RuleSet, Vec<spec::SpecError>> {
        Ok(RuleSet(specs))
    }
    /// See `spec`.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}
