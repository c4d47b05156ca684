//! Applies commands and answers queries over a group's keys.
//!
//! Everything that happens is in the command: no clock, no randomness. A refused command writes nothing. One that can't be
//! read is refused too; only one of a newer format stops the group here, because other replicas may well apply it.

use ids::BucketId;
use raft_machine::{Batch, Machine, StoreError, View, decode, encode};

use super::change::{Change, Step, Stop};
use super::listing::{self, Wanted};
use super::{
    Answer, Command, META_FORMAT, Outcome, Query, Refused, epochs, fences, objects, segments,
    stats, uploads,
};

/// The metadata of a placement group: objects, uploads, segments and fences of its key slots.
#[derive(Debug, Clone, Copy, Default)]
pub struct MetaMachine;

impl MetaMachine {
    /// A machine; all its state is in the store.
    pub fn new() -> Self {
        MetaMachine
    }
}

impl Machine for MetaMachine {
    fn admit(&self, command: &[u8]) -> Result<(), String> {
        match decode::<Command>("a command", META_FORMAT, command) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn apply(
        &self,
        batch: &mut dyn Batch,
        _index: u64,
        command: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let command = match decode::<Command>("a command", META_FORMAT, command) {
            Ok(command) => command,
            Err(StoreError::Damaged(why)) => {
                let outcome = Outcome::Refused(Refused::InvalidRequest(why));
                return Ok(encode(META_FORMAT, &outcome));
            }
            Err(error) => return Err(error),
        };
        let mut change = Change::new(batch);
        let outcome = match carry_out(&mut change, command) {
            Ok(outcome) => {
                change.finish()?;
                outcome
            }
            Err(Stop::Refused(refused)) => Outcome::Refused(refused),
            Err(Stop::Store(error)) => return Err(error),
        };
        Ok(encode(META_FORMAT, &outcome))
    }

    fn query(&self, view: &dyn View, query: &[u8]) -> Result<Vec<u8>, StoreError> {
        let query = decode("a query", META_FORMAT, query)?;
        Ok(encode(META_FORMAT, &answer(view, query)?))
    }
}

fn carry_out(change: &mut Change<'_>, command: Command) -> Step {
    match command {
        Command::BeginSegment {
            at,
            segment,
            started_ms,
        } => segments::begin(change, at, segment, started_ms, None),
        Command::BeginSegmentIn {
            at,
            segment,
            started_ms,
            epoch,
        } => segments::begin(change, at, segment, started_ms, Some(epoch)),
        Command::HearOfEpoch(epoch) => {
            epochs::hear_of(change, epoch)?;
            Ok(Outcome::Done)
        }
        Command::AppendBlocks {
            segment,
            page,
            blocks,
        } => segments::append(change, segment, page, &blocks),
        Command::PutObject {
            at,
            conditions,
            object,
            content,
        } => objects::put(change, at, &conditions, object, content),
        Command::DeleteObject {
            at,
            version,
            conditions,
        } => objects::delete(change, &at, version, &conditions),
        Command::CreateUpload {
            at,
            upload,
            headers,
            checksum,
            owner,
            created_ms,
        } => {
            let record = super::records::UploadRecord {
                owner,
                created_ms,
                checksum,
                headers,
            };
            uploads::create(change, &at, upload, record)
        }
        Command::PutPart {
            at,
            upload,
            part,
            content,
        } => uploads::put_part(change, &at, upload, part, content),
        Command::CompleteUpload {
            at,
            upload,
            parts,
            conditions,
            checksum,
            size,
            modified_ms,
        } => {
            let claimed = uploads::Claimed {
                parts,
                checksum,
                size,
            };
            uploads::complete(change, &at, upload, &claimed, &conditions, modified_ms)
        }
        Command::AbortUpload { at, upload } => uploads::abort(change, &at, upload),
        Command::GiveUpSegments(segments) => segments::give_up(change, &segments),
        Command::ForgetSegments(segments) => segments::forget(change, &segments),
        Command::UpdateBlocks { segment, blocks } => segments::update(change, segment, blocks),
        Command::FenceSlots {
            bucket,
            slots,
            attempt,
        } => fences::fence(change, bucket, &slots, attempt),
        Command::UnfenceSlots {
            bucket,
            slots,
            attempt,
        } => fences::unfence(change, bucket, &slots, attempt),
    }
}

fn answer(view: &dyn View, query: Query) -> Result<Answer, StoreError> {
    Ok(match query {
        Query::Head {
            at,
            version,
            with_content,
        } => {
            let head = Answer::Head(objects::head(view, &at, version, with_content)?);
            unless_closed(view, at.bucket, &[at.slot], head)?
        }
        Query::Blocks { segment, from, max } => {
            Answer::Blocks(segments::blocks(view, segment, from, max)?)
        }
        Query::List {
            bucket,
            slots,
            prefix,
            delimiter,
            after,
            max,
        } => {
            let (prefix, delimiter, after) =
                (prefix.as_str(), delimiter.as_deref(), after.as_deref());
            let wanted = Wanted {
                bucket,
                prefix,
                delimiter,
                after,
                max,
            };
            let page = listing::list(view, &wanted, &slots)?;
            unless_closed(view, bucket, &slots, page)?
        }
        Query::ListUploads {
            bucket,
            slots,
            prefix,
            after,
            max,
        } => {
            let page = uploads::list(view, bucket, &slots, &prefix, after.as_ref(), max)?;
            unless_closed(view, bucket, &slots, page)?
        }
        Query::ListParts {
            at,
            upload,
            after,
            max,
        } => {
            let parts = Answer::Parts(uploads::parts(view, &at, upload, after, max)?);
            unless_closed(view, at.bucket, &[at.slot], parts)?
        }
        Query::Pending { max } => Answer::Pending(segments::pending(view, max)?),
        Query::Doomed { max } => Answer::Doomed(segments::doomed(view, max)?),
        Query::Known(segments) => Answer::Known(segments::known(view, &segments)?),
        Query::Debt { thin, after, max } => super::debt::debt(view, &thin, after, max)?,
        Query::Stats => Answer::Stats(stats::stats(view)?),
        Query::Read {
            at,
            version,
            blocks_max,
        } => {
            let read = Answer::Read(objects::readable(view, &at, version, blocks_max)?);
            unless_closed(view, at.bucket, &[at.slot], read)?
        }
        Query::Epochs => epochs::epochs(view)?,
    })
}

/// This answer about slots of a bucket; if it shows nothing and they are all fenced, that.
fn unless_closed(
    view: &dyn View,
    bucket: BucketId,
    slots: &[u16],
    answer: Answer,
) -> Result<Answer, StoreError> {
    let shows_nothing = match &answer {
        Answer::Head(found) => found.is_none(),
        Answer::Read(found) => found.is_none(),
        Answer::Parts(found) => found.is_none(),
        Answer::List {
            objects,
            common_prefixes,
            ..
        } => objects.is_empty() && common_prefixes.is_empty(),
        Answer::Uploads { uploads, .. } => uploads.is_empty(),
        _ => false,
    };
    match shows_nothing && fences::are_closed(view, bucket, slots)? {
        true => Ok(Answer::Fenced),
        false => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    use raft_machine::memory::MemoryStore;

    use super::*;

    #[test]
    fn what_is_no_command_is_neither_admitted_nor_a_failure() {
        let machine = MetaMachine::new();
        let good = encode(META_FORMAT, &Command::GiveUpSegments(Vec::new()));
        assert_eq!(machine.admit(&good), Ok(()));
        let trailing = [&good[..], b"x"].concat();
        let unreadable: [&[u8]; 4] = [b"", &[META_FORMAT], &[META_FORMAT, 0xFF], &trailing];
        for garbage in unreadable {
            assert!(machine.admit(garbage).is_err(), "{garbage:?}");
            let mut store = MemoryStore::default();
            let outcome = machine.apply(&mut store, 1, garbage).unwrap();
            let outcome: Outcome = decode("an outcome", META_FORMAT, &outcome).unwrap();
            assert!(matches!(
                outcome,
                Outcome::Refused(Refused::InvalidRequest(_))
            ));
            assert!(store.is_empty());
        }
    }

    #[test]
    fn a_newer_command_is_not_admitted() {
        let mut newer = encode(META_FORMAT, &Command::GiveUpSegments(Vec::new()));
        newer[0] = META_FORMAT + 1;
        assert!(MetaMachine::new().admit(&newer).is_err());
    }
}
