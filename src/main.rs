//! The program: arguments in, an exit code out.

use std::io;
use std::process::ExitCode;

use mimalloc::MiMalloc;
use oncegate::cli::{self, Exit, Invocation, Output};

/// Messages come in bursts of many small pieces that live until the store has answered.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    // The first provider that is installed is the one that TLS uses everywhere; nothing else installs one.
    if tokio_rustls::rustls::crypto::ring::default_provider().install_default().is_err() {
        return Exit::TryAgain.into();
    }
    let (mut input, mut out, mut err) = (io::stdin().lock(), io::stdout(), io::stderr());
    let invocation = cli::invoke(std::env::args_os(), &mut Output::new(&mut input, &mut out, &mut err));
    match invocation {
        Invocation::Run(args) => oncegate::run::run(&args).into(),
        Invocation::Finished(exit) => exit.into(),
    }
}
