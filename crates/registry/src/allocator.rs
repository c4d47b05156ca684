//! Pools of numbers, handed out inside apply: two proposers can never be given one value.
//!
//! A pool is a range `lo..=hi` with a cursor: any free value is searched from the cursor upwards and
//! then from `lo`, so a released value rests for as long as the range allows. [`dense`] keeps a
//! bitmap with summaries above it, [`sparse`] keeps intervals; both work on offsets from `lo`, and
//! the cost of either does not depend on how full the pool is.
//!
//! Invariants: `used` is the number of values in use; a value in use is not given again; a held
//! value is in use, and is released only in the name of its holder.

use raft_machine::{Batch, StoreError, View, decode, encode};
use serde::{Deserialize, Serialize};

use crate::apply::Halt;
use crate::command::{Layout, Refused, ResourceKey, Want};
use crate::{keys, limits};

pub mod dense;
pub mod sparse;

const POOL_FORMAT: u8 = 1;
const HEADER: u8 = b'h';
const HOLDER: u8 = b'o';

/// A pool's header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// How it is kept.
    pub layout: Layout,
    /// The lowest value.
    pub lo: u128,
    /// The highest value.
    pub hi: u128,
    /// How many values are in use.
    pub used: u128,
    /// The offset at which the next search begins.
    cursor: u128,
}

impl Pool {
    /// The highest offset.
    fn last(&self) -> u128 {
        self.hi - self.lo
    }
}

/// Reads a pool's header.
pub fn load(view: &dyn View, pool: &str) -> Result<Option<Pool>, StoreError> {
    let bytes = view.get(&keys::pool(pool, HEADER, &[]))?;
    bytes
        .map(|bytes| decode("pool", POOL_FORMAT, &bytes))
        .transpose()
}

/// The resource that holds a value.
pub fn holder(view: &dyn View, pool: &str, value: u128) -> Result<Option<ResourceKey>, StoreError> {
    let bytes = view.get(&keys::pool(pool, HOLDER, &value.to_be_bytes()))?;
    bytes
        .map(|bytes| decode("holder", POOL_FORMAT, &bytes))
        .transpose()
}

/// Makes a pool.
pub fn create(
    batch: &mut dyn Batch,
    pool: &str,
    layout: Layout,
    lo: u128,
    hi: u128,
) -> Result<(), Halt> {
    limits::check_name(pool)?;
    if lo > hi {
        return Err(Refused::Invalid(format!("pool `{pool}` ends before it begins")).into());
    }
    if layout == Layout::Dense && hi - lo >= dense::VALUES_MAX {
        let why = format!("pool `{pool}` is too wide for a bitmap: make it sparse");
        return Err(Refused::Invalid(why).into());
    }
    // The number of values of the whole of u128 would not fit `used`.
    if hi - lo == u128::MAX {
        return Err(Refused::Invalid(format!("pool `{pool}` must leave out one value")).into());
    }
    if load(&*batch, pool)?.is_some() {
        return Err(Refused::AlreadyExists(ResourceKey::new("Pool", pool)).into());
    }
    save(
        batch,
        pool,
        &Pool {
            layout,
            lo,
            hi,
            used: 0,
            cursor: 0,
        },
    )
}

/// Removes a pool of which nothing is in use.
pub fn remove(batch: &mut dyn Batch, name: &str) -> Result<(), Halt> {
    let pool = existing(&*batch, name)?;
    if pool.used > 0 {
        let why = format!(
            "pool `{name}` has {} values in use: release them first",
            pool.used
        );
        return Err(Refused::Invalid(why).into());
    }
    Ok(batch.delete(&keys::pool(name, HEADER, &[]))?)
}

/// Takes values out of a pool; all that are wanted, or none.
pub fn allocate(
    batch: &mut dyn Batch,
    name: &str,
    want: &Want,
    for_whom: Option<&ResourceKey>,
) -> Result<Vec<u128>, Halt> {
    let mut pool = existing(&*batch, name)?;
    let values = match want {
        Want::Any { count } => take_any(batch, name, &mut pool, *count)?,
        Want::These(values) => take_these(batch, name, &mut pool, values)?,
    };
    save(batch, name, &pool)?;
    if let Some(key) = for_whom {
        let record = encode(POOL_FORMAT, key);
        for value in &values {
            batch.put(&keys::pool(name, HOLDER, &value.to_be_bytes()), &record)?;
        }
    }
    Ok(values)
}

