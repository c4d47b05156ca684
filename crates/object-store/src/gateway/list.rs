//! Listing a bucket: pages of its groups, merged into one.

use futures::StreamExt;
use ids::{GroupId, UploadId};
use object_core::api::{
    Caller, ListPage, ListRequest, PAGE_KEYS_MAX, Result, UploadInfo, UploadPage,
};
use object_core::meta::listing::{Ask, Merge};
use object_core::meta::{Answer, Query};

use crate::gateway::fenced::Closed;
use crate::gateway::{Context, ask};
use crate::placement::BucketEntry;

/// Groups that are asked at one time.
const AT_A_TIME: usize = 16;
/// How often groups are asked for one page: two times are enough, unless a group gives less than it was asked for.
const ROUNDS_MAX: usize = 4;

impl Context {
    pub async fn list(&self, caller: &Caller, request: ListRequest) -> Result<ListPage> {
        let request = &request;
        let read = |closed: Closed| async move {
            let bucket = self.bucket(caller, &request.bucket).await?;
            self.objects_in(&bucket, request, closed).await
        };
        self.read_past_fence(caller, &request.bucket, read).await
    }

    async fn objects_in(
        &self,
        bucket: &BucketEntry,
        request: &ListRequest,
        closed: Closed,
    ) -> Result<ListPage> {
        let max = request.max_keys.min(PAGE_KEYS_MAX);
        if max == 0 {
            return Ok(ListPage::default());
        }
        let groups = self.slots_by_group(bucket);
        let mut merge = Merge::new(groups.len(), request.after.clone(), max);
        for _ in 0..ROUNDS_MAX {
            let wanted = merge.wanted();
            if wanted.is_empty() {
                break;
            }
            let ask = |wanted: Ask| {
                let at = wanted.group;
                let (group, slots) = groups[at].clone();
                let query = Query::List {
                    bucket: bucket.id,
                    slots,
                    prefix: request.prefix.clone(),
                    delimiter: request.delimiter.clone(),
                    after: wanted.after,
                    max: wanted.max as u32,
                };
                async move {
                    let page = self.page_of(group, &query, closed).await;
                    page.map(|page| (at, page))
                }
            };
            let pages: Vec<Result<(usize, ListPage)>> = futures::stream::iter(wanted)
                .map(ask)
                .buffered(AT_A_TIME)
                .collect()
                .await;
            for answered in pages {
                let (at, page) = answered?;
                merge.add(at, page);
            }
        }
        self.metrics.objects_list_total.add(1);
        Ok(merge.finish())
    }

    async fn page_of(&self, group: GroupId, query: &Query, closed: Closed) -> Result<ListPage> {
        match closed.judge(self.meta.query(group, query).await)? {
            Some(Answer::List {
                objects,
                common_prefixes,
                next,
            }) => Ok(ListPage {
                objects,
                common_prefixes,
                next,
            }),
            Some(_) => ask::misfit(),
            None => Ok(ListPage::default()),
        }
    }

    pub async fn list_uploads(
        &self,
        caller: &Caller,
        request: ListRequest,
        after_upload: Option<UploadId>,
    ) -> Result<UploadPage> {
        let request = &request;
        let read = |closed: Closed| async move {
            let bucket = self.bucket(caller, &request.bucket).await?;
            self.uploads_in(&bucket, request, after_upload, closed)
                .await
        };
        self.read_past_fence(caller, &request.bucket, read).await
    }

    async fn uploads_in(
        &self,
        bucket: &BucketEntry,
        request: &ListRequest,
        after_upload: Option<UploadId>,
        closed: Closed,
    ) -> Result<UploadPage> {
        let max = request.max_keys.min(PAGE_KEYS_MAX);
        if max == 0 {
            return Ok(UploadPage::default());
        }
        let mut page = UploadPage::default();
        let mut after = request.after.clone().map(|key| (key, after_upload));
        // Uploads that fall under one common prefix are passed over page by page: at most this many.
        for _ in 0..PAGE_KEYS_MAX {
            let (uploads, more) = self
                .uploads_after(bucket, request, after.clone(), max, closed)
                .await?;
            for upload in uploads {
                let prefix = rolled_up(&upload.key, &request.prefix, request.delimiter.as_deref());
                let known = prefix.as_ref().is_some_and(|prefix| {
                    page.common_prefixes.last() == Some(prefix)
                        || request
                            .after
                            .as_ref()
                            .is_some_and(|after| after.starts_with(prefix.as_str()))
                });
                if !known && page.uploads.len() + page.common_prefixes.len() == max {
                    page.next = after;
                    return Ok(page);
                }
                after = Some((upload.key.clone(), Some(upload.upload)));
                match prefix {
                    Some(_) if known => {}
                    Some(prefix) => page.common_prefixes.push(prefix),
                    None => page.uploads.push(upload),
                }
            }
            if !more {
                return Ok(page);
            }
        }
        page.next = after;
        Ok(page)
    }

    async fn uploads_after(
        &self,
        bucket: &BucketEntry,
        request: &ListRequest,
        after: Option<(String, Option<UploadId>)>,
        max: usize,
        closed: Closed,
    ) -> Result<(Vec<UploadInfo>, bool)> {
        let ask = |(group, slots): (GroupId, Vec<u16>)| {
            let (prefix, after) = (request.prefix.clone(), after.clone());
            let query = Query::ListUploads {
                bucket: bucket.id,
                slots,
                prefix,
                after,
                max: max as u32,
            };
            async move {
                match closed.judge(self.meta.query(group, &query).await)? {
                    Some(Answer::Uploads { uploads, more }) => Ok((uploads, more)),
                    Some(_) => ask::misfit(),
                    None => Ok((Vec::new(), false)),
                }
            }
        };
        let pages: Vec<Result<(Vec<UploadInfo>, bool)>> =
            futures::stream::iter(self.slots_by_group(bucket))
                .map(ask)
                .buffered(AT_A_TIME)
                .collect()
                .await;
        let mut all = Vec::new();
        let mut more = false;
        for page in pages {
            let (uploads, page_more) = page?;
            more |= page_more;
            all.extend(uploads);
        }
        all.sort_by(|a, b| (&a.key, a.upload).cmp(&(&b.key, b.upload)));
        more |= all.len() > max;
        all.truncate(max);
        Ok((all, more))
    }
}

/// The common prefix that a key falls under, if any.
fn rolled_up(key: &str, prefix: &str, delimiter: Option<&str>) -> Option<String> {
    let delimiter = delimiter.filter(|delimiter| !delimiter.is_empty())?;
    let rest = key.strip_prefix(prefix)?;
    let at = rest.find(delimiter)?;
    Some(key[..prefix.len() + at + delimiter.len()].to_owned())
}
