//! The process of one of the site's nodes: does what it is asked until its standard input ends.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ids::REGISTRY_GROUP;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines, Stdin, Stdout};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::control::{Ask, Told};
use crate::identity_files::Identity;
use crate::member::{Book, Member};
use crate::stamps::Stamps;
use crate::watchers::{Watched, Watching};

const STOP_MAX: Duration = Duration::from_secs(10);

/// Runs the node whose identity lies in `folder`.
pub async fn run(folder: &Path) -> Result<()> {
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(std::io::stderr)
        .init();
    let identity = Identity::load(folder)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut driver = Driver::new();
    let listening = Told::Listening(listener.local_addr()?.to_string());
    driver.tell(&listening).await?;
    let Some(Ask::Start(addresses)) = driver.hear().await? else {
        bail!("a node must be told first where the others are");
    };
    let stamps = Arc::<Stamps>::default();
    let data = folder.join("data");
    let book = Book(addresses);
    let member = Member::start(&identity, listener, book, &data, stamps.clone()).await?;
    member.groups.open(REGISTRY_GROUP).await?;
    driver.tell(&Told::Done).await?;
    let mut node = Node {
        member,
        stamps,
        watching: None,
        watched: None,
    };
    while let Some(ask) = driver.hear().await? {
        if let Ask::Stop = ask {
            break;
        }
        let answer = node.answer(ask).await;
        let told = answer.unwrap_or_else(|error| Told::Failed(format!("{error:#}")));
        driver.tell(&told).await?;
    }
    // The folder goes anyway: a node that doesn't settle is cut off.
    timeout(STOP_MAX, node.member.stop())
        .await
        .unwrap_or(Ok(()))
}

/// The other ends of standard input and output.
struct Driver {
    asks: Lines<BufReader<Stdin>>,
    told: Stdout,
}

impl Driver {
    fn new() -> Driver {
        Driver {
            asks: BufReader::new(tokio::io::stdin()).lines(),
            told: tokio::io::stdout(),
        }
    }

    async fn hear(&mut self) -> Result<Option<Ask>> {
        let line = self.asks.next_line().await?;
        Ok(line.map(|line| serde_json::from_str(&line)).transpose()?)
    }

    async fn tell(&mut self, told: &Told) -> Result<()> {
        let mut line = serde_json::to_vec(told)?;
        line.push(b'\n');
        self.told.write_all(&line).await?;
        Ok(self.told.flush().await?)
    }
}

struct Node {
    member: Member,
    stamps: Arc<Stamps>,
    watching: Option<Watching>,
    watched: Option<Watched>,
}

impl Node {
    async fn answer(&mut self, ask: Ask) -> Result<Told> {
        match ask {
            Ask::Start(_) | Ask::Stop => bail!("the node runs already"),
            Ask::Bootstrap => self.member.groups.bootstrap(REGISTRY_GROUP).await?,
            Ask::Checkpoint => self.member.groups.checkpoint().await?,
            Ask::Status => {
                let all = self.member.groups.status();
                let found = all.into_iter().find(|one| one.group == REGISTRY_GROUP);
                return Ok(Told::Status(found.context("the registry is not here")?));
            }
            Ask::Watch {
                from,
                watchers,
                changes,
            } => {
                self.stamps.begin();
                let registry = &self.member.registry;
                self.watching = Some(Watching::start(registry, from, watchers, changes));
            }
            Ask::AwaitWatchers => {
                let watching = self.watching.take().context("nobody watches")?;
                self.watched = Some(watching.finish().await);
                return Ok(Told::Commits(self.stamps.end()));
            }
            Ask::Judge(truth) => {
                let watched = self.watched.take().context("nobody watched")?;
                return Ok(Told::Verdict(watched.judge(&truth)));
            }
        }
        Ok(Told::Done)
    }
}
