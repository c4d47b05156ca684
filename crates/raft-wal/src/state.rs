//! A group's small state and its rules: what fits, and what each change does to it. Pure.
//!
//! The same rules run three times: when a call is accepted, when its batch is durable, and when the log is recovered.

use bytes::Bytes;
use ids::GroupId;

use crate::WalError;

/// What the log knows of a group besides its entries.
///
/// Inequalities: `first <= next`; the log holds exactly the entries `first..next`; if something was purged up to `p`,
/// then `first == p + 1`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupState {
    /// The last vote that was saved.
    pub vote: Option<Bytes>,
    /// The last purged index, and the mark that came with it.
    pub purged: Option<(u64, Bytes)>,
    /// Index of the first entry that is kept.
    pub first: u64,
    /// Index after the last entry; equal to `first` when there is none.
    pub next: u64,
}

impl GroupState {
    /// Whether the log holds no entry of the group.
    pub fn is_empty(&self) -> bool {
        self.first == self.next
    }

    /// The index of the last entry, if the log holds one.
    pub fn last(&self) -> Option<u64> {
        (!self.is_empty()).then(|| self.next - 1)
    }

    /// A new group may begin at any index; after that indices have no gap.
    pub(crate) fn check_append(&self, group: GroupId, first_index: u64) -> Result<(), WalError> {
        let fresh = self.next == 0 && self.purged.is_none();
        match fresh || first_index == self.next {
            true => Ok(()),
            false => Err(WalError::OutOfOrder {
                group,
                expected: self.next,
                given: first_index,
            }),
        }
    }

    /// What was purged can't be truncated.
    pub(crate) fn check_truncate(&self, group: GroupId, index: u64) -> Result<(), WalError> {
        match index >= self.first {
            true => Ok(()),
            false => Err(WalError::OutOfOrder {
                group,
                expected: self.first,
                given: index,
            }),
        }
    }

    /// Adds `count` entries from `first_index` on; see [`GroupState::check_append`].
    pub(crate) fn append(&mut self, first_index: u64, count: u64) {
        if self.next != first_index {
            self.first = first_index;
        }
        self.next = first_index + count;
    }

    /// Drops the entries from `index` on.
    pub(crate) fn truncate(&mut self, index: u64) {
        self.next = self.next.min(index).max(self.first);
    }

    /// Drops the entries up to `through`; an older mark than the one that is kept changes nothing.
    pub(crate) fn purge(&mut self, through: u64, mark: Bytes) {
        if self
            .purged
            .as_ref()
            .is_some_and(|(kept, _)| *kept > through)
        {
            return;
        }
        self.first = through.saturating_add(1);
        self.next = self.next.max(self.first);
        self.purged = Some((through, mark));
    }
}

/// The payload of a checkpoint record.
pub(crate) fn encode_checkpoint(state: &GroupState) -> Vec<u8> {
    let mut out = state.first.to_le_bytes().to_vec();
    let mut part = |part: Option<&Bytes>| {
        out.push(u8::from(part.is_some()));
        let bytes = part.map(|bytes| &bytes[..]).unwrap_or_default();
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(bytes);
    };
    part(state.vote.as_ref());
    part(state.purged.as_ref().map(|(_, mark)| mark));
    if let Some((through, _)) = &state.purged {
        out.extend_from_slice(&through.to_le_bytes());
    }
    out
}

/// The inverse of [`encode_checkpoint`]; `next` is the record's index.
pub(crate) fn decode_checkpoint(next: u64, mut bytes: &[u8]) -> Option<GroupState> {
    fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
        let (head, rest) = bytes.split_at_checked(len)?;
        *bytes = rest;
        Some(head)
    }
    fn number(bytes: &mut &[u8]) -> Option<u64> {
        Some(u64::from_le_bytes(take(bytes, 8)?.try_into().ok()?))
    }
    fn part(bytes: &mut &[u8]) -> Option<Option<Bytes>> {
        let present = take(bytes, 1)?[0] == 1;
        let len = u32::from_le_bytes(take(bytes, 4)?.try_into().ok()?);
        let part = take(bytes, len as usize)?;
        Some(present.then(|| Bytes::copy_from_slice(part)))
    }
    let first = number(&mut bytes)?;
    let vote = part(&mut bytes)?;
    let purged = match part(&mut bytes)? {
        Some(mark) => Some((number(&mut bytes)?, mark)),
        None => None,
    };
    (bytes.is_empty() && first <= next).then_some(GroupState {
        vote,
        purged,
        first,
        next,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_survive_their_bytes() {
        let full = GroupState {
            vote: Some(Bytes::from_static(b"vote")),
            purged: Some((4, Bytes::from_static(b"mark"))),
            first: 5,
            next: 9,
        };
        for state in [full, GroupState::default()] {
            let bytes = encode_checkpoint(&state);
            assert_eq!(decode_checkpoint(state.next, &bytes), Some(state.clone()));
            for cut in 0..bytes.len() {
                assert_eq!(decode_checkpoint(state.next, &bytes[..cut]), None);
            }
        }
    }

    #[test]
    fn indices_have_no_gap() {
        let group = GroupId(1);
        let mut state = GroupState::default();
        assert!(state.check_append(group, 5).is_ok());
        state.append(5, 3);
        assert_eq!((state.first, state.next), (5, 8));
        assert!(state.check_append(group, 9).is_err());
        state.truncate(5);
        assert!(state.check_append(group, 6).is_err());
        state.purge(9, Bytes::new());
        assert_eq!((state.first, state.next), (10, 10));
        assert!(state.check_append(group, 10).is_ok());
        assert!(state.check_truncate(group, 9).is_err());
        state.purge(3, Bytes::new());
        assert_eq!(state.purged, Some((9, Bytes::new())));
    }
}
