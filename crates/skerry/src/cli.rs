//! The command line: what can be typed, and what runs for it.
//!
//! Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 misused, 3 not ready;
//! [`examples::SKERRY`] and docs/cli.md say so too.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use identity::Role;

use crate::logs::LogFormat;
use crate::up;

mod admin;
mod bench;
mod bucket;
pub mod client;
mod config;
mod copy;
mod documents;
mod endpoint;
mod examples;
pub mod folder;
mod object;
mod place;
pub mod print;
mod remote;
mod server;
mod show;
mod units;

pub use server::{join_folder, until_stopped};
pub use show::variables;

/// An edge cloud in one program: S3 objects on one machine or many.
#[derive(Debug, Parser)]
#[command(
    name = "skerry",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
#[command(after_help = examples::SKERRY)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a site on this machine and keep it running
    #[command(after_help = examples::UP)]
    Up(UpArguments),
    /// Run one node (for systemd and the like)
    #[command(after_help = examples::SERVER)]
    Server(ServerArguments),
    /// Make this machine a server of an existing site, with a token
    #[command(after_help = examples::JOIN)]
    Join(JoinArguments),
    /// Print the variables that S3 clients need
    #[command(after_help = examples::ENV)]
    Env(Here),
    /// Say how the site is; exit code 0 when all of it is ready, 3 when not
    #[command(after_help = examples::STATUS)]
    Status(At),
    /// The site's servers
    #[command(subcommand)]
    Node(NodeCommand),
    /// The Raft groups
    #[command(subcommand)]
    Raft(RaftCommand),
    /// Where groups and blocks are placed
    #[command(subcommand)]
    Placement(PlacementCommand),
    /// One-time tokens with which machines join
    #[command(subcommand)]
    Token(TokenCommand),
    /// Users
    #[command(subcommand)]
    User(UserCommand),
    /// Access keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Buckets
    #[command(subcommand)]
    Bucket(bucket::BucketCommand),
    /// Objects
    #[command(subcommand)]
    Object(ObjectCommand),
    /// Put load on a service and measure it
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// What a node is configured with
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a completion script for a shell
    #[command(after_help = examples::COMPLETIONS)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write those of all commands
    #[command(after_help = examples::MAN)]
    Man {
        /// Write a page for the program and for each of its commands to this folder
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

/// Which site, and how to print.
#[derive(Debug, Clone, Args)]
pub struct At {
    // clap would take an empty variable for a value, so variables are read where they are needed.
    #[arg(
        long,
        value_name = "DIR",
        help = "The data folder of the site or of one of its nodes [env: SKERRY_DATA]"
    )]
    data: Option<PathBuf>,
    /// Ask a node on another machine, by the URL of its HTTP door (port 7302, not S3's); an administrator's access key
    /// is taken from SKERRY_ACCESS_KEY and SKERRY_SECRET_KEY, or from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY
    #[arg(long, value_name = "https://HOST:7302")]
    endpoint: Option<String>,
    #[arg(
        long,
        value_name = "FILE",
        help = "With --endpoint: trust the authorities in this PEM file, not the system's [env: SKERRY_CA]"
    )]
    ca: Option<PathBuf>,
    /// With --endpoint: send the secret to another machine over plain HTTP
    #[arg(long)]
    insecure_http: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

impl At {
    /// A folder, and how to print.
    pub fn new(data: PathBuf, output: Output) -> Self {
        At {
            data: Some(data),
            endpoint: None,
            ca: None,
            insecure_http: false,
            output,
        }
    }
}

/// A site on this machine, and how to print.
#[derive(Debug, Clone, Args)]
struct Here {
    #[arg(
        long,
        value_name = "DIR",
        help = "The data folder of the site or of one of its nodes [env: SKERRY_DATA]"
    )]
    data: Option<PathBuf>,
    /// How to print
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Text,
    /// For programs; versioned
    Json,
}

