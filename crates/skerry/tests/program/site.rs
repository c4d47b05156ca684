//! A site as its user starts it, for the tests of this crate.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use object_client::{Endpoint, S3Client};
use serde_json::Value;

const READY_LIMIT: Duration = Duration::from_secs(120);

/// One machine-wide lock for tests that start processes.
pub fn alone() -> std::fs::File {
    let path = std::env::temp_dir().join("skerry-process-tests.lock");
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .unwrap();
    file.lock().unwrap();
    file
}

/// A site under `skerry up`; killed when it is dropped.
pub struct Site {
    data: PathBuf,
    child: Child,
}

impl Site {
    /// Starts it on free ports, and waits until it is ready.
    pub fn up(data: &Path) -> Site {
        let child = Command::new(env!("CARGO_BIN_EXE_skerry"))
            .args(["up", "--ports", "random", "--data"])
            .arg(data)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let data = data.to_owned();
        let mut site = Site { data, child };
        let end = Instant::now() + READY_LIMIT;
        while !site.run(&["status"]).status.success() {
            assert!(site.child.try_wait().unwrap().is_none(), "the site ended");
            assert!(Instant::now() < end, "{:?}", site.run(&["status"]));
            pause();
        }
        site
    }

    /// `skerry …` on the site.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skerry"));
        command.args(arguments).arg("--data").arg(&self.data);
        command
    }

    /// Runs it to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs what must succeed; its standard output and standard error.
    pub fn good(&self, arguments: &[&str]) -> (Vec<u8>, String) {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        (
            output.stdout,
            String::from_utf8_lossy(&output.stderr).into(),
        )
    }

    /// Runs what must succeed and print JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let (out, _) = self.good(&[arguments, &["--output", "json"]].concat());
        let value: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["output_version"], 1, "{value}");
        value
    }

    /// A client with the keys of `skerry env`.
    pub fn client(&self) -> S3Client {
        let env = self.json(&["env"])["env"].clone();
        let text = |name: &str| env[name].as_str().unwrap().to_owned();
        S3Client::new(Endpoint {
            url: text("AWS_ENDPOINT_URL"),
            region: text("AWS_REGION"),
            access_key: text("AWS_ACCESS_KEY_ID"),
            secret_key: text("AWS_SECRET_ACCESS_KEY"),
            session_token: None,
            path_style: true,
            ca_file: None,
        })
        .unwrap()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Between two looks at a value.
#[expect(
    clippy::disallowed_methods,
    reason = "these tests wait for processes, outside of any runtime"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(50));
}
