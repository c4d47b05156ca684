//! What is wrong with the volumes of blocks on this node, in words.

use object_store::volume::StoreStats;

/// Volumes that can't be read, and volumes that take no more writes. One of a kind is named: of a disk that fails it may be
/// all of them.
pub fn troubles(blocks: &StoreStats) -> Vec<String> {
    let kinds = [
        (
            "blocks are missing here, as a volume can't be read",
            &blocks.damaged_volumes,
        ),
        (
            "a volume of blocks takes no more writes, as a sync of it failed",
            &blocks.fenced_volumes,
        ),
    ];
    let troubles = kinds.into_iter();
    troubles
        .filter_map(|(what, volumes)| trouble(what, volumes))
        .collect()
}

fn trouble(what: &str, volumes: &[String]) -> Option<String> {
    let first = volumes.first()?;
    Some(match volumes.len() - 1 {
        0 => format!("{what}: {first}"),
        more => format!("{what}: {first} (and {more} more)"),
    })
}

/// Blocks that turned out to be damaged when they were read.
pub fn corruption(blocks: &StoreStats) -> Option<String> {
    match blocks.corrupt_reads {
        0 => None,
        1 => Some("1 read found a damaged block since the start".to_owned()),
        reads => Some(format!(
            "{reads} reads found damaged blocks since the start"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_trouble_is_said_once() {
        let good = StoreStats::default();
        assert_eq!(troubles(&good), [""; 0]);
        assert_eq!(corruption(&good), None);
        let bad = StoreStats {
            damaged_volumes: ["00000001: a", "00000002: b", "00000003: c"]
                .map(str::to_owned)
                .to_vec(),
            fenced_volumes: vec!["00000004: d".to_owned()],
            corrupt_reads: 2,
            ..StoreStats::default()
        };
        let said = troubles(&bad);
        assert_eq!(said.len(), 2);
        assert!(said[0].ends_with("can't be read: 00000001: a (and 2 more)"));
        assert!(said[1].ends_with("failed: 00000004: d"));
        let reads = corruption(&bad).unwrap();
        assert!(reads.starts_with("2 reads"), "{reads}");
    }
}
