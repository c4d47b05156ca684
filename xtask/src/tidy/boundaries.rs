//! Who must not know whom, and why.
//!
//! Two kinds of rule: a crate must not *reach* another (over any chain of dependencies), and a foreign crate is *named* in the
//! manifests of few crates only. Pillars are told from crate names by their prefix, so a new pillar is covered when it appears.

use crate::metadata::Graph;

/// The only crate that may know everything: it wires the others.
const BINARY: &str = "skerry";

/// Prefixes of crate names that belong to one pillar.
const PILLARS: &[(&str, &[&str])] = &[
    ("objects", &["object-"]),
    ("networks", &["net-"]),
    ("state", &["kv-"]),
    ("functions", &["function-"]),
    ("operators", &["operator-", "kube-"]),
    ("fleet", &["fleet"]),
];

/// No crate of `who` may reach a crate of `what`.
struct MustNotReach {
    who: &'static [&'static str],
    what: &'static [&'static str],
    because: &'static str,
}

/// Only `who` may name `what` as a dependency.
struct OnlyNamedBy {
    what: &'static [&'static str],
    who: &'static [&'static str],
    because: &'static str,
}

const REACH: &[MustNotReach] = &[
    MustNotReach {
        who: &["ids", "membership", "raft-machine", "object-core"],
        what: &[
            "tokio", "mio", "socket2", "redb", "hyper", "rustls", "openraft", "s3s",
        ],
        because: "it is a pure core: input in, commands out; sockets, disks and protocols live in drivers",
    },
    MustNotReach {
        who: &["identity", "registry"],
        what: &["redb", "hyper", "openraft", "s3s"],
        because: "it decides what is true in a site and must run the same in production and in a simulation",
    },
    MustNotReach {
        who: &["object-s3"],
        what: &[
            "object-store",
            "raft-groups",
            "raft-wal",
            "registry",
            "transport",
            "openraft",
            "redb",
        ],
        because: "a door translates and never decides: it knows the object service as a trait in object-core",
    },
    MustNotReach {
        who: &["object-client"],
        what: &[
            "object-core",
            "object-store",
            "object-s3",
            "s3s",
            "registry",
            "transport",
        ],
        because: "a client that shares code with the server cannot show that strangers' clients work",
    },
    MustNotReach {
        who: &["raft-wal"],
        what: &[
            "raft-machine",
            "raft-groups",
            "transport",
            "openraft",
            "redb",
        ],
        because: "the log stores records of groups; it does not know what they mean",
    },
    MustNotReach {
        who: &["transport"],
        what: &[
            "identity",
            "platform",
            "raft-wal",
            "raft-groups",
            "registry",
            "openraft",
            "redb",
            "s3s",
        ],
        because: "a link carries bytes between nodes and knows none of its users",
    },
    MustNotReach {
        who: &["raft-groups"],
        what: &["registry", "identity", "s3s", "hyper"],
        because: "it runs state machines behind a trait; the registry is one of its users",
    },
];

const NAMED: &[OnlyNamedBy] = &[
    OnlyNamedBy {
        what: &["openraft", "openraft-rt", "openraft-rt-tokio", "redb"],
        who: &["raft-groups"],
        because: "consensus and its database sit behind our own traits so that either can be replaced",
    },
    OnlyNamedBy {
        what: &["s3s"],
        who: &["object-s3"],
        because: "one crate speaks S3; types of a protocol do not leak into what decides",
    },
    OnlyNamedBy {
        what: &[
            "opentelemetry",
            "opentelemetry_sdk",
            "opentelemetry-http",
            "opentelemetry-otlp",
            "tracing-opentelemetry",
        ],
        who: &["skerry"],
        because: "libraries speak tracing; only the program knows where traces go",
    },
    OnlyNamedBy {
        what: &["testkit"],
        who: &[],
        because: "faults and fakes must never ship; use it under [dev-dependencies]",
    },
    OnlyNamedBy {
        what: &["clap", "anyhow"],
        who: &[BINARY, "xtask"],
        because: "the command line and untyped errors belong to the edge; libraries have typed errors",
    },
];

