//! `skerry bucket`, `skerry object` and `skerry bench` against a site of one node, as their user meets them.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use object_client::transfer::PART_SIZE;

use crate::site::{Site, alone};

fn bytes(len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| ((at * 31 + at / 251) % 253) as u8)
        .collect()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn files_go_to_the_site_and_back() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let site = Site::up(&folder.path().join("site"));
    let (here, back) = (folder.path().join("here"), folder.path().join("back"));
    std::fs::create_dir_all(here.join("sub")).unwrap();
    let large = bytes(2 * PART_SIZE as usize + 5);
    let files = [
        ("a b.txt", b"hello".to_vec()),
        ("empty", Vec::new()),
        ("sub/large", large),
    ];
    for (name, content) in &files {
        std::fs::write(here.join(name), content).unwrap();
    }

    site.good(&["bucket", "mb", "shop"]);
    let buckets = site.json(&["bucket", "ls"]);
    assert_eq!(buckets["buckets"][0]["name"], "shop");
    let copied = site.json(&["object", "cp", "-r", text(&here), "s3://shop/in"]);
    assert_eq!(copied["files"], 3);

    let listed = site.json(&["object", "ls", "shop/in/", "--recursive"]);
    let keys = listed["objects"].as_array().unwrap().iter();
    let keys: Vec<_> = keys.map(|one| one["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["in/a b.txt", "in/empty", "in/sub/large"]);
    let level = site.json(&["object", "ls", "shop/in/"]);
    assert_eq!(level["prefixes"][0], "in/sub/");
    let first = site.json(&["object", "ls", "shop", "-r", "--limit", "1"]);
    assert_eq!(first["truncated"], true);

    site.good(&["object", "cp", "-r", "s3://shop/in", text(&back)]);
    for (name, content) in &files {
        assert!(
            std::fs::read(back.join(name)).unwrap() == *content,
            "{name}"
        );
    }
    let stat = site.json(&["object", "stat", "shop/in/a b.txt"]);
    assert_eq!(stat["size"], 5);
    let (cat, _) = site.good(&["object", "cat", "shop/in/sub/large"]);
    assert!(cat == files[2].1);

    site.good(&["object", "rm", "shop/in/empty"]);
    assert_eq!(site.run(&["bucket", "rm", "shop"]).status.code(), Some(1));
    let removed = site.json(&["bucket", "rm", "shop", "--force"]);
    assert_eq!(removed["objects_removed"], 2);
}

#[test]
fn odd_keys_pipes_and_uploads_that_broke_off() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let site = Site::up(&folder.path().join("site"));
    site.good(&["bucket", "mb", "shop"]);

    for key in ["shop/x/../y//z", "shop/./a", "shop/ü +%&?#"] {
        let mut child = site
            .command(&["object", "cp", "-", key])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(key.as_bytes()).unwrap();
        drop(stdin);
        assert!(child.wait().unwrap().success(), "{key}");
        assert_eq!(site.good(&["object", "cat", key]).0, key.as_bytes());
    }
    let out = folder.path().join("out");
    let refused = site.run(&["object", "cp", "-r", "s3://shop", text(&out)]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is not written"));

    let file = folder.path().join("file");
    let content = bytes(2 * PART_SIZE as usize);
    std::fs::write(&file, &content).unwrap();
    let client = site.client();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let id = client.create_multipart("shop", "file", None).await.unwrap();
        let part = content[..PART_SIZE as usize].to_vec();
        let sent = client.upload_part("shop", "file", &id, 1, part.into());
        sent.await.unwrap();
    });
    let (_, said) = site.good(&["object", "cp", text(&file), "shop/"]);
    assert!(said.contains("going on with it"), "{said}");
    let (cat, _) = site.good(&["object", "cat", "shop/file"]);
    assert!(cat == content);
    let uploads = runtime.block_on(client.list_uploads("shop", "")).unwrap();
    assert!(uploads.is_empty(), "{uploads:?}");
    site.good(&["object", "rm", "-r", "shop"]);
    site.good(&["bucket", "rm", "shop"]);
}

#[test]
fn load_is_verified_measured_and_removed() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let site = Site::up(&folder.path().join("site"));
    let plot = folder.path().join("plot.svg");
    let plot = text(&plot);
    for mode in ["put", "get", "stat", "list", "delete", "multipart", "mixed"] {
        // Long enough for a slow machine to end one request.
        let (size, duration) = match mode {
            "multipart" => ("6MiB", "15s"),
            _ => ("40KiB", "2s"),
        };
        let report = site.json(&[
            "bench",
            "object",
            "--mode",
            mode,
            "--size",
            size,
            "--duration",
            duration,
            "--warm-up",
            "0s",
            "--objects",
            "40",
            "--concurrency",
            "2",
            "--verify",
            "--plot",
            plot,
        ]);
        for operation in report["operations"].as_array().unwrap() {
            assert_eq!(operation["errors"], serde_json::json!({}), "{report}");
        }
        assert!(std::fs::read_to_string(plot).unwrap().starts_with("<svg"));
    }
    let buckets = site.json(&["bucket", "ls"]);
    assert_eq!(buckets["buckets"], serde_json::json!([]));
}
