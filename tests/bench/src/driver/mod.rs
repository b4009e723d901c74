//! Starts everything, runs the scenarios round by round with the subjects in turn, prints the tables.

mod facts;
mod measure;
mod process;
mod report;
mod scenarios;
mod subjects;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// What `run` was told.
#[derive(Debug, Clone)]
pub struct Options {
    /// Rounds per scenario; each gives every subject one turn.
    pub rounds: usize,
    /// Length of one measured turn of a rate scenario.
    pub turn: Duration,
    /// Idle connections.
    pub idle: usize,
    /// Single publishes per turn of the latency scenario.
    pub singles: usize,
    /// Publishes of the half-duplicates scenario, over three connections.
    pub halves: u64,
    /// Only scenarios whose name contains this.
    pub only: String,
    /// The proxy; without it only bare broker and `HAProxy` run.
    pub oncegate: Option<PathBuf>,
}

impl Options {
    /// Reads the arguments after `run` and `$ONCEGATE_BIN`.
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            rounds: 5,
            turn: Duration::from_secs(2),
            idle: 2000,
            singles: 500,
            halves: 60_000,
            only: String::new(),
            oncegate: std::env::var_os("ONCEGATE_BIN").filter(|path| !path.is_empty()).map(PathBuf::from),
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--quick" => (options.rounds, options.turn, options.idle, options.singles) = (2, Duration::from_millis(500), 300, 200),
                "--rounds" => options.rounds = value()?.parse()?,
                "--seconds" => options.turn = Duration::try_from_secs_f64(value()?.parse()?)?,
                "--only" => options.only = value()?,
                "--no-oncegate" => options.oncegate = None,
                other => bail!("unknown argument {other}"),
            }
        }
        if options.rounds == 0 {
            bail!("--rounds must be at least 1");
        }
        Ok(options)
    }
}

/// The whole run.
pub fn run(options: &Options) -> Result<()> {
    let mut bench = measure::Bench::start(options)?;
    println!("# Bare broker, HAProxy and Oncegate side by side\n");
    facts::print(options, bench.redis());
    let steal = facts::Steal::now();
    let mut goals = report::Goals::default();
    for scenario in scenarios::all(options) {
        if !scenario.name.contains(&options.only) {
            continue;
        }
        eprintln!("{} …", scenario.name);
        let results = bench.scenario(&scenario, options.rounds)?;
        report::print(&scenario, &results);
        goals.judge(&scenario, &results);
    }
    goals.print();
    steal.print();
    Ok(())
}
