//! What is made from the description of the command line: completion scripts and the manual.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::CommandFactory;

use super::{Arguments, print};

/// Prints the completion script for a shell.
pub fn completions(shell: clap_complete::Shell) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "skerry", &mut script);
    print::file(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the manual page of the program, or writes the pages of all commands to a folder.
pub fn manual(folder: Option<&Path>) -> Result<ExitCode> {
    // The same pages whichever way they are made: `help` is no command to read about.
    let command = Arguments::command().disable_help_subcommand(true);
    let Some(folder) = folder else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        print::file(&page)?;
        return Ok(ExitCode::SUCCESS);
    };
    let written =
        std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(command, folder));
    written.with_context(|| format!("can't write the manual to {}", folder.display()))?;
    print::note(format!("the manual is in {}", folder.display()));
    Ok(ExitCode::SUCCESS)
}
