//! Three members of etcd on loopback, with the durability that they have by default: each write is synced.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::etcd_client::JsonConnection;

const MEMBERS: usize = 3;
/// Where Debian puts it.
const USUAL_PLACE: &str = "/usr/bin/etcd";
/// The default, 2 GiB, is less than long runs write; this has nothing to do with durability.
const QUOTA_BYTES: u64 = 8 << 30;
const START_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// See the module; killed when dropped.
pub struct Etcd {
    /// What it calls itself.
    pub version: String,
    members: Vec<Child>,
    /// Where members listen for clients.
    addresses: Vec<String>,
}

impl Etcd {
    /// Starts a new cluster below `folder` and waits until it has a leader.
    pub async fn start(program: Option<&Path>, folder: &Path) -> Result<Etcd> {
        let (program, version) = find(program).await?;
        let ports = free_ports(2 * MEMBERS)?;
        let (for_clients, for_peers) = ports.split_at(MEMBERS);
        let url = |port: &u16| format!("http://127.0.0.1:{port}");
        let cluster: Vec<String> = for_peers
            .iter()
            .enumerate()
            .map(|(at, port)| format!("m{at}={}", url(port)))
            .collect();
        let mut members = Vec::new();
        for (at, (client, peer)) in for_clients.iter().zip(for_peers).enumerate() {
            let home = folder.join(format!("m{at}"));
            std::fs::create_dir_all(&home)?;
            let log = File::create(home.join("log"))?;
            let mut command = Command::new(&program);
            command
                .args(["--name", &format!("m{at}")])
                .arg("--data-dir")
                .arg(home.join("data"))
                .args(["--listen-client-urls", &url(client)])
                .args(["--advertise-client-urls", &url(client)])
                .args(["--listen-peer-urls", &url(peer)])
                .args(["--initial-advertise-peer-urls", &url(peer)])
                .args(["--initial-cluster", &cluster.join(",")])
                .args(["--initial-cluster-state", "new"])
                .args(["--initial-cluster-token", "bench"])
                .args(["--quota-backend-bytes", &QUOTA_BYTES.to_string()])
                .args(["--logger", "zap"])
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .kill_on_drop(true);
            without_settings(&mut command);
            members.push(command.spawn()?);
        }
        let addresses = for_clients
            .iter()
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        let etcd = Etcd {
            version,
            members,
            addresses,
        };
        etcd.leader().await?;
        Ok(etcd)
    }

    /// Where the leader listens for clients.
    pub async fn leader(&self) -> Result<String> {
        let end = Instant::now() + START_MAX;
        loop {
            for address in &self.addresses {
                // A member that starts refuses connections, then questions.
                if let Ok(status) = status(address).await
                    && leads(&status)
                {
                    return Ok(address.clone());
                }
            }
            ensure!(Instant::now() < end, "etcd has no leader: see its logs");
            sleep(LOOK_EVERY).await;
        }
    }

    /// The members' processes.
    pub fn processes(&self) -> Vec<u32> {
        self.members.iter().filter_map(Child::id).collect()
    }

    /// Ends all members.
    pub async fn stop(mut self) -> Result<()> {
        for member in &mut self.members {
            member.kill().await?;
        }
        Ok(())
    }
}

async fn find(program: Option<&Path>) -> Result<(String, String)> {
    let candidates = match program {
        Some(program) => vec![program.display().to_string()],
        None => vec!["etcd".to_string(), USUAL_PLACE.to_string()],
    };
    for candidate in &candidates {
        let mut command = Command::new(candidate);
        without_settings(command.arg("--version"));
        let Ok(output) = command.output().await else {
            continue;
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.lines().next().unwrap_or("etcd of no version");
        return Ok((candidate.clone(), version.to_string()));
    }
    bail!(
        "there is no etcd (looked for {}): install Debian's etcd-server, name one with --etcd, or leave it out with \
         --parts bulk,watch",
        candidates.join(", ")
    )
}

/// etcd takes settings from the environment; the benchmark's shall be the only ones.
fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ETCD") {
            command.env_remove(name);
        }
    }
}

/// Ports that nobody uses at the moment.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(TcpListener::bind("127.0.0.1:0")?);
    }
    let mut ports = Vec::new();
    for listener in &held {
        ports.push(listener.local_addr()?.port());
    }
    Ok(ports)
}

async fn status(address: &str) -> Result<Value> {
    let mut connection = JsonConnection::open(address).await?;
    connection
        .post("/v3/maintenance/status", &json!({}))
        .await
        .with_context(|| format!("{address} has no status"))
}

fn leads(status: &Value) -> bool {
    let leader = status["leader"].as_str();
    leader.is_some_and(|leader| leader != "0") && leader == status["header"]["member_id"].as_str()
}
