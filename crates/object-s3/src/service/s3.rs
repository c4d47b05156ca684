//! s3s' trait, operation by operation; what is not here s3s answers with NotImplemented.

use futures::future::BoxFuture;
use object_core::api::Caller;
use s3s::dto::*;
use s3s::{S3, S3ErrorCode, S3Request, S3Response, S3Result};

use super::Service;
use super::settings::{code, need_acl, paid_by_owner};
use crate::access::caller;
use crate::headers::sent;

type Answer<T> = S3Result<S3Response<T>>;

/// Operations that need the whole request: `method(Input) -> Output = |service, request| answer`.
macro_rules! whole {
    ($($method:ident($input:ty) -> $output:ty = |$service:ident, $request:ident| $answer:expr;)*) => {$(
        fn $method<'life, 'fut>(&'life self, $request: S3Request<$input>) -> BoxFuture<'fut, Answer<$output>>
        where
            'life: 'fut,
        {
            let $service = self;
            Box::pin(async move { $answer })
        }
    )*};
}

/// Operations that need the caller and the input: `method(Input) -> Output = |service, caller, input| output`.
macro_rules! plain {
    ($($method:ident($input:ty) -> $output:ty = |$service:ident, $caller:ident, $in:ident| $body:expr;)*) => {
        whole! {$(
            $method($input) -> $output = |$service, request| {
                let caller = caller(&request)?;
                let $caller: &Caller = &caller;
                let $in = request.input;
                Ok(S3Response::new($body))
            };
        )*}
    };
}

/// Settings that nobody can have made.
macro_rules! unset {
    ($($method:ident($input:ty) -> $output:ty = $code:expr;)*) => {
        plain! {$($method($input) -> $output = |s, caller, input| s.unset(caller, &input.bucket, $code).await?;)*}
    };
}

/// Settings that are empty, and removals of settings that nobody can have made.
macro_rules! empty {
    ($($method:ident($input:ty) -> $output:ty;)*) => {
        plain! {$($method($input) -> $output = |s, caller, input| {
            s.must_have(caller, &input.bucket).await?;
            Default::default()
        };)*}
    };
}

impl S3 for Service {
    whole! {
        put_object(PutObjectInput) -> PutObjectOutput = |s, r| s.put(r).await.map(S3Response::new);
        get_object(GetObjectInput) -> GetObjectOutput = |s, r| s.get(r).await;
        head_object(HeadObjectInput) -> HeadObjectOutput = |s, r| s.head(r).await;
        delete_object(DeleteObjectInput) -> DeleteObjectOutput = |s, r| s.delete(r).await.map(S3Response::new);
        delete_objects(DeleteObjectsInput) -> DeleteObjectsOutput = |s, r| s.delete_many(r).await.map(S3Response::new);
        copy_object(CopyObjectInput) -> CopyObjectOutput = |s, r| s.copy(r).await.map(S3Response::new);
        create_multipart_upload(CreateMultipartUploadInput) -> CreateMultipartUploadOutput =
            |s, r| s.new_upload(r).await.map(S3Response::new);
        upload_part(UploadPartInput) -> UploadPartOutput = |s, r| s.part(r).await.map(S3Response::new);
        upload_part_copy(UploadPartCopyInput) -> UploadPartCopyOutput = |s, r| s.part_copy(r).await.map(S3Response::new);
        complete_multipart_upload(CompleteMultipartUploadInput) -> CompleteMultipartUploadOutput =
            |s, r| s.complete(r).await.map(S3Response::new);
        get_object_attributes(GetObjectAttributesInput) -> GetObjectAttributesOutput =
            |s, r| s.attributes(r).await.map(S3Response::new);
        put_bucket_acl(PutBucketAclInput) -> PutBucketAclOutput = |s, r| {
            let caller = caller(&r)?;
            s.must_have(&caller, &r.input.bucket).await?;
            need_acl(sent(&r), r.input.access_control_policy.as_ref())?;
            Ok(S3Response::new(PutBucketAclOutput::default()))
        };
        put_object_acl(PutObjectAclInput) -> PutObjectAclOutput = |s, r| {
            let caller = caller(&r)?;
            need_acl(sent(&r), r.input.access_control_policy.as_ref())?;
            s.must_have_object(&caller, r.input.bucket, r.input.key, r.input.version_id).await?;
            Ok(S3Response::new(PutObjectAclOutput::default()))
        };
    }

    plain! {
        create_bucket(CreateBucketInput) -> CreateBucketOutput = |s, caller, input| s.new_bucket(caller, input).await?;
        head_bucket(HeadBucketInput) -> HeadBucketOutput = |s, caller, input| s.bucket_head(caller, &input.bucket).await?;
        list_buckets(ListBucketsInput) -> ListBucketsOutput = |s, caller, input| s.buckets(caller, input).await?;
        get_bucket_location(GetBucketLocationInput) -> GetBucketLocationOutput =
            |s, caller, input| s.bucket_location(caller, &input.bucket).await?;
        delete_bucket(DeleteBucketInput) -> DeleteBucketOutput = |s, caller, input| {
            s.objects.delete_bucket(caller, &input.bucket).await.map_err(crate::errors::to_s3)?;
            DeleteBucketOutput::default()
        };
        list_objects(ListObjectsInput) -> ListObjectsOutput = |s, caller, input| s.list_v1(caller, input).await?;
        list_objects_v2(ListObjectsV2Input) -> ListObjectsV2Output = |s, caller, input| s.list_v2(caller, input).await?;
        list_object_versions(ListObjectVersionsInput) -> ListObjectVersionsOutput =
            |s, caller, input| s.list_versions(caller, input).await?;
        list_parts(ListPartsInput) -> ListPartsOutput = |s, caller, input| s.parts(caller, input).await?;
        list_multipart_uploads(ListMultipartUploadsInput) -> ListMultipartUploadsOutput =
            |s, caller, input| s.uploads(caller, input).await?;
        abort_multipart_upload(AbortMultipartUploadInput) -> AbortMultipartUploadOutput = |s, caller, input| {
            s.abort(caller, input).await?;
            AbortMultipartUploadOutput::default()
        };
        get_bucket_acl(GetBucketAclInput) -> GetBucketAclOutput = |s, caller, input| s.bucket_acl(caller, &input.bucket).await?;
        get_object_acl(GetObjectAclInput) -> GetObjectAclOutput = |s, caller, input| s.object_acl(caller, input).await?;
        get_bucket_request_payment(GetBucketRequestPaymentInput) -> GetBucketRequestPaymentOutput = |s, caller, input| {
            s.must_have(caller, &input.bucket).await?;
            paid_by_owner()
        };
        get_object_tagging(GetObjectTaggingInput) -> GetObjectTaggingOutput = |s, caller, input| {
            // Tags can't be put, so the empty set is the truth; copies by awscli ask for it.
            s.must_have_object(caller, input.bucket, input.key, input.version_id).await?;
            GetObjectTaggingOutput { tag_set: Vec::new(), version_id: None }
        };
    }

    unset! {
        get_bucket_cors(GetBucketCorsInput) -> GetBucketCorsOutput = S3ErrorCode::NoSuchCORSConfiguration;
        get_bucket_encryption(GetBucketEncryptionInput) -> GetBucketEncryptionOutput =
            S3ErrorCode::ServerSideEncryptionConfigurationNotFoundError;
        get_bucket_lifecycle_configuration(GetBucketLifecycleConfigurationInput) -> GetBucketLifecycleConfigurationOutput =
            S3ErrorCode::NoSuchLifecycleConfiguration;
        get_bucket_ownership_controls(GetBucketOwnershipControlsInput) -> GetBucketOwnershipControlsOutput =
            S3ErrorCode::OwnershipControlsNotFoundError;
        get_bucket_policy(GetBucketPolicyInput) -> GetBucketPolicyOutput = S3ErrorCode::NoSuchBucketPolicy;
        get_bucket_policy_status(GetBucketPolicyStatusInput) -> GetBucketPolicyStatusOutput =
            S3ErrorCode::NoSuchBucketPolicy;
        get_bucket_replication(GetBucketReplicationInput) -> GetBucketReplicationOutput =
            S3ErrorCode::ReplicationConfigurationNotFoundError;
        get_bucket_tagging(GetBucketTaggingInput) -> GetBucketTaggingOutput = S3ErrorCode::NoSuchTagSet;
        get_bucket_website(GetBucketWebsiteInput) -> GetBucketWebsiteOutput = S3ErrorCode::NoSuchWebsiteConfiguration;
        get_object_lock_configuration(GetObjectLockConfigurationInput) -> GetObjectLockConfigurationOutput =
            S3ErrorCode::ObjectLockConfigurationNotFoundError;
        get_public_access_block(GetPublicAccessBlockInput) -> GetPublicAccessBlockOutput =
            code("NoSuchPublicAccessBlockConfiguration");
    }

    empty! {
        get_bucket_versioning(GetBucketVersioningInput) -> GetBucketVersioningOutput;
        get_bucket_logging(GetBucketLoggingInput) -> GetBucketLoggingOutput;
        get_bucket_notification_configuration(GetBucketNotificationConfigurationInput) ->
            GetBucketNotificationConfigurationOutput;
        get_bucket_accelerate_configuration(GetBucketAccelerateConfigurationInput) ->
            GetBucketAccelerateConfigurationOutput;
        delete_bucket_cors(DeleteBucketCorsInput) -> DeleteBucketCorsOutput;
        delete_bucket_lifecycle(DeleteBucketLifecycleInput) -> DeleteBucketLifecycleOutput;
        delete_bucket_ownership_controls(DeleteBucketOwnershipControlsInput) -> DeleteBucketOwnershipControlsOutput;
        delete_bucket_policy(DeleteBucketPolicyInput) -> DeleteBucketPolicyOutput;
        delete_bucket_tagging(DeleteBucketTaggingInput) -> DeleteBucketTaggingOutput;
        delete_bucket_website(DeleteBucketWebsiteInput) -> DeleteBucketWebsiteOutput;
        delete_public_access_block(DeletePublicAccessBlockInput) -> DeletePublicAccessBlockOutput;
    }
}
