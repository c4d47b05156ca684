//! `skerry bench`: puts load on a service and says how it did.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use object_client::bench::{self, Mode, Report};

use super::endpoint::EndpointArguments;
use super::{print, units};

const EXAMPLES: &str = "\
Examples:
  skerry bench object                                        a mixture of requests for ten seconds
  skerry bench object --mode put --size 4KiB --concurrency 64
  skerry bench object --mode get --size 1MiB --verify --plot get.svg
  skerry bench object --endpoint http://10.0.0.1:9000 --output json

Closed loop: each of --concurrency workers sends its next request when the last one was answered. Failures are not
tried again but counted by code. Exit code 1 when nothing succeeded or an answer was wrong.";

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Load an S3 service, and measure its throughput and latency
    #[command(after_help = EXAMPLES)]
    Object(ObjectArguments),
}

#[derive(Debug, Args)]
pub struct ObjectArguments {
    /// What to send; mixed is GET 45, STAT 30, PUT 15, DELETE 10 of a hundred
    #[arg(long, default_value = "mixed", value_parser = modes())]
    mode: Mode,
    /// Bytes per object
    #[arg(long, default_value = "4KiB", value_parser = units::size)]
    size: u64,
    /// Bytes per part in mode multipart
    #[arg(long, default_value = "5MiB", value_parser = units::size)]
    part_size: u64,
    /// Requests at a time
    #[arg(long, default_value_t = 16, value_name = "N")]
    concurrency: usize,
    /// How long to measure
    #[arg(long, default_value = "10s", value_parser = units::duration)]
    duration: Duration,
    /// How long to load before that
    #[arg(long, default_value = "1s", value_parser = units::duration)]
    warm_up: Duration,
    /// Objects to prepare for get, stat, list, delete and mixed
    #[arg(long, default_value_t = 1000, value_name = "N")]
    objects: usize,
    /// A bucket that exists (default: a new one, removed at the end)
    #[arg(long)]
    bucket: Option<String>,
    /// Compare the bytes of every answer; without it, only lengths
    #[arg(long)]
    verify: bool,
    /// Write a picture of the run to this file, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Another node of the same service, to send to in turn; several times if wanted
    #[arg(long, value_name = "URL")]
    also: Vec<String>,
    #[command(flatten)]
    service: EndpointArguments,
}

fn modes() -> impl TypedValueParser<Value = Mode> {
    let names = PossibleValuesParser::new(Mode::ALL.map(|(_, name)| name));
    names.map(|name| name.parse::<Mode>().expect("one of the names"))
}

pub async fn run(command: BenchCommand) -> Result<ExitCode> {
    let BenchCommand::Object(arguments) = command;
    let options = options(&arguments)?;
    print::note(format!(
        "{} for {:?} against {}",
        options.mode.name(),
        options.duration,
        options.endpoints[0].url
    ));
    let stop = Box::pin(async {
        match tokio::signal::ctrl_c().await {
            Ok(()) => print::note("stopping and cleaning up"),
            // Without signals there is only the time.
            Err(_) => std::future::pending().await,
        }
    });
    let report = bench::run(options, stop).await?;
    if let Some(path) = &arguments.plot {
        let written = std::fs::write(path, report.svg());
        written.with_context(|| format!("can't write {}", path.display()))?;
    }
    print::either(arguments.service.output(), &report, || report.table())?;
    judge(&report)
}

fn options(arguments: &ObjectArguments) -> Result<bench::Options> {
    let first = arguments.service.endpoint()?;
    let mut endpoints = vec![first.clone()];
    for url in &arguments.also {
        let mut other = first.clone();
        other.url.clone_from(url);
        endpoints.push(other);
    }
    Ok(bench::Options {
        endpoints,
        mode: arguments.mode,
        object_size: usize::try_from(arguments.size)?,
        part_size: usize::try_from(arguments.part_size)?,
        concurrency: arguments.concurrency,
        duration: arguments.duration,
        warm_up: arguments.warm_up,
        objects: arguments.objects,
        bucket: arguments.bucket.clone(),
        verify: arguments.verify,
    })
}

fn judge(report: &Report) -> Result<ExitCode> {
    let wrong = report.operations.iter().flat_map(|one| &one.errors);
    let wrong: u64 = wrong
        .filter(|(code, _)| code.starts_with("Wrong"))
        .map(|(_, count)| count)
        .sum();
    if wrong > 0 {
        bail!("{wrong} answers were not what was stored");
    }
    if report.successes() == 0 {
        bail!("no request succeeded in the measured time");
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: BenchCommand,
    }

    fn parsed(arguments: &[&str]) -> Result<ObjectArguments, clap::Error> {
        let line = Line::try_parse_from([&["bench", "object"][..], arguments].concat())?;
        let BenchCommand::Object(arguments) = line.command;
        Ok(arguments)
    }

    #[test]
    fn what_can_be_typed() {
        let arguments = parsed(&[]).unwrap();
        assert_eq!((arguments.mode, arguments.size), (Mode::Mixed, 4096));
        assert_eq!(arguments.duration, Duration::from_secs(10));
        let typed = ["--mode", "multipart", "--size", "64MiB", "--warm-up", "0s"];
        let arguments = parsed(&typed).unwrap();
        assert_eq!(
            (arguments.mode, arguments.size),
            (Mode::Multipart, 64 << 20)
        );
        assert!(arguments.warm_up.is_zero());
        assert!(parsed(&["--mode", "all"]).is_err());
        assert!(parsed(&["--size", "many"]).is_err());
    }

    fn report(errors: &[(&str, u64)], count: u64) -> Report {
        let errors: serde_json::Map<_, _> = errors
            .iter()
            .map(|(code, count)| ((*code).to_owned(), (*count).into()))
            .collect();
        serde_json::from_value(serde_json::json!({
            "output_version": 1, "mode": "get", "endpoints": [], "object_size": 1, "objects": 1,
            "concurrency": 1, "verified": true, "stopped": false, "seconds": 1.0, "timeline": [],
            "operations": [{
                "operation": "get", "count": count, "ops_per_second": 1.0, "mib_per_second": 1.0,
                "mean_ms": 1.0, "p50_ms": 1.0, "p90_ms": 1.0, "p99_ms": 1.0, "p999_ms": 1.0,
                "max_ms": 1.0, "errors": errors,
            }],
        }))
        .unwrap()
    }

    #[test]
    fn wrong_answers_and_no_answers_fail() {
        assert!(judge(&report(&[("SlowDown", 3)], 1)).is_ok());
        assert!(judge(&report(&[("WrongBody", 1)], 9)).is_err());
        assert!(judge(&report(&[("SlowDown", 3)], 0)).is_err());
    }
}
