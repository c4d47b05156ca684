//! Settings of buckets and objects that can't be set: S3's answers for "not configured", so that clients go on.

use http::StatusCode;
use object_core::api::{Caller, ChecksumKind, GetRequest, ObjectHead};
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Result, s3_error};

use super::{Service, etag, owner_of};
use crate::access::caller;
use crate::checksums::{self, fill_checksum};
use crate::errors::{self, to_s3};
use crate::headers::{self, sent, signed, timestamp};

impl Service {
    /// Refuses with the code that S3 has for a setting that was never made.
    pub(super) async fn unset<T>(
        &self,
        caller: &Caller,
        bucket: &str,
        code: S3ErrorCode,
    ) -> S3Result<T> {
        self.must_have(caller, bucket).await?;
        let message = "The bucket has no such configuration.";
        let mut error = S3Error::with_message(code, message);
        if error
            .status_code()
            .is_none_or(|s| s == StatusCode::BAD_REQUEST)
        {
            error.set_status_code(StatusCode::NOT_FOUND);
        }
        Err(error)
    }

    pub(super) async fn bucket_acl(
        &self,
        caller: &Caller,
        bucket: &str,
    ) -> S3Result<GetBucketAclOutput> {
        let info = self
            .objects
            .head_bucket(caller, bucket)
            .await
            .map_err(to_s3)?;
        let owner = Owner {
            display_name: Some(info.owner_name),
            id: Some(info.owner.to_string()),
        };
        Ok(GetBucketAclOutput {
            grants: Some(vec![full_control(&owner)]),
            owner: Some(owner),
        })
    }

    pub(super) async fn object_acl(
        &self,
        caller: &Caller,
        input: GetObjectAclInput,
    ) -> S3Result<GetObjectAclOutput> {
        let head = self
            .must_have_object(caller, input.bucket, input.key, input.version_id)
            .await?;
        let owner = owner_of(caller, head.owner);
        Ok(GetObjectAclOutput {
            grants: Some(vec![full_control(&owner)]),
            owner: Some(owner),
            request_charged: None,
        })
    }

    pub(super) async fn attributes(
        &self,
        request: S3Request<GetObjectAttributesInput>,
    ) -> S3Result<GetObjectAttributesOutput> {
        let caller = caller(&request)?;
        let names = sent(&request)
            .get_all("x-amz-object-attributes")
            .iter()
            .filter_map(|v| v.to_str().ok());
        let wanted: Vec<String> = names
            .flat_map(|v| v.split(','))
            .map(|n| n.trim().to_owned())
            .collect();
        let wants = |name: &str| wanted.iter().any(|w| w == name);
        let input = request.input;
        let head = self
            .must_have_object(&caller, input.bucket, input.key, input.version_id)
            .await?;
        let mut out = GetObjectAttributesOutput {
            last_modified: Some(timestamp(head.modified_ms)),
            ..Default::default()
        };
        if wants(ObjectAttributes::ETAG) {
            out.e_tag = Some(etag(&head.etag));
        }
        if wants(ObjectAttributes::OBJECT_SIZE) {
            out.object_size = Some(signed(head.size));
        }
        if wants(ObjectAttributes::STORAGE_CLASS) {
            out.storage_class = Some(StorageClass::from_static(StorageClass::STANDARD));
        }
        if wants(ObjectAttributes::OBJECT_PARTS) {
            let total_parts_count = head.parts.map(i32::from);
            out.object_parts = total_parts_count.map(|_| GetObjectAttributesParts {
                total_parts_count,
                ..Default::default()
            });
        }
        if let Some(sum) = head
            .checksum
            .as_ref()
            .filter(|_| wants(ObjectAttributes::CHECKSUM))
        {
            let mut shown = Checksum {
                checksum_type: Some(checksums::type_of(sum.scope)),
                ..Default::default()
            };
            fill_checksum!(shown, sum, head.parts);
            out.checksum = Some(shown);
        }
        Ok(out)
    }

    pub(super) async fn must_have_object(
        &self,
        caller: &Caller,
        bucket: String,
        key: String,
        version: Option<String>,
    ) -> S3Result<ObjectHead> {
        let version = headers::version(version.as_deref())?;
        let get = GetRequest {
            bucket,
            key,
            version,
            ..Default::default()
        };
        Ok(self.objects.head(caller, get).await.map_err(to_s3)?.head)
    }
}

/// A code of S3 that s3s doesn't list.
pub(super) fn code(name: &'static str) -> S3ErrorCode {
    S3ErrorCode::Custom(name.into())
}

fn full_control(owner: &Owner) -> Grant {
    Grant {
        grantee: Some(Grantee {
            display_name: owner.display_name.clone(),
            email_address: None,
            id: owner.id.clone(),
            type_: Type::from_static(Type::CANONICAL_USER),
            uri: None,
        }),
        permission: Some(Permission::from_static(Permission::FULL_CONTROL)),
    }
}

/// The one list of grants that can be put: the owner's full control. Canned ACLs were judged with the headers.
pub(super) fn check_policy(policy: Option<&AccessControlPolicy>) -> S3Result<()> {
    let Some(policy) = policy else { return Ok(()) };
    let owner = policy.owner.as_ref().and_then(|o| o.id.as_deref());
    let private = policy
        .grants
        .as_deref()
        .unwrap_or_default()
        .iter()
        .all(|grant| {
            let grantee = grant.grantee.as_ref();
            grantee.is_some_and(|g| {
                g.uri.is_none() && g.email_address.is_none() && g.id.as_deref() == owner
            }) && grant.permission.as_ref().map(Permission::as_str)
                == Some(Permission::FULL_CONTROL)
        });
    if private {
        return Ok(());
    }
    let message = "ACLs other than private are not implemented";
    Err(errors::custom(
        "NotImplemented",
        StatusCode::NOT_IMPLEMENTED,
        message,
    ))
}

/// Nobody else can pay for a bucket's requests.
pub(super) fn paid_by_owner() -> GetBucketRequestPaymentOutput {
    GetBucketRequestPaymentOutput {
        payer: Some(Payer::from_static(Payer::BUCKET_OWNER)),
    }
}

/// A PUT of an ACL names one, and it must be the private one.
pub(super) fn need_acl(
    headers: &http::HeaderMap,
    policy: Option<&AccessControlPolicy>,
) -> S3Result<()> {
    if policy.is_none() && !headers.contains_key("x-amz-acl") {
        return Err(s3_error!(
            MissingSecurityHeader,
            "Your request was missing a required header: x-amz-acl"
        ));
    }
    check_policy(policy)
}
