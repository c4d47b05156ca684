//! Weighted rendezvous hashing in integers: each key ranks all servers, and the best few of the ranking hold it.
//!
//! Rendezvous hashing is Thaler and Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM Transactions
//! on Networking 6(1), 1998. The weights are those of Ceph's `straw2` bucket: a server of weight w draws −log(u)/w from a
//! hash u that is uniform in (0, 1], and the smallest draw wins. That is an exponential race, so a server comes first
//! with probability w ÷ (sum of weights), and changing one server's weight moves keys only to or from that server.
//!
//! The logarithm is computed bit by bit in fixed point and fractions are compared by cross-multiplication, so that every
//! machine ranks alike.
//!
//! Copies after the first are drawn without replacement. With unequal weights and few servers a heavy server therefore
//! holds less than its weight's share of *all* copies; it can't hold two of one key.

use ids::NodeId;

use crate::map::PlacedServer;

/// What the key belongs to; keeps the rankings of different tables independent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Table {
    /// Block slots.
    Blocks = 1,
    /// Placement groups.
    Groups = 2,
}

/// A server's draw for one key: `cost` ÷ `weight`; the smallest wins.
#[derive(Debug, Clone, Copy)]
struct Draw {
    cost: u64,
    weight: u32,
    hash: u64,
    node: NodeId,
}

impl Draw {
    fn better(a: &Draw, b: &Draw) -> std::cmp::Ordering {
        let left = u128::from(a.cost) * u128::from(b.weight);
        let right = u128::from(b.cost) * u128::from(a.weight);
        left.cmp(&right)
            .then(b.hash.cmp(&a.hash))
            .then(a.node.cmp(&b.node))
    }
}

/// The servers in the order in which they should hold `key`, as positions in `servers`; those of weight 0 are left out.
pub(crate) fn rank(table: Table, key: u32, servers: &[PlacedServer]) -> Vec<usize> {
    let usable = || {
        servers
            .iter()
            .enumerate()
            .filter(|(_, server)| server.weight > 0)
    };
    let mut weights = usable().map(|(_, server)| server.weight);
    let first = weights.next();
    let equal = weights.all(|weight| Some(weight) == first);
    let mut draws: Vec<(usize, Draw)> = usable()
        .map(|(at, server)| (at, draw(table, key, server, equal)))
        .collect();
    draws.sort_by(|(_, a), (_, b)| Draw::better(a, b));
    draws.into_iter().map(|(at, _)| at).collect()
}

/// Among equal weights the logarithm needn't be taken: it never rises with the hash, which then decides.
fn draw(table: Table, key: u32, server: &PlacedServer, equal: bool) -> Draw {
    let hash = hash(table, key, server.node);
    Draw {
        cost: if equal { 0 } else { minus_log2(hash) },
        weight: server.weight,
        hash,
        node: server.node,
    }
}

/// Uniform 64 bits for a pair of key and server.
pub(crate) fn hash(table: Table, key: u32, node: NodeId) -> u64 {
    let mut input = [0; 13];
    input[0] = table as u8;
    input[1..5].copy_from_slice(&key.to_be_bytes());
    input[5..].copy_from_slice(&node.0.to_be_bytes());
    first_eight(&blake3::hash(&input))
}

pub(crate) fn first_eight(hash: &blake3::Hash) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// Bits after the point of [`minus_log2`].
const FRACTION_BITS: u32 = 32;

/// −log2((hash + 1) ÷ 2^64) with [`FRACTION_BITS`] bits after the point: 0 for the largest hash, 64 for hash 0.
fn minus_log2(hash: u64) -> u64 {
    let Some(x) = hash.checked_add(1) else {
        return 0;
    };
    let whole = x.ilog2();
    // The mantissa in [1, 2) with 63 bits after the point. Squaring it doubles its logarithm: each time the square
    // reaches 2, the next bit of the logarithm is 1.
    let mut mantissa = x << (63 - whole);
    let mut log = u64::from(whole);
    for _ in 0..FRACTION_BITS {
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        let carry = (square >> 64) as u64;
        mantissa = (square >> carry) as u64;
        log = (log << 1) | carry;
    }
    (64 << FRACTION_BITS) - log
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_of_powers_of_two_are_exact() {
        for power in 0..64_u32 {
            let hash = (1_u64 << power) - 1;
            assert_eq!(
                minus_log2(hash),
                u64::from(64 - power) << FRACTION_BITS,
                "2^{power}"
            );
        }
        assert_eq!(minus_log2(u64::MAX), 0);
    }

    #[test]
    fn logarithms_agree_with_floating_point_and_never_rise() {
        let mut before = u64::MAX;
        for step in 0..1000_u64 {
            let hash = step * (u64::MAX / 1000);
            let fixed = minus_log2(hash);
            let float = 64.0 - ((hash as f64) + 1.0).log2();
            assert!(
                (fixed as f64 / f64::powi(2.0, FRACTION_BITS as i32) - float).abs() < 1e-8,
                "{hash}"
            );
            assert!(fixed <= before);
            before = fixed;
        }
    }

    #[test]
    fn equal_weights_rank_as_their_logarithms_do() {
        let servers: Vec<_> = (1..=9)
            .map(|n| PlacedServer {
                node: NodeId(n),
                weight: 4,
            })
            .collect();
        for key in 0..200 {
            let with_logarithms = |&at: &usize| draw(Table::Blocks, key, &servers[at], false);
            let mut expected: Vec<usize> = (0..servers.len()).collect();
            expected.sort_by(|a, b| Draw::better(&with_logarithms(a), &with_logarithms(b)));
            assert_eq!(rank(Table::Blocks, key, &servers), expected);
        }
    }

    #[test]
    fn a_server_comes_first_in_proportion_to_its_weight() {
        let servers: Vec<_> = [1, 2, 5]
            .iter()
            .zip(1..)
            .map(|(&weight, n)| PlacedServer {
                node: NodeId(n),
                weight,
            })
            .collect();
        let mut first = [0_u32; 3];
        for key in 0..8000 {
            first[rank(Table::Blocks, key, &servers)[0]] += 1;
        }
        for (count, fair) in first.iter().zip([1000_u32, 2000, 5000]) {
            assert!(count.abs_diff(fair) < fair / 10, "{first:?}");
        }
    }
}
