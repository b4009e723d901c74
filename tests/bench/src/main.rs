//! Benchmarks: bare broker, `HAProxy` in TCP mode and Oncegate side by side in one run.
//!
//! `oncegate-bench run` is the driver (see `README.md`); `oncegate-bench null-broker ADDRESS` serves until it is ended.

mod client;
mod driver;
mod frames;
mod load;
mod message;
mod null_broker;

use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("run") => driver::run(&driver::Options::parse(arguments)?),
        Some("null-broker") => null_broker::serve(arguments.next().context("null-broker needs an address to listen on")?.parse()?),
        _ => bail!("usage: oncegate-bench run [--quick] [--rounds N] [--seconds S] [--only TEXT] [--no-oncegate] | null-broker ADDRESS"),
    }
}
