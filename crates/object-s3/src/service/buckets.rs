//! Buckets: create, head, list, delete, where.

use object_core::api::{BucketInfo, Caller};
use s3s::dto::*;
use s3s::{S3ErrorCode, S3Result, s3_error};

use super::Service;
use crate::errors::to_s3;
use crate::headers::timestamp;

/// The region whose name S3 leaves out.
const UNNAMED_REGION: &str = "us-east-1";
const BUCKETS_PER_PAGE: usize = 10_000;

impl Service {
    pub(super) async fn new_bucket(
        &self,
        caller: &Caller,
        input: CreateBucketInput,
    ) -> S3Result<CreateBucketOutput> {
        let wanted = input
            .create_bucket_configuration
            .and_then(|c| c.location_constraint);
        if let Some(wanted) = wanted.as_ref().map(BucketLocationConstraint::as_str)
            && !wanted.is_empty()
            && wanted != self.region
        {
            let message = format!("this store is in {}, not in {wanted}", self.region);
            return Err(s3s::S3Error::with_message(
                S3ErrorCode::IllegalLocationConstraintException,
                message,
            ));
        }
        let info = self
            .objects
            .create_bucket(caller, &input.bucket)
            .await
            .map_err(to_s3)?;
        Ok(CreateBucketOutput {
            location: Some(format!("/{}", info.name)),
        })
    }

    pub(super) async fn bucket_head(
        &self,
        caller: &Caller,
        bucket: &str,
    ) -> S3Result<HeadBucketOutput> {
        self.must_have(caller, bucket).await?;
        Ok(HeadBucketOutput {
            bucket_region: Some(self.region.clone()),
            ..Default::default()
        })
    }

    pub(super) async fn bucket_location(
        &self,
        caller: &Caller,
        bucket: &str,
    ) -> S3Result<GetBucketLocationOutput> {
        self.must_have(caller, bucket).await?;
        let region = (self.region != UNNAMED_REGION).then(|| self.region.clone().into());
        Ok(GetBucketLocationOutput {
            location_constraint: region,
        })
    }

    pub(super) async fn buckets(
        &self,
        caller: &Caller,
        input: ListBucketsInput,
    ) -> S3Result<ListBucketsOutput> {
        let mut buckets = self.objects.list_buckets(caller).await.map_err(to_s3)?;
        if let Some(prefix) = &input.prefix {
            buckets.retain(|b| b.name.starts_with(prefix.as_str()));
        }
        if let Some(after) = &input.continuation_token {
            buckets.retain(|b| b.name.as_str() > after.as_str());
        }
        let max = match input.max_buckets.map(usize::try_from) {
            None => BUCKETS_PER_PAGE,
            Some(Ok(max)) if (1..=BUCKETS_PER_PAGE).contains(&max) => max,
            Some(_) => {
                return Err(s3_error!(
                    InvalidArgument,
                    "max-buckets goes from 1 to {BUCKETS_PER_PAGE}"
                ));
            }
        };
        let more = buckets.len() > max;
        buckets.truncate(max);
        Ok(ListBucketsOutput {
            continuation_token: buckets.last().filter(|_| more).map(|b| b.name.clone()),
            buckets: Some(buckets.into_iter().map(|b| self.bucket(b)).collect()),
            owner: Some(super::owner_of(caller, caller.user)),
            prefix: input.prefix,
        })
    }

    fn bucket(&self, info: BucketInfo) -> Bucket {
        Bucket {
            bucket_region: Some(self.region.clone()),
            creation_date: Some(timestamp(info.created_ms)),
            name: Some(info.name),
        }
    }
}