/// Which ports to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Ports {
    /// 7300 (S3), 7301 (nodes), 7302 (HTTP); ten further for each node on this machine
    Default,
    /// Any free ones; kept for the next start
    Random,
}

#[derive(Debug, Args)]
struct UpArguments {
    /// Processes to start: 1 to 9
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
    #[arg(
        long,
        value_name = "DIR",
        help = "The data folder (default: /var/lib/skerry for root, else below the user's data folder) [env: SKERRY_DATA]"
    )]
    data: Option<PathBuf>,
    /// Which ports to take; a folder that was started before keeps its own
    #[arg(long, value_enum, default_value_t = Ports::Default)]
    ports: Ports,
    /// How log lines look
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Debug, Args)]
struct ServerArguments {
    #[command(flatten)]
    config: config::ConfigFlags,
    /// Stop when the process that started this one is gone; only flags and what `up` goes by count then, no file
    #[arg(long, hide = true)]
    with_parent: bool,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("the_token").args(["token", "token_file"]).required(true))]
struct JoinArguments {
    /// A server of the site, HOST:PORT of its node listener (default: those in the token)
    address: Option<String>,
    /// The token
    #[arg(long)]
    token: Option<String>,
    /// A file with the token, so that it stays out of the process list; `-` is stdin
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArguments,
    /// Only join; start the server later with `skerry server`
    #[arg(long)]
    no_start: bool,
}

#[derive(Debug, Subcommand)]
enum NodeCommand {
    /// List the servers
    #[command(after_help = examples::NODE_LS)]
    Ls(At),
    /// Show one server
    #[command(after_help = examples::NODE_DESCRIBE)]
    Describe {
        /// Its number
        node: u64,
        #[command(flatten)]
        at: At,
    },
}

#[derive(Debug, Subcommand)]
enum RaftCommand {
    /// List the groups: members, roles, leader, term, commit, applied, lag
    #[command(after_help = examples::RAFT_LS)]
    Ls(At),
}

#[derive(Debug, Subcommand)]
enum PlacementCommand {
    /// Show the newest epoch's placement
    #[command(after_help = examples::PLACEMENT_SHOW)]
    Show(At),
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token; it is shown once
    #[command(after_help = examples::TOKEN_CREATE)]
    Create {
        /// How long it is good, in seconds
        #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
        ttl: u64,
        #[command(flatten)]
        at: At,
    },
}

#[derive(Debug, Subcommand)]
enum UserCommand {
    /// Make a user
    #[command(after_help = examples::USER_CREATE)]
    Create {
        /// The name: a-z, 0-9, `.`, `_`, `-`
        name: String,
        /// What the user may do
        #[arg(long, default_value = "member")]
        role: Role,
        /// The user's project; there is one so far, `default`
        #[arg(long, default_value = "default")]
        project: String,
        #[command(flatten)]
        at: At,
    },
    /// List the users
    #[command(after_help = examples::USER_LS)]
    Ls(At),
    /// Remove a user and its keys; its buckets stay
    #[command(after_help = examples::USER_RM)]
    Rm {
        /// The name
        name: String,
        #[command(flatten)]
        at: At,
    },
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make an access key for a user; its secret is shown once
    #[command(after_help = examples::KEY_CREATE)]
    Create {
        /// Whose key
        #[arg(long, default_value = "root")]
        user: String,
        /// What it is for
        #[arg(long, default_value = "")]
        note: String,
        #[command(flatten)]
        at: At,
    },
    /// List the access keys
    #[command(after_help = examples::KEY_LS)]
    Ls(At),
    /// Remove an access key: it is refused within a second
    #[command(after_help = examples::KEY_RM)]
    Rm {
        /// The access key
        key: String,
        #[command(flatten)]
        at: At,
    },
}

