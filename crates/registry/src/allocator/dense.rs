//! Bitmaps of what is in use, in three levels.
//!
//! A node is a bitmap of 4,096 bits under one key; a node without bits set has no key. Level 0 has a
//! bit for each value; a bit of a level above is set while the node below it is full. So a search
//! looks at up to five nodes, however full the pool is. Bits beyond the last value count as set.

use raft_machine::{Batch, StoreError, View};

use crate::keys;

/// How many values a dense pool can have.
pub const VALUES_MAX: u128 = BITS * BITS * BITS;

const BITS: u128 = 4_096;
const BYTES: usize = 512;
const LEVELS: u8 = 3;

type Node = [u8; BYTES];

/// The first free offset from `from` to `last`.
pub fn next_free(
    view: &dyn View,
    pool: &str,
    last: u128,
    from: u128,
) -> Result<Option<u128>, StoreError> {
    if from > last {
        return Ok(None);
    }
    next_clear(view, pool, 0, last, from)
}

/// Marks an offset as used; false when it was.
pub fn take(
    batch: &mut dyn Batch,
    pool: &str,
    last: u128,
    offset: u128,
) -> Result<bool, StoreError> {
    let (mut last, mut at) = (last, offset);
    for level in 0..LEVELS {
        let number = at / BITS;
        let mut node = load(&*batch, pool, level, number)?;
        if level == 0 && is_set(&node, at % BITS) {
            return Ok(false);
        }
        set(&mut node, at % BITS, true);
        batch.put(&key(pool, level, number), &node)?;
        if first_clear(&node, 0, bits_of(number, last)).is_some() {
            break;
        }
        (last, at) = (last / BITS, number);
    }
    Ok(true)
}

/// Marks an offset as free; false when it was.
pub fn give(batch: &mut dyn Batch, pool: &str, offset: u128) -> Result<bool, StoreError> {
    let mut at = offset;
    for level in 0..LEVELS {
        let number = at / BITS;
        let mut node = load(&*batch, pool, level, number)?;
        if !is_set(&node, at % BITS) {
            // Above level 0: the node below was not full, so nothing changes further up.
            return Ok(level > 0);
        }
        set(&mut node, at % BITS, false);
        if node.iter().all(|byte| *byte == 0) {
            batch.delete(&key(pool, level, number))?;
        } else {
            batch.put(&key(pool, level, number), &node)?;
        }
        at = number;
    }
    Ok(true)
}

/// The first clear bit of a level from `from` to `last`, both counted over all nodes of the level.
fn next_clear(
    view: &dyn View,
    pool: &str,
    level: u8,
    last: u128,
    from: u128,
) -> Result<Option<u128>, StoreError> {
    let number = from / BITS;
    let node = load(view, pool, level, number)?;
    if let Some(bit) = first_clear(&node, from % BITS, bits_of(number, last)) {
        return Ok(Some(number * BITS + bit));
    }
    if level + 1 == LEVELS || number == last / BITS {
        return Ok(None);
    }
    let Some(number) = next_clear(view, pool, level + 1, last / BITS, number + 1)? else {
        return Ok(None);
    };
    let node = load(view, pool, level, number)?;
    let bit = first_clear(&node, 0, bits_of(number, last));
    bit.map(|bit| Some(number * BITS + bit))
        .ok_or_else(|| StoreError::Damaged(format!("pool `{pool}`: a full node counts as free")))
}

/// How many bits of a node stand for something.
fn bits_of(number: u128, last: u128) -> u128 {
    if number < last / BITS {
        BITS
    } else {
        last % BITS + 1
    }
}

fn first_clear(node: &Node, from: u128, end: u128) -> Option<u128> {
    let mut bit = from;
    while bit < end {
        let below = (1u8 << (bit % 8)) - 1;
        let byte = node[(bit / 8) as usize] | below;
        if byte != 0xFF {
            let clear = bit / 8 * 8 + u128::from(byte.trailing_ones());
            return (clear < end).then_some(clear);
        }
        bit = (bit / 8 + 1) * 8;
    }
    None
}

fn is_set(node: &Node, bit: u128) -> bool {
    node[(bit / 8) as usize] & (1 << (bit % 8)) != 0
}

fn set(node: &mut Node, bit: u128, to: bool) {
    let mask = 1 << (bit % 8);
    let byte = &mut node[(bit / 8) as usize];
    *byte = if to { *byte | mask } else { *byte & !mask };
}

fn key(pool: &str, level: u8, number: u128) -> Vec<u8> {
    keys::pool(pool, b'0' + level, &(number as u64).to_be_bytes())
}

fn load(view: &dyn View, pool: &str, level: u8, number: u128) -> Result<Node, StoreError> {
    match view.get(&key(pool, level, number))? {
        None => Ok([0; BYTES]),
        Some(bytes) => Node::try_from(&bytes[..])
            .map_err(|_| StoreError::Damaged(format!("pool `{pool}`: a node has a wrong length"))),
    }
}
