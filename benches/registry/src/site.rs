//! The site as the benchmark holds it: three processes, and the clients' member in this one.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ids::NodeId;
use platform::Platform;
use platform::system::SystemPlatform;
use registry::Freshness;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::control::{Ask, Told};
use crate::identity_files::Identity;
use crate::member::{Book, CLIENT, Member, VOTERS};
use crate::stamps::Stamps;

/// How long three new nodes may take to become a site.
const FOUND_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a node may think about a question; the longest waits for all changes of a watch.
const ANSWER_MAX: Duration = Duration::from_secs(900);
const STOP_MAX: Duration = Duration::from_secs(15);

/// See the module.
pub struct Site {
    /// Nodes 1 to 3.
    pub nodes: Vec<Node>,
    /// Node 4.
    pub client: Member,
}

/// The process of a node; killed when dropped.
pub struct Node {
    id: NodeId,
    process: Child,
    asks: ChildStdin,
    told: Lines<BufReader<ChildStdout>>,
}

impl Site {
    /// Starts all members below `folder`, founds the registry and waits until three nodes vote in it.
    pub async fn start(folder: &Path) -> Result<Site> {
        let platform: Arc<dyn Platform> = Arc::new(SystemPlatform::new(folder)?);
        let members = [&VOTERS[..], &[CLIENT]].concat();
        let identities = Identity::make(&members, &*platform)?;
        let mut addresses = Vec::new();
        let mut nodes = Vec::new();
        let (client, voters) = identities.split_last().context("a site has members")?;
        for identity in voters {
            let home = folder.join(format!("node-{}", identity.node));
            identity.save(&home)?;
            let (node, address) = Node::start(identity.node, &home).await?;
            addresses.push((identity.node, address));
            nodes.push(node);
        }
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        addresses.push((CLIENT, listener.local_addr()?.to_string()));
        for node in &mut nodes {
            node.command(&Ask::Start(addresses.clone())).await?;
        }
        let book = Book(addresses);
        let data = folder.join("client");
        let client = Member::start(client, listener, book, &data, Arc::default()).await?;
        let mut site = Site { nodes, client };
        site.nodes[0].command(&Ask::Bootstrap).await?;
        site.await_voters().await?;
        Ok(site)
    }

    async fn await_voters(&mut self) -> Result<()> {
        let end = Instant::now() + FOUND_MAX;
        loop {
            let Told::Status(status) = self.nodes[0].ask(&Ask::Status).await? else {
                bail!("a node answered another question");
            };
            let level = status.lag.iter().all(|(_, lag)| *lag == 0);
            if status.voters.len() == VOTERS.len() && status.leader.is_some() && level {
                break;
            }
            ensure!(Instant::now() < end, "the site was not founded: {status:?}");
            sleep(LOOK_EVERY).await;
        }
        let fresh = Freshness::Linearizable;
        self.client.registry.revision(fresh).await?;
        Ok(())
    }

    /// Lets every node write its applied state to its database, so that it does so at no other's expense.
    pub async fn settle(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.command(&Ask::Checkpoint).await?;
        }
        Ok(())
    }

    /// The nodes' processes.
    pub fn processes(&self) -> Vec<u32> {
        let ids = self.nodes.iter().map(|node| node.process.id());
        ids.flatten().collect()
    }

    /// Stops all members.
    pub async fn stop(mut self) -> Result<()> {
        let _ = timeout(STOP_MAX, self.client.stop()).await;
        for node in &mut self.nodes {
            node.send(&Ask::Stop).await?;
        }
        for node in &mut self.nodes {
            // One that does not end is killed when it is dropped.
            let _ = timeout(STOP_MAX, node.process.wait()).await;
        }
        Ok(())
    }
}

impl Node {
    /// Starts this program again as a node, and hears where it listens. Its log is `log` in its folder.
    async fn start(id: NodeId, folder: &Path) -> Result<(Node, String)> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("--node")
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(folder.join("log"))?)
            .kill_on_drop(true)
            .spawn()?;
        let asks = process.stdin.take().context("a node without input")?;
        let told = process.stdout.take().context("a node without output")?;
        let mut node = Node {
            id,
            process,
            asks,
            told: BufReader::new(told).lines(),
        };
        match node.hear().await? {
            Told::Listening(address) => Ok((node, address)),
            other => bail!("node {id} began with {other:?}"),
        }
    }

    /// Asks a question that is answered by its being done.
    pub async fn command(&mut self, ask: &Ask) -> Result<()> {
        match self.ask(ask).await? {
            Told::Done => Ok(()),
            other => bail!("node {} answered {other:?}", self.id),
        }
    }

    /// Asks a question.
    pub async fn ask(&mut self, ask: &Ask) -> Result<Told> {
        self.send(ask).await?;
        match self.hear().await? {
            Told::Failed(why) => bail!("node {} failed: {why}", self.id),
            told => Ok(told),
        }
    }

    async fn send(&mut self, ask: &Ask) -> Result<()> {
        let mut line = serde_json::to_vec(ask)?;
        line.push(b'\n');
        self.asks.write_all(&line).await?;
        Ok(self.asks.flush().await?)
    }

    async fn hear(&mut self) -> Result<Told> {
        let id = self.id;
        let line = timeout(ANSWER_MAX, self.told.next_line()).await;
        let line = line.with_context(|| format!("node {id} does not answer"))??;
        let line = line.with_context(|| format!("node {id} ended"))?;
        Ok(serde_json::from_str(&line)?)
    }
}