#[derive(Debug, Subcommand)]
enum ObjectCommand {
    /// Copy files and folders to S3 or back
    #[command(after_help = copy::EXAMPLES)]
    Cp(copy::CopyArguments),
    /// List objects
    #[command(after_help = object::LIST_EXAMPLES)]
    Ls(object::ListArguments),
    /// Show an object's size, type and metadata
    #[command(after_help = object::STAT_EXAMPLES)]
    Stat(object::OneArguments),
    /// Write an object to standard output
    #[command(after_help = object::CAT_EXAMPLES)]
    Cat(object::OneArguments),
    /// Remove objects
    #[command(after_help = object::REMOVE_EXAMPLES)]
    Rm(object::RemoveArguments),
    /// Show where an object is: key, placement group, servers, blocks
    #[command(after_help = examples::WHERE)]
    Where {
        /// BUCKET/KEY
        #[arg(value_name = "BUCKET/KEY")]
        path: place::Remote,
        #[command(flatten)]
        at: At,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Show every key, its value, and whether a flag, a variable, the file or the used data folder sets it
    #[command(after_help = examples::CONFIG_SHOW)]
    Show {
        #[command(flatten)]
        config: config::ConfigFlags,
        /// How to print
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
}

/// Runs what was typed.
pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Command::Up(up) => {
            let data = folder::choose(up.data.or_else(|| folder::variable("SKERRY_DATA")))?;
            let listen = match up.ports {
                Ports::Default => up::Listen::Default,
                Ports::Random => up::Listen::Random,
            };
            let mut config = config::ConfigFlags::default().load_under_up()?;
            config.log_format = up.log_format;
            up::run(&data, up.nodes, listen, config).await
        }
        Command::Server(server) => server::run(server).await,
        Command::Join(join) => server::join(join).await,
        Command::Env(here) => show::env(&here),
        Command::Status(at) => show::status(&at).await,
        Command::Node(NodeCommand::Ls(at)) => show::nodes(&at, None).await,
        Command::Node(NodeCommand::Describe { node, at }) => show::nodes(&at, Some(node)).await,
        Command::Raft(RaftCommand::Ls(at)) => show::raft(&at).await,
        Command::Placement(PlacementCommand::Show(at)) => show::placement(&at).await,
        Command::Object(ObjectCommand::Where { path, at }) => show::whereabouts(&at, &path).await,
        Command::Object(ObjectCommand::Cp(copied)) => copy::run(copied).await,
        Command::Object(ObjectCommand::Ls(listed)) => object::ls(listed).await,
        Command::Object(ObjectCommand::Stat(one)) => object::stat(one).await,
        Command::Object(ObjectCommand::Cat(one)) => object::cat(one).await,
        Command::Object(ObjectCommand::Rm(removed)) => object::rm(removed).await,
        Command::Bucket(command) => bucket::run(command).await,
        Command::Bench(command) => bench::run(command).await,
        Command::Config(ConfigCommand::Show { config, output }) => config::show(&config, output),
        Command::Token(TokenCommand::Create { ttl, at }) => admin::create_token(&at, ttl).await,
        Command::User(UserCommand::Create {
            name,
            role,
            project,
            at,
        }) => admin::create_user(&at, &name, role, &project).await,
        Command::User(UserCommand::Ls(at)) => admin::users(&at).await,
        Command::User(UserCommand::Rm { name, at }) => admin::remove(&at, "user", &name).await,
        Command::Key(KeyCommand::Create { user, note, at }) => {
            admin::create_key(&at, &user, &note).await
        }
        Command::Key(KeyCommand::Ls(at)) => admin::keys(&at).await,
        Command::Key(KeyCommand::Rm { key, at }) => admin::remove(&at, "key", &key).await,
        Command::Completions { shell } => documents::completions(shell),
        Command::Man { out } => documents::manual(out.as_deref()),
    }
}

/// How long a stop may take before processes are ended.
pub const STOP_LIMIT: Duration = Duration::from_secs(45);
