//! What `--help` shows below the options of commands that have no file of their own. Each example is parsed by a test.

pub const SKERRY: &str = "\
Examples:
  skerry up                      start a site of one node in the default folder
  skerry up --nodes 3            three processes on this machine form a site
  eval \"$(skerry env)\"           let S3 clients find it
  skerry status                  is everything well?

Exit codes:
  0  it is done
  1  it failed; standard error says why
  2  it was not understood: an unknown command or option, or a value that can't be
  3  from `status` only: the site answers but is not ready

Data goes to standard output, everything else to standard error. --output json is for programs: one object, whose
`output_version` changes when a program that reads it would have to.";

pub const UP: &str = "\
Examples:
  skerry up                              one node, in the default folder
  skerry up --nodes 3 --data ./site      three processes, in a folder of your choice
  skerry up --data ./try --ports random  beside another site on this machine";

pub const SERVER: &str = "\
Examples:
  skerry server                              as the configuration file and the variables say
  skerry server --data /srv/skerry --log-format json
  skerry server --config ./skerry.toml --s3-listen 127.0.0.1:9000";

pub const JOIN: &str = "\
Examples:
  skerry join --token-file token --node-listen 192.0.2.8:7301    join, and serve
  skerry join --token-file - --no-start                          only join; the token comes from standard input
  skerry join 192.0.2.7:7301 --token-file token --node-listen 0.0.0.0:7301 --advertise node2.lan:7301

Make the token with `skerry token create` on a server of the site.";

pub const ENV: &str = "\
Examples:
  eval \"$(skerry env)\"                 for the S3 clients that this shell starts
  skerry env --data ./site --output json";

pub const STATUS: &str = "\
Examples:
  skerry status                          the site in the default folder
  skerry status --data ./site --output json
  skerry status --endpoint https://node1.lan:7302 --ca door.pem

Exit codes: 0 ready, 3 not ready, 1 when no node answers.";

pub const NODE_LS: &str = "\
Examples:
  skerry node ls
  skerry node ls --output json";

pub const NODE_DESCRIBE: &str = "\
Examples:
  skerry node describe 2                 what is wrong with the second server?
  skerry node describe 1 --output json";

pub const RAFT_LS: &str = "\
Examples:
  skerry raft ls                         who leads which group, and who is behind?
  skerry raft ls --output json";

pub const PLACEMENT_SHOW: &str = "\
Examples:
  skerry placement show
  skerry placement show --output json";

pub const TOKEN_CREATE: &str = "\
Examples:
  skerry token create > token            good for an hour and for one machine
  skerry token create --ttl 600          good for ten minutes";

pub const USER_CREATE: &str = "\
Examples:
  skerry user create ada
  skerry user create till --role reader --project shop";

pub const USER_LS: &str = "\
Examples:
  skerry user ls
  skerry user ls --endpoint https://node1.lan:7302 --output json";

pub const USER_RM: &str = "\
Examples:
  skerry user rm ada";

pub const KEY_CREATE: &str = "\
Examples:
  skerry key create --user ada --note laptop
  skerry key create --output json > key.json";

pub const KEY_LS: &str = "\
Examples:
  skerry key ls
  skerry key ls --output json";

pub const KEY_RM: &str = "\
Examples:
  skerry key rm SK0123456789             the key's public half, as `skerry key ls` shows it";

pub const WHERE: &str = "\
Examples:
  skerry object where pictures/2026/photo.jpg
  skerry object where s3://pictures/2026/photo.jpg --output json

This asks about the site, not S3: --endpoint is a node's HTTP door here.";

pub const CONFIG_SHOW: &str = "\
Examples:
  skerry config show                     what `skerry server` would do here
  skerry config show --config ./skerry.toml --output json";

pub const COMPLETIONS: &str = "\
Examples:
  skerry completions bash > ~/.local/share/bash-completion/completions/skerry
  skerry completions fish > ~/.config/fish/completions/skerry.fish";

pub const MAN: &str = "\
Examples:
  skerry man | man -l -                      read the page of the program
  skerry man --out ~/.local/share/man/man1   then `man skerry-object-cp` shows a command's";

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory, Parser};

    use crate::cli::Arguments;

    fn help(command: &Command) -> String {
        let help = command.get_after_help();
        help.map(ToString::to_string).unwrap_or_default()
    }

    fn leaves(command: &Command) -> Vec<&Command> {
        match command.has_subcommands() {
            true => command.get_subcommands().flat_map(leaves).collect(),
            false => vec![command],
        }
    }

    /// The command of a line such as `  skerry up --nodes 3    what it does`, without pipes and redirections.
    fn typed(line: &str) -> Option<&str> {
        let line = line
            .strip_prefix("  ")
            .filter(|line| line.starts_with("skerry "))?;
        let ends = ["  ", " > ", " | "];
        let end = ends.iter().filter_map(|end| line.find(end)).min();
        Some(&line[..end.unwrap_or(line.len())])
    }

    #[test]
    fn every_command_has_examples() {
        let root = Arguments::command();
        let found = leaves(&root);
        assert!(found.len() > 25, "{}", found.len());
        for command in found.into_iter().chain([&root]) {
            let examples = help(command)
                .lines()
                .filter(|line| line.starts_with("  ") && line.contains("skerry "))
                .count();
            let name = command.get_name();
            assert!(help(command).starts_with("Examples:\n"), "{name}");
            assert!((1..=6).contains(&examples), "{name} has {examples}");
        }
    }

    #[test]
    fn every_example_can_be_typed() {
        let root = Arguments::command();
        let help: Vec<_> = leaves(&root).into_iter().chain([&root]).map(help).collect();
        let typed: Vec<_> = help
            .iter()
            .flat_map(|help| help.lines().filter_map(typed))
            .collect();
        assert!(typed.len() > 40, "{}", typed.len());
        for line in typed {
            let parsed = Arguments::try_parse_from(line.split_whitespace());
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }

    #[test]
    fn the_program_names_its_exit_codes() {
        let help = help(&Arguments::command());
        for code in ["  0  ", "  1  ", "  2  ", "  3  "] {
            assert!(help.contains(code), "{code}");
        }
    }
}