/// All breaches of the rules above.
pub fn complaints(graph: &Graph) -> Vec<String> {
    let mut out = Vec::new();
    reach(graph, &mut out);
    named(graph, &mut out);
    layers(graph, &mut out);
    out
}

fn reach(graph: &Graph, out: &mut Vec<String>) {
    for rule in REACH {
        for &who in rule.who {
            for &what in rule.what {
                forbid(graph, who, what, rule.because, out);
            }
        }
    }
}

fn named(graph: &Graph, out: &mut Vec<String>) {
    for rule in NAMED {
        for who in graph.ours().filter(|who| !rule.who.contains(who)) {
            for &what in rule.what {
                if graph.direct(who).any(|dep| dep == what) {
                    out.push(format!(
                        "{who} must not depend on {what}, because {}",
                        rule.because
                    ));
                }
            }
        }
    }
}

/// Pillars don't know each other; the ground doesn't know pillars; nobody knows the binary or the tasks.
fn layers(graph: &Graph, out: &mut Vec<String>) {
    for who in graph.ours().filter(|who| *who != BINARY) {
        for what in graph.ours().filter(|what| *what != who) {
            match (pillar(who), pillar(what)) {
                (Some(mine), Some(other)) if mine != other => {
                    forbid(
                        graph,
                        who,
                        what,
                        "pillars don't know each other: take a trait, the binary wires it",
                        out,
                    );
                }
                (None, Some(_)) => {
                    forbid(
                        graph,
                        who,
                        what,
                        "the ground carries all pillars and knows none of them",
                        out,
                    );
                }
                _ if what == BINARY || what == "xtask" => {
                    forbid(
                        graph,
                        who,
                        what,
                        "it stands on top of everything, nothing stands on it",
                        out,
                    );
                }
                _ => {}
            }
        }
    }
    for what in graph.ours() {
        forbid(
            graph,
            "xtask",
            what,
            "the tasks must build when our crates don't",
            out,
        );
    }
}

fn forbid(graph: &Graph, who: &str, what: &str, because: &str, out: &mut Vec<String>) {
    if let Some(path) = graph.path(who, what) {
        out.push(format!(
            "{who} must not reach {what}, because {because}; it does: {}",
            path.join(" -> ")
        ));
    }
}

fn pillar(name: &str) -> Option<&'static str> {
    let of = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    PILLARS
        .iter()
        .find(|(_, prefixes)| of(prefixes))
        .map(|(pillar, _)| *pillar)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complains(lines: &str, expect: &[&str]) {
        let complaints = complaints(&Graph::from_lines(lines));
        assert_eq!(complaints.len(), expect.len(), "{complaints:#?}");
        for (complaint, expect) in complaints.iter().zip(expect) {
            assert!(
                complaint.starts_with(expect),
                "{complaint:?} should begin with {expect:?}"
            );
        }
    }

    #[test]
    fn a_good_house_is_quiet() {
        complains(
            "skerry: object-s3 object-store net-agent\nobject-s3: object-core s3s\nobject-core: ids\nids: serde",
            &[],
        );
    }

    #[test]
    fn a_pillar_that_knows_another_is_named() {
        complains(
            "net-agent: ids shared\nshared: kv-core\nkv-core:\nids:",
            &[
                "net-agent must not reach kv-core, because pillars",
                "shared must not reach kv-core, because the ground",
            ],
        );
    }

    #[test]
    fn a_core_that_reaches_sockets_is_shown_with_its_chain() {
        let graph = Graph::from_lines("object-core: hidden\nhidden: tokio");
        let complaints = complaints(&graph);
        assert_eq!(complaints.len(), 1);
        assert!(
            complaints[0].ends_with("it does: object-core -> hidden -> tokio"),
            "{complaints:?}"
        );
    }

    #[test]
    fn only_one_crate_names_the_consensus_library() {
        complains(
            "registry: openraft\nraft-groups: openraft redb",
            &[
                "registry must not reach openraft",
                "registry must not depend on openraft",
            ],
        );
    }

    #[test]
    fn fakes_do_not_ship() {
        complains(
            "object-store: testkit\ntestkit:",
            &["object-store must not depend on testkit"],
        );
    }

    #[test]
    fn the_tasks_stand_alone() {
        complains("xtask: ids\nids:", &["xtask must not reach ids"]);
    }
}
