//! Runs of values in use, as intervals under their last offset.
//!
//! Invariant: intervals neither overlap nor touch, so the offset after one is free (or beyond the
//! range), and a search reads one record.

use std::ops::ControlFlow;

use raft_machine::{Batch, StoreError, View};

use crate::keys;

const INTERVAL: u8 = b'i';

struct Interval {
    first: u128,
    last: u128,
}

/// The first free offset from `from` to `last`.
pub fn next_free(
    view: &dyn View,
    pool: &str,
    last: u128,
    from: u128,
) -> Result<Option<u128>, StoreError> {
    let free = match ending_from(view, pool, from)? {
        Some(run) if run.first <= from => run.last.checked_add(1),
        _ => Some(from),
    };
    Ok(free.filter(|free| *free <= last))
}

/// Marks an offset as used; false when it was.
pub fn take(batch: &mut dyn Batch, pool: &str, offset: u128) -> Result<bool, StoreError> {
    let above = ending_from(&*batch, pool, offset)?;
    if above.as_ref().is_some_and(|run| run.first <= offset) {
        return Ok(false);
    }
    let below = match offset.checked_sub(1) {
        Some(end) => load(&*batch, pool, end)?,
        None => None,
    };
    let first = below.as_ref().map_or(offset, |run| run.first);
    let joined = above.filter(|run| run.first == offset + 1);
    let last = joined.map_or(offset, |run| run.last);
    if let Some(below) = below {
        batch.delete(&key(pool, below.last))?;
    }
    put(batch, pool, Interval { first, last })?;
    Ok(true)
}

/// Marks an offset as free; false when it was.
pub fn give(batch: &mut dyn Batch, pool: &str, offset: u128) -> Result<bool, StoreError> {
    let Some(run) = ending_from(&*batch, pool, offset)?.filter(|run| run.first <= offset) else {
        return Ok(false);
    };
    if run.last == offset {
        batch.delete(&key(pool, run.last))?;
    } else {
        put(
            batch,
            pool,
            Interval {
                first: offset + 1,
                last: run.last,
            },
        )?;
    }
    if run.first < offset {
        put(
            batch,
            pool,
            Interval {
                first: run.first,
                last: offset - 1,
            },
        )?;
    }
    Ok(true)
}

fn key(pool: &str, last: u128) -> Vec<u8> {
    keys::pool(pool, INTERVAL, &last.to_be_bytes())
}

fn put(batch: &mut dyn Batch, pool: &str, run: Interval) -> Result<(), StoreError> {
    batch.put(&key(pool, run.last), &run.first.to_be_bytes())
}

fn load(view: &dyn View, pool: &str, last: u128) -> Result<Option<Interval>, StoreError> {
    let value = view.get(&key(pool, last))?;
    value
        .map(|value| {
            Ok(Interval {
                first: number(pool, &value)?,
                last,
            })
        })
        .transpose()
}

/// The first interval that ends at `from` or later.
fn ending_from(view: &dyn View, pool: &str, from: u128) -> Result<Option<Interval>, StoreError> {
    let start = key(pool, from);
    let end = keys::end_of(&keys::pool(pool, INTERVAL, &[]));
    let mut found = None;
    view.scan(&start, Some(&end), &mut |key, value| {
        found = Some((key.to_vec(), value.to_vec()));
        ControlFlow::Break(())
    })?;
    let Some((key, value)) = found else {
        return Ok(None);
    };
    let last = number(pool, &key[key.len() - 16..])?;
    Ok(Some(Interval {
        first: number(pool, &value)?,
        last,
    }))
}

fn number(pool: &str, bytes: &[u8]) -> Result<u128, StoreError> {
    let damaged = |_| StoreError::Damaged(format!("pool `{pool}`: an interval has a wrong length"));
    Ok(u128::from_be_bytes(bytes.try_into().map_err(damaged)?))
}
