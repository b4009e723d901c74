//! The command line: reads the arguments, and does every command but `run`, which main does.
//!
//! `explain` and `check` need no running proxy; `why`, `mode`, `limits`, `status`, `reload`, `drain` and `watch` speak to one; `locks` to one, or straight to the store.

mod args;
mod check;
mod connect;
mod explain;
mod http;
mod limits;
mod locks;
mod mode;
mod output;
mod process;
#[cfg(test)]
mod tests;
mod watch;
mod why;

pub use args::{Cli, RunArgs};
pub use output::{Exit, Output};

use std::ffi::OsString;

use clap::Parser;
use clap::error::ErrorKind;

use args::Command;
use output::Failure;

/// What the arguments ask of main.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    /// Run the proxy.
    Run(RunArgs),
    /// Nothing more: end with this code.
    Finished(Exit),
}

/// Reads the arguments, the program's name first, and does what they ask, unless that is to run the proxy.
///
/// It blocks, and it is called outside of any runtime.
pub fn invoke(arguments: impl IntoIterator<Item = OsString>, output: &mut Output<'_>) -> Invocation {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return Invocation::Finished(output.usage(&error)),
    };
    let Some(command) = cli.command else {
        return Invocation::Run(cli.run);
    };
    if let Command::Run(run) = command {
        return Invocation::Run(if run == RunArgs::default() { cli.run } else { run });
    }
    if cli.run != RunArgs::default() {
        let error = clap::Error::raw(
            ErrorKind::ArgumentConflict,
            "options of `run` stand before another command: put them after it\n",
        );
        return Invocation::Finished(output.usage(&error));
    }
    output.set_json(cli.json);
    let done = match command {
        Command::Run(_) => Ok(Exit::Done),
        Command::Check(args) => Ok(check::check(&args, output)),
        Command::Explain(args) => explain::explain(&args, output),
        Command::Status(proxy) => process::status(&proxy, output),
        Command::Reload(proxy) => process::reload(&proxy, output),
        Command::Drain(proxy) => process::drain(&proxy, output),
        Command::Why { id, proxy } => why::why(&proxy, &id, output),
        Command::Mode(args) => mode::mode(&args, output),
        Command::Watch(proxy) => watch::watch(&proxy, output),
        Command::Locks(command) => locks::locks(command, output),
        Command::Limits(command) => limits::limits(command, output),
    };
    Invocation::Finished(done.unwrap_or_else(|failure: Failure| output.fail(&failure)))
}
