//! Whether other servers can reach this one at the address that it announces.
//!
//! A server that announces an address of its own machine only would be given its share of groups and blocks, and nobody
//! could bring them.

use std::net::IpAddr;

use anyhow::{Result, bail};

/// From where an address can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Maybe from everywhere: names are not looked up.
    Everywhere,
    /// Only from the same machine.
    Here,
    /// It says where to listen, not where to call.
    Nowhere,
}

fn reach_of(address: &str) -> Reach {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.eq_ignore_ascii_case("localhost") {
        return Reach::Here;
    }
    match host.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(ip) if ip.is_unspecified() => Reach::Nowhere,
        Ok(ip) if ip.is_loopback() => Reach::Here,
        _ => Reach::Everywhere,
    }
}

/// Refuses to announce an address that the others can't call, when they are on other machines.
pub fn check<'a>(announced: &str, others: impl IntoIterator<Item = &'a str>) -> Result<()> {
    if reach_of(announced) == Reach::Everywhere {
        return Ok(());
    }
    let remote = others
        .into_iter()
        .find(|other| reach_of(other) == Reach::Everywhere);
    if let Some(remote) = remote {
        bail!(
            "other servers (one is at {remote}) can't reach this one at {announced}: name an address of this machine with --advertise (listen.advertise), and listen on it with --node-listen (listen.node)"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_others_can_not_call_is_not_announced_to_them() {
        for address in [
            "127.0.0.1:7301",
            "0.0.0.0:7301",
            "[::1]:1",
            "[::]:1",
            "localhost:1",
        ] {
            let refused = check(address, ["127.0.0.1:1", "192.0.2.7:7301"]).unwrap_err();
            let refused = refused.to_string();
            assert!(refused.contains(address) && refused.contains("192.0.2.7:7301"));
            assert!(refused.contains("--advertise") && refused.contains("listen.advertise"));
            // A site on one machine, or of one server.
            check(address, ["127.0.0.1:1", "localhost:2", "0.0.0.0:3"]).unwrap();
            check(address, []).unwrap();
        }
        for address in ["192.0.2.8:7301", "node2.lan:7301", "[2001:db8::1]:7301"] {
            check(address, ["192.0.2.7:7301"]).unwrap();
        }
    }
}
