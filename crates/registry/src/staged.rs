//! Writes that are not made yet: a transaction's effects are gathered here and thrown away when it
//! is refused. Reads see them; an operation can be rolled back alone.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use raft_machine::{Batch, StoreError, View, Visit};

type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// An entry of the writes: none, a removal, or a value.
type Before = Option<Option<Vec<u8>>>;

/// A batch over a view that is left as it is.
pub struct Staged<'a> {
    base: &'a dyn View,
    writes: Writes,
    /// What a key's entry was before each write since the last mark.
    journal: Vec<(Vec<u8>, Before)>,
}

impl<'a> Staged<'a> {
    /// No writes yet.
    pub fn new(base: &'a dyn View) -> Self {
        Staged {
            base,
            writes: Writes::new(),
            journal: Vec::new(),
        }
    }

    /// What [`Staged::roll_back`] goes back to.
    pub fn mark(&mut self) {
        self.journal.clear();
    }

    /// Undoes the writes since the last mark.
    pub fn roll_back(&mut self) {
        while let Some((key, entry)) = self.journal.pop() {
            match entry {
                Some(entry) => self.writes.insert(key, entry),
                None => self.writes.remove(&key),
            };
        }
    }

    /// The writes, in key order.
    pub fn into_writes(self) -> Writes {
        self.writes
    }

    fn write(&mut self, key: &[u8], value: Option<Vec<u8>>) {
        let before = self.writes.insert(key.to_vec(), value);
        self.journal.push((key.to_vec(), before));
    }
}

impl View for Staged<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.writes.get(key) {
            Some(entry) => Ok(entry.clone()),
            None => self.base.get(key),
        }
    }

    fn scan(&self, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<(), StoreError> {
        if to.is_some_and(|to| to <= from) {
            return Ok(());
        }
        let upper = to.map_or(Bound::Unbounded, Bound::Excluded);
        let mut writes = self
            .writes
            .range::<[u8], _>((Bound::Included(from), upper))
            .peekable();
        let mut broken = false;
        self.base.scan(from, to, &mut |key, value| {
            let mut hidden = false;
            while let Some((staged, entry)) = writes.next_if(|(staged, _)| &staged[..] <= key) {
                hidden = &staged[..] == key;
                if let Some(value) = entry
                    && visit(staged, value).is_break()
                {
                    broken = true;
                    return ControlFlow::Break(());
                }
            }
            if !hidden && visit(key, value).is_break() {
                broken = true;
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        if broken {
            return Ok(());
        }
        for (key, entry) in writes {
            if let Some(value) = entry
                && visit(key, value).is_break()
            {
                break;
            }
        }
        Ok(())
    }
}

impl Batch for Staged<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.write(key, Some(value.to_vec()));
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), StoreError> {
        self.write(key, None);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use raft_machine::memory::MemoryStore;

    use super::*;

    fn keys(
        view: &dyn View,
        from: &[u8],
        to: Option<&[u8]>,
        max: usize,
    ) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut seen = Vec::new();
        view.scan(from, to, &mut |key, value| {
            seen.push((key.to_vec(), value.to_vec()));
            if seen.len() == max {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
        .unwrap();
        seen
    }

    proptest::proptest! {
        #[test]
        fn reads_as_a_store_that_was_written(
            base in proptest::collection::btree_map(0u8..20, 0u8..9, 0..12),
            writes in proptest::collection::vec((0u8..20, proptest::option::of(0u8..9)), 0..20),
            undone in proptest::collection::vec((0u8..20, proptest::option::of(0u8..9)), 0..9),
            from in 0u8..20, to in proptest::option::of(0u8..22), max in 1usize..9,
        ) {
            let mut model = MemoryStore::default();
            for (key, value) in &base {
                model.put(&[*key], &[*value]).unwrap();
            }
            let store = model.clone();
            let mut staged = Staged::new(&store);
            let write = |batch: &mut dyn Batch, (key, value): &(u8, Option<u8>)| match value {
                Some(value) => batch.put(&[*key], &[*value]).unwrap(),
                None => batch.delete(&[*key]).unwrap(),
            };
            for one in &writes {
                write(&mut model, one);
                write(&mut staged, one);
            }
            staged.mark();
            for one in &undone {
                write(&mut staged, one);
            }
            staged.roll_back();
            let to = to.map(|to| [to]);
            let to = to.as_ref().map(|to| &to[..]);
            proptest::prop_assert_eq!(keys(&staged, &[from], to, max), keys(&model, &[from], to, max));
            for key in 0..20 {
                proptest::prop_assert_eq!(staged.get(&[key]).unwrap(), model.get(&[key]).unwrap());
            }
        }
    }
}
