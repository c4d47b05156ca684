//! The bounds of names, records, commands and answers, and the checks of what a command brings.

use std::collections::BTreeMap;

use crate::command::{Draft, Refused, Replacement};
use crate::resource::OwnerRef;

/// Bytes of a resource's or pool's name.
pub const NAME_MAX: usize = 253;
/// Bytes of a kind's name.
pub const KIND_MAX: usize = 128;
/// Bytes of a spec, and of a status.
pub const SPEC_MAX: usize = 512 << 10;
/// Labels of a resource.
pub const LABELS_MAX: usize = 64;
/// Bytes of a label's key, an index's name or a finalizer.
pub const KEY_MAX: usize = 317;
/// Bytes of a label's value, and of an index's.
pub const VALUE_MAX: usize = 253;
/// Bytes of all annotations of a resource.
pub const ANNOTATIONS_MAX: usize = 256 << 10;
/// Owners of a resource.
pub const OWNERS_MAX: usize = 64;
/// Finalizers of a resource.
pub const FINALIZERS_MAX: usize = 32;
/// Index entries of a resource.
pub const INDEXES_MAX: usize = 256;
/// Values that a resource may hold.
pub const ALLOCATIONS_MAX: usize = 256;
/// Values that one operation may take or release.
pub const VALUES_MAX: usize = 4_096;
/// Operations and preconditions of a transaction.
pub const OPS_MAX: usize = 16_384;
/// Bytes that a transaction may add to the change log, old values included.
pub const CHANGE_BYTES_MAX: usize = 8 << 20;
/// Dependants that are visited in the transaction that deleted their owner.
pub const COLLECT_INLINE: u32 = 64;
/// Dependants that one command visits.
pub const COLLECT_MAX: u32 = 1_024;
/// Items of a list page.
pub const LIST_MAX: u32 = 10_000;
/// Bytes of a page of a list or of changes, except that one item or revision is always given.
pub const PAGE_BYTES_MAX: usize = 2 << 20;
/// Newer changes that are undone for a list at an old revision.
pub const UNDO_MAX: usize = 10_000;

/// Checks a resource's or pool's name.
pub fn check_name(name: &str) -> Result<(), Refused> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:@/+=~".contains(&byte);
    bound("the name", name.len(), NAME_MAX)?;
    if name.is_empty() || !name.bytes().all(plain) {
        return invalid(format!(
            "`{name}` is no name: use letters, digits and - _ . : @ / + = ~, at least one"
        ));
    }
    if name
        .split('/')
        .any(|part| part.is_empty() || part == "." || part == "..")
    {
        return invalid(format!(
            "`{name}` has an empty or dotted part between slashes"
        ));
    }
    Ok(())
}

/// Checks a kind's name.
pub fn check_kind(kind: &str) -> Result<(), Refused> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-./".contains(&byte);
    bound("the kind", kind.len(), KIND_MAX)?;
    if kind.is_empty() || !kind.bytes().all(plain) {
        return invalid(format!(
            "`{kind}` is no kind: use letters, digits and - . /"
        ));
    }
    Ok(())
}

/// Checks all that a new resource brings.
pub fn check_draft(draft: &Draft) -> Result<(), Refused> {
    check_kind(&draft.kind)?;
    check_name(&draft.name)?;
    bound("the spec", draft.spec.len(), SPEC_MAX)?;
    bound("the status", draft.status.len(), SPEC_MAX)?;
    check_labels(&draft.labels)?;
    check_annotations(&draft.annotations)?;
    check_owners(&draft.owners)?;
    check_finalizers(&draft.finalizers)?;
    check_indexes(&draft.indexes)?;
    bound(
        "the list of pools to allocate from",
        draft.allocate.len(),
        ALLOCATIONS_MAX,
    )
}

/// Checks all that an update brings.
pub fn check_replacement(new: &Replacement) -> Result<(), Refused> {
    bound("the spec", new.spec.len(), SPEC_MAX)?;
    check_labels(&new.labels)?;
    check_annotations(&new.annotations)?;
    check_owners(&new.owners)?;
    check_finalizers(&new.finalizers)?;
    check_indexes(&new.indexes)
}

/// Refuses more than `max` of something.
pub fn bound(what: &str, len: usize, max: usize) -> Result<(), Refused> {
    if len <= max {
        return Ok(());
    }
    Err(Refused::TooLarge {
        what: what.into(),
        len: len as u64,
        max: max as u64,
    })
}

fn invalid<T>(why: String) -> Result<T, Refused> {
    Err(Refused::Invalid(why))
}

fn check_text(what: &str, text: &str, max: usize) -> Result<(), Refused> {
    bound(what, text.len(), max)?;
    if text.contains('\0') {
        return invalid(format!("{what} contains a zero byte"));
    }
    Ok(())
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Refused> {
    bound("the set of labels", labels.len(), LABELS_MAX)?;
    for (key, value) in labels {
        check_text("a label's key", key, KEY_MAX)?;
        check_text("a label's value", value, VALUE_MAX)?;
    }
    Ok(())
}

fn check_annotations(annotations: &BTreeMap<String, String>) -> Result<(), Refused> {
    let len = annotations
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    bound("the set of annotations", len, ANNOTATIONS_MAX)
}

fn check_owners(owners: &[OwnerRef]) -> Result<(), Refused> {
    bound("the list of owners", owners.len(), OWNERS_MAX)?;
    for (at, owner) in owners.iter().enumerate() {
        check_kind(&owner.kind)?;
        check_name(&owner.name)?;
        if owners[..at].iter().any(|other| other.uid == owner.uid) {
            return invalid(format!(
                "owner {} `{}` is named twice",
                owner.kind, owner.name
            ));
        }
    }
    Ok(())
}

fn check_finalizers(finalizers: &[String]) -> Result<(), Refused> {
    bound("the list of finalizers", finalizers.len(), FINALIZERS_MAX)?;
    for (at, finalizer) in finalizers.iter().enumerate() {
        check_text("a finalizer", finalizer, KEY_MAX)?;
        if finalizers[..at].contains(finalizer) {
            return invalid(format!("finalizer `{finalizer}` is named twice"));
        }
    }
    Ok(())
}

fn check_indexes(indexes: &[(String, String)]) -> Result<(), Refused> {
    bound("the list of index entries", indexes.len(), INDEXES_MAX)?;
    for (index, value) in indexes {
        check_text("an index's name", index, KEY_MAX)?;
        check_text("an index's value", value, VALUE_MAX)?;
    }
    Ok(())
}
