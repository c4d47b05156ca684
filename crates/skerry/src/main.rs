//! The `skerry` program: one process per machine, and the command line to it.

#[cfg(not(target_os = "linux"))]
compile_error!("Skerry runs on Linux only for now");

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

mod cli;
mod config;
mod logs;
mod node;
mod otel;
mod up;

/// How long blocking work may go on after the end; a start that was broken off may leave some.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    node::settings::OpenFiles::raise();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(cli::run(arguments));
            runtime.shutdown_timeout(SETTLE_LIMIT);
            result
        }
        Err(error) => Err(anyhow::Error::new(error).context("can't start the async runtime")),
    };
    match result {
        Ok(code) => code,
        Err(error) if error.is::<cli::print::OutputClosed>() => ExitCode::SUCCESS,
        Err(error) => {
            cli::print::fail(&error);
            ExitCode::from(cli::print::FAILED)
        }
    }
}