/// Gives values back to a pool.
pub fn release(
    batch: &mut dyn Batch,
    name: &str,
    values: &[u128],
    held_by: Option<&ResourceKey>,
) -> Result<(), Halt> {
    limits::bound("the list of values", values.len(), limits::VALUES_MAX)?;
    let mut pool = existing(&*batch, name)?;
    for &value in values {
        if holder(&*batch, name, value)?.as_ref() != held_by {
            let why = format!("{value} of pool `{name}` has another holder, or none");
            return Err(Refused::Invalid(why).into());
        }
        let offset = offset_of(name, &pool, value)?;
        if !give(batch, name, &pool, offset)? {
            let why = format!("{value} of pool `{name}` is not in use");
            return Err(Refused::Invalid(why).into());
        }
        pool.used -= 1;
        if held_by.is_some() {
            batch.delete(&keys::pool(name, HOLDER, &value.to_be_bytes()))?;
        }
    }
    save(batch, name, &pool)
}

fn take_any(
    batch: &mut dyn Batch,
    name: &str,
    pool: &mut Pool,
    count: u32,
) -> Result<Vec<u128>, Halt> {
    limits::bound("the count of values", count as usize, limits::VALUES_MAX)?;
    if pool.last() + 1 - pool.used < u128::from(count) {
        return Err(Refused::Exhausted(name.into()).into());
    }
    let mut values = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let from_cursor = next_free(&*batch, name, pool, pool.cursor)?;
        let offset = match from_cursor {
            Some(offset) => Some(offset),
            None => next_free(&*batch, name, pool, 0)?,
        };
        let offset = offset.ok_or_else(|| damaged(name, "is full, yet counts free values"))?;
        take(batch, name, pool, offset)?;
        pool.used += 1;
        pool.cursor = if offset == pool.last() { 0 } else { offset + 1 };
        values.push(pool.lo + offset);
    }
    Ok(values)
}

fn take_these(
    batch: &mut dyn Batch,
    name: &str,
    pool: &mut Pool,
    values: &[u128],
) -> Result<Vec<u128>, Halt> {
    limits::bound("the list of values", values.len(), limits::VALUES_MAX)?;
    for &value in values {
        let offset = offset_of(name, pool, value)?;
        if !take(batch, name, pool, offset)? {
            return Err(Refused::InUse {
                pool: name.into(),
                value,
            }
            .into());
        }
        pool.used += 1;
    }
    Ok(values.to_vec())
}

fn next_free(
    view: &dyn View,
    name: &str,
    pool: &Pool,
    from: u128,
) -> Result<Option<u128>, StoreError> {
    match pool.layout {
        Layout::Dense => dense::next_free(view, name, pool.last(), from),
        Layout::Sparse => sparse::next_free(view, name, pool.last(), from),
    }
}

/// Marks a value as used; false when it was.
fn take(batch: &mut dyn Batch, name: &str, pool: &Pool, offset: u128) -> Result<bool, StoreError> {
    match pool.layout {
        Layout::Dense => dense::take(batch, name, pool.last(), offset),
        Layout::Sparse => sparse::take(batch, name, offset),
    }
}

/// Marks a value as free; false when it was.
fn give(batch: &mut dyn Batch, name: &str, pool: &Pool, offset: u128) -> Result<bool, StoreError> {
    match pool.layout {
        Layout::Dense => dense::give(batch, name, offset),
        Layout::Sparse => sparse::give(batch, name, offset),
    }
}

fn existing(view: &dyn View, name: &str) -> Result<Pool, Halt> {
    load(view, name)?.ok_or_else(|| Refused::NotFound(ResourceKey::new("Pool", name)).into())
}

fn save(batch: &mut dyn Batch, name: &str, pool: &Pool) -> Result<(), Halt> {
    Ok(batch.put(&keys::pool(name, HEADER, &[]), &encode(POOL_FORMAT, pool))?)
}

fn offset_of(name: &str, pool: &Pool, value: u128) -> Result<u128, Refused> {
    if (pool.lo..=pool.hi).contains(&value) {
        return Ok(value - pool.lo);
    }
    let range = format!("{}..={}", pool.lo, pool.hi);
    Err(Refused::Invalid(format!(
        "{value} is outside of pool `{name}` ({range})"
    )))
}

fn damaged(name: &str, why: &str) -> StoreError {
    StoreError::Damaged(format!("pool `{name}` {why}"))
}

#[cfg(test)]
mod tests;
