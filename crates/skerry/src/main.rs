//! The `skerry` program: one process per machine, and the command line to it.

#[cfg(not(target_os = "linux"))]
compile_error!("Skerry runs on Linux only for now");

use std::process::ExitCode;

use clap::Parser;

mod cli;
mod config;
mod logs;
mod node;
mod up;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(cli::run(arguments)),
        Err(error) => Err(anyhow::Error::new(error).context("can't start the async runtime")),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            cli::print::fail(&error);
            ExitCode::from(cli::print::FAILED)
        }
    }
}
