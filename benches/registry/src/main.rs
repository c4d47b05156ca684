//! The registry on three processes with real TLS and real disks, beside etcd: same disk, same load, same run.
//!
//! ```text
//! cargo xtask bench registry --dir FOLDER_ON_THE_DISK_IN_QUESTION
//! ```
//!
//! This program starts itself three times as the nodes of a site (`node.rs`) and joins the site itself as a fourth member
//! without replicas, so that its clients reach the leader over the network as clients of etcd do; three members of etcd
//! run beside them. It measures
//!
//! - single durable writes of 64 clients, by turns with etcd: at least twice etcd's (`writes.rs`);
//! - 100,000 resources in transactions: at least 30,000 a second (`bulk.rs`);
//! - 1,000 watchers of 10,000 changes: p99 from commit to delivery below 50 ms, none lost, none out of order
//!   (`watch.rs`).
//!
//! Clients and servers share the machine. Skerry's clients speak TLS and create (a name that is taken is refused); etcd's
//! speak to its leader without TLS and put, which asks less of it.

use std::path::Path;

use anyhow::{Context, Result};
use clap::Parser;

mod bulk;
mod control;
mod etcd;
mod etcd_client;
mod identity_files;
mod item;
mod latencies;
mod machine;
mod member;
mod node;
mod plan;
mod report;
mod site;
mod stamps;
mod watch;
mod watchers;
mod writes;

use etcd::Etcd;
use etcd_client::Protocol;
use plan::{Args, Part, Plan};
use report::Report;
use site::Site;

/// Lines of a log that are printed when something failed.
const LOG_LINES: usize = 15;

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(folder) = &args.node {
        return node::run(folder).await;
    }
    let folder = tempfile::tempdir_in(&args.dir).context("cannot make a folder to measure in")?;
    let outcome = bench(&args, folder.path()).await;
    if outcome.is_err() {
        print_logs(folder.path());
    }
    outcome
}

async fn bench(args: &Args, folder: &Path) -> Result<()> {
    let plan = args.plan();
    let mut report = Report::default();
    let mut site = Site::start(&folder.join("skerry")).await?;
    report.add_sync(machine::sync_micros(folder)?);
    note_skerry(&mut report);
    if args.parts.contains(&Part::Writes) {
        let etcd = Etcd::start(args.etcd.as_deref(), &folder.join("etcd")).await?;
        note_etcd(&etcd, &plan, &mut report);
        writes::compare(&mut site, &etcd, &plan, folder, &mut report).await?;
        etcd.stop().await?;
    }
    if args.parts.contains(&Part::Bulk) {
        report.add_sync(machine::sync_micros(folder)?);
        bulk::measure(&mut site, &plan, &mut report).await?;
    }
    if args.parts.contains(&Part::Watch) {
        report.add_sync(machine::sync_micros(folder)?);
        watch::measure(&mut site, &plan, &mut report).await?;
    }
    site.stop().await?;
    print!("{}", report.text());
    if let Some(path) = &args.json {
        std::fs::write(path, report.json()?).context("the figures can't be written")?;
    }
    Ok(())
}

fn note_skerry(report: &mut Report) {
    report.note(
        "Skerry's clients: tasks of this process, which is a member of the site without replicas; all share one TLS 1.3 \
         connection to the leader; a write is answered when two of three nodes have synced it and the leader applied it",
    );
}

fn note_etcd(etcd: &Etcd, plan: &Plan, report: &mut Report) {
    let path = match plan.etcd_protocol {
        Protocol::Grpc => format!(
            "gRPC to the leader over {} connections",
            plan.etcd_connections.min(plan.clients)
        ),
        Protocol::Json => "the leader's JSON gateway, a connection each".to_string(),
    };
    report.note(format!(
        "etcd's clients: tasks of this process; {path}, without TLS ({}, three members, default durability)",
        etcd.version
    ));
}

fn print_logs(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        // What the members keep is no folder of logs.
        if path.is_dir() && !path.ends_with("data") {
            print_logs(&path);
        } else if path.ends_with("log")
            && let Ok(text) = std::fs::read_to_string(&path)
        {
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
            eprintln!("{}:\n{}", path.display(), tail.join("\n"));
        }
    }
}
