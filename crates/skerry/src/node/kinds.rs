//! The registry's built-in kinds of this program.

use identity::{AccessKeySpec, JoinTokenSpec, ProjectSpec, UserSpec};
use ids::{BucketId, UserId};
use membership::EpochMap;
use membership::kinds::{ServerSpec, ServerStatus, SiteSpec};
use object_core::meta::DeletionAttempt;
use raft_machine::{StoreError, decode};
use registry::Kind;
use serde::{Deserialize, Serialize};

macro_rules! kind {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $spec:ty, $status:ty) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name;

        impl Kind for $name {
            const API_VERSION: &'static str = "skerry/v1";
            const KIND: &'static str = $kind;
            const FORMAT: u8 = 1;
            type Spec = $spec;
            type Status = $status;
        }
    };
}

kind! {
    /// The site itself; one resource, named [`SITE`].
    Site, "Site", SiteSpec, ()
}
kind! {
    /// The certificate authority of the site; one resource, named [`SITE`].
    Authority, "Authority", AuthoritySpec, ()
}
kind! {
    /// A server, named by its node number.
    Server, "Server", ServerSpec, ServerStatus
}
kind! {
    /// A placement map, named by its epoch (20 digits).
    Placement, "Placement", EpochMap, ()
}
kind! {
    /// A server that must not come back, named by its node number; kept for ever, as the number is.
    Expelled, "ExpelledServer", ExpelledSpec, ()
}
kind! {
    /// A project, named by its name.
    Project, "Project", ProjectSpec, ()
}
kind! {
    /// A user, named by its name.
    User, "User", NamedUser, ()
}
kind! {
    /// An access key, named by itself.
    AccessKey, "AccessKey", AccessKeySpec, ()
}
kind! {
    /// A join token that was not used yet, named by its id.
    Token, "JoinToken", JoinTokenSpec, ()
}
kind! {
    /// A machine that was let in, named by its token's id. It holds the node number, so it stays for ever: a number that
    /// was given back could be given again.
    Joining, "Joining", JoiningSpec, ()
}

/// The name of resources of which a site has one.
pub const SITE: &str = "site";
/// The project that users are in unless told otherwise.
pub const DEFAULT_PROJECT: &str = "default";
/// The pool that node numbers come from.
pub const NODES_POOL: &str = "nodes";

/// The name of an epoch's resource.
pub fn epoch_name(epoch: ids::Epoch) -> String {
    format!("{:020}", epoch.0)
}

/// The authority's certificate, and its key sealed under the site's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthoritySpec {
    /// DER.
    pub certificate: Vec<u8>,
    /// PKCS #8, sealed.
    pub sealed_key: Vec<u8>,
}

/// What the authority's key is sealed for.
pub const AUTHORITY_SEAL: &str = "site-authority";

/// A server that was expelled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpelledSpec {
    /// When, by the wall clock of the node that was asked to.
    pub expelled_ms: u64,
}

/// A machine that was let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoiningSpec {
    /// The token that it used: who asks again must know its secret.
    pub token: JoinTokenSpec,
    /// SHA-256 of its public key: who asks again must be the same machine.
    pub key: [u8; 32],
}

/// A user with its id: names may be given again, ids never.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedUser {
    /// The id that ownership and rights name.
    pub id: UserId,
    /// The rest.
    pub user: UserSpec,
}

/// A bucket, named by its name.
#[derive(Debug)]
pub struct Bucket;

impl Kind for Bucket {
    const API_VERSION: &'static str = "skerry/v1";
    const KIND: &'static str = "Bucket";
    const FORMAT: u8 = 2;
    type Spec = BucketSpec;
    type Status = ();

    fn decode_spec(bytes: &[u8]) -> Result<BucketSpec, StoreError> {
        match bytes.first() {
            Some(1) => decode::<BucketSpec1>(Self::KIND, 1, bytes).map(BucketSpec::from),
            _ => decode(Self::KIND, Self::FORMAT, bytes),
        }
    }
}

/// A bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketSpec {
    /// The id that its keys and blocks carry.
    pub id: BucketId,
    /// Its owner.
    pub owner: UserId,
    /// The owner's name when it was made.
    pub owner_name: String,
    /// Key slots, a power of two.
    pub key_slots: u16,
    /// By the gateway's clock.
    pub created_ms: u64,
    /// Its deletion has begun, and is not over.
    pub deleting: bool,
    /// The newest attempt to delete it; counted from 1, also those that were called off.
    pub attempt: DeletionAttempt,
}

/// Format 1 of [`BucketSpec`]: attempts to delete were not counted.
#[derive(Deserialize)]
struct BucketSpec1 {
    id: BucketId,
    owner: UserId,
    owner_name: String,
    key_slots: u16,
    created_ms: u64,
    deleting: bool,
}

impl From<BucketSpec1> for BucketSpec {
    fn from(old: BucketSpec1) -> Self {
        BucketSpec {
            id: old.id,
            owner: old.owner,
            owner_name: old.owner_name,
            key_slots: old.key_slots,
            created_ms: old.created_ms,
            deleting: old.deleting,
            attempt: DeletionAttempt(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_of_both_formats_are_read() {
        let (id, owner) = (BucketId([1; 16]), UserId([2; 16]));
        let mut spec = BucketSpec {
            id,
            owner,
            owner_name: "root".into(),
            key_slots: 8,
            created_ms: 9,
            deleting: true,
            attempt: DeletionAttempt(0),
        };
        let old = raft_machine::encode(1, &(id, owner, "root", 8_u16, 9_u64, true));
        assert_eq!(Bucket::decode_spec(&old).unwrap(), spec);
        spec.attempt = DeletionAttempt(300);
        let new = raft_machine::encode(Bucket::FORMAT, &spec);
        assert_eq!(Bucket::decode_spec(&new).unwrap(), spec);
        assert!(matches!(
            Bucket::decode_spec(&[Bucket::FORMAT + 1]),
            Err(StoreError::Newer { .. })
        ));
    }
}
