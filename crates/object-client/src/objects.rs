//! Buckets and whole objects.

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, Method, header};
use md5::{Digest, Md5};

use crate::client::{Call, REPLY_BYTES_MAX};
use crate::connection::Body;
use crate::xml;
use crate::{Error, Result, S3Client};

/// A bucket in the answer of [`S3Client::list_buckets`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketInfo {
    /// Its name.
    pub name: String,
    /// When it was made, as the endpoint writes it.
    pub created: String,
}

/// An object's size and headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectHead {
    /// The bytes of this answer: the object, or the asked range of it.
    pub length: u64,
    /// The bytes of the whole object.
    pub size: u64,
    /// With its quotes.
    pub etag: String,
    /// Empty when the endpoint gives none.
    pub content_type: String,
    /// As the endpoint writes it.
    pub last_modified: String,
    /// The user's metadata: names without `x-amz-meta-`.
    pub metadata: Vec<(String, String)>,
}

/// The bytes of an object as they arrive.
#[derive(Debug)]
pub struct ObjectBody {
    body: Body,
}

impl ObjectBody {
    /// The next piece, or `None` at the end.
    ///
    /// # Errors
    /// When the connection breaks or pauses for too long.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        self.body.data().await
    }

    /// All of it, refusing more than `bytes_max`.
    ///
    /// # Errors
    /// When the connection breaks or there is more.
    pub async fn collect(self, bytes_max: usize) -> Result<Bytes> {
        self.body.collect(bytes_max).await
    }
}

/// What to list. Empty strings mean "not given".
#[derive(Debug, Clone, Copy, Default)]
pub struct ListRequest<'a> {
    /// Only keys that begin so.
    pub prefix: &'a str,
    /// Keys that share a beginning up to this are answered as one common prefix.
    pub delimiter: &'a str,
    /// [`ListPage::next`] of the page before.
    pub token: Option<&'a str>,
    /// Only keys after this one.
    pub start_after: &'a str,
    /// At most so many keys and prefixes; the endpoint may give fewer (1000 as a rule).
    pub max: Option<u32>,
}

/// One object of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its key.
    pub key: String,
    /// Its bytes.
    pub size: u64,
    /// With its quotes.
    pub etag: String,
    /// As the endpoint writes it.
    pub last_modified: String,
}

/// One page of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListPage {
    /// The objects, in the order of their keys.
    pub objects: Vec<ObjectInfo>,
    /// The common prefixes, in order.
    pub prefixes: Vec<String>,
    /// The token of the next page; `None` on the last.
    pub next: Option<String>,
}

/// A key that [`S3Client::delete_many`] could not delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteFailure {
    /// The key.
    pub key: String,
    /// The S3 error code.
    pub code: String,
    /// The endpoint's words.
    pub message: String,
}

// === buckets ===

impl S3Client {
    /// The buckets of this access key.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_buckets(&self) -> Result<Vec<BucketInfo>> {
        let call = Call::new(Method::GET, "", "");
        let (_, body) = self.call_collected(call, REPLY_BYTES_MAX).await?;
        let reply: xml::Buckets = xml::parse(&body)?;
        let buckets = reply.buckets.bucket.into_iter();
        let info = |bucket: xml::Bucket| BucketInfo {
            name: bucket.name,
            created: bucket.creation_date,
        };
        Ok(buckets.map(info).collect())
    }

    /// Makes a bucket.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create_bucket(&self, bucket: &str) -> Result<()> {
        let call = Call::new(Method::PUT, bucket, "");
        self.call_collected(call, REPLY_BYTES_MAX).await.map(drop)
    }

    /// Removes an empty bucket.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete_bucket(&self, bucket: &str) -> Result<()> {
        let call = Call::new(Method::DELETE, bucket, "");
        self.call_collected(call, REPLY_BYTES_MAX).await.map(drop)
    }

    /// One page of the objects in a bucket.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list(&self, bucket: &str, request: ListRequest<'_>) -> Result<ListPage> {
        let mut call = Call::new(Method::GET, bucket, "").query("list-type", "2");
        call.query.extend(list_query(&request));
        let (_, body) = self.call_collected(call, REPLY_BYTES_MAX).await?;
        page(xml::parse(&body)?)
    }
}

fn list_query(request: &ListRequest<'_>) -> Vec<(&'static str, String)> {
    let given = [
        ("prefix", request.prefix),
        ("delimiter", request.delimiter),
        ("start-after", request.start_after),
        ("continuation-token", request.token.unwrap_or_default()),
    ];
    let mut query: Vec<_> = given
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name, value.to_owned()))
        .collect();
    // Keys may hold what XML can't.
    query.push(("encoding-type", "url".to_owned()));
    query.extend(request.max.map(|max| ("max-keys", max.to_string())));
    query
}

fn page(reply: xml::Listing) -> Result<ListPage> {
    let name = |text: String| xml::name(&reply.encoding_type, text);
    let object = |content: xml::Content| -> Result<ObjectInfo> {
        Ok(ObjectInfo {
            key: name(content.key)?,
            size: content.size,
            etag: content.etag,
            last_modified: content.last_modified,
        })
    };
    let prefixes = reply.common_prefixes.into_iter();
    Ok(ListPage {
        objects: reply
            .contents
            .into_iter()
            .map(object)
            .collect::<Result<_>>()?,
        prefixes: prefixes.map(|p| name(p.prefix)).collect::<Result<_>>()?,
        next: reply
            .next_continuation_token
            .filter(|token| !token.is_empty()),
    })
}

// === objects ===

impl S3Client {
    /// Stores an object and returns its ETag.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn put(
        &self,
        bucket: &str,
        key: &str,
        body: Bytes,
        content_type: Option<&str>,
    ) -> Result<String> {
        let mut call = Call::new(Method::PUT, bucket, key).body(body);
        if let Some(content_type) = content_type {
            call = call.header(header::CONTENT_TYPE, content_type);
        }
        let (headers, _) = self.call_collected(call, REPLY_BYTES_MAX).await?;
        Ok(text(&headers, "etag"))
    }

    /// Reads an object, or the bytes `first..=last` of it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(
        &self,
        bucket: &str,
        key: &str,
        range: Option<(u64, u64)>,
    ) -> Result<(ObjectHead, ObjectBody)> {
        let answer = self.call(get(bucket, key, range)).await?;
        let head = object_head(answer.headers())?;
        let body = answer.into_body();
        Ok((head, ObjectBody { body }))
    }

    /// The bytes `first..=last` of an object in memory; fails with 412 when its ETag is another.
    pub(crate) async fn get_range(
        &self,
        bucket: &str,
        key: &str,
        (first, last): (u64, u64),
        etag: Option<&str>,
    ) -> Result<Bytes> {
        let mut call = get(bucket, key, Some((first, last)));
        if let Some(etag) = etag {
            call = call.header(header::IF_MATCH, etag);
        }
        let bytes_max = usize::try_from(last - first + 1).unwrap_or(usize::MAX);
        let (_, body) = self.call_collected(call, bytes_max).await?;
        Ok(body)
    }

    /// An object's size and headers.
    ///
    /// # Errors
    /// See [`Error`]; a missing object is status 404.
    pub async fn head(&self, bucket: &str, key: &str) -> Result<ObjectHead> {
        object_head(
            self.call(Call::new(Method::HEAD, bucket, key))
                .await?
                .headers(),
        )
    }

    /// Deletes an object; fine when there is none.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete(&self, bucket: &str, key: &str) -> Result<()> {
        let call = Call::new(Method::DELETE, bucket, key);
        self.call_collected(call, REPLY_BYTES_MAX).await.map(drop)
    }

    /// Deletes any number of objects, mostly 1000 per request, and returns the keys that resisted.
    ///
    /// # Errors
    /// See [`Error`]; requests before the failed one have been carried out.
    pub async fn delete_many(&self, bucket: &str, keys: &[String]) -> Result<Vec<DeleteFailure>> {
        let mut failures = Vec::new();
        let (plain, odd): (Vec<&String>, Vec<&String>) =
            keys.iter().partition(|key| xml::can_hold(key));
        for keys in plain.chunks(1000) {
            let body = xml::delete_body(keys);
            let digest = base64::engine::general_purpose::STANDARD.encode(Md5::digest(&body));
            let call = Call::new(Method::POST, bucket, "")
                .query("delete", "")
                .header(http::HeaderName::from_static("content-md5"), digest)
                .header(header::CONTENT_TYPE, "application/xml")
                .body(body.into());
            let (_, body) = self.call_collected(call, REPLY_BYTES_MAX).await?;
            let reply: xml::DeleteReply = xml::parse(&body)?;
            failures.extend(reply.errors.into_iter().map(|error| DeleteFailure {
                key: error.key,
                code: error.code,
                message: error.message,
            }));
        }
        for key in odd {
            self.delete(bucket, key).await?;
        }
        Ok(failures)
    }
}

fn get<'a>(bucket: &'a str, key: &'a str, range: Option<(u64, u64)>) -> Call<'a> {
    let call = Call::new(Method::GET, bucket, key);
    match range {
        Some((first, last)) => call.header(header::RANGE, format!("bytes={first}-{last}")),
        None => call,
    }
}

fn object_head(headers: &HeaderMap) -> Result<ObjectHead> {
    let length: u64 = text(headers, "content-length")
        .parse()
        .map_err(|_| Error::Reply("an object without a length".to_owned()))?;
    let whole = text(headers, "content-range");
    let size = match whole.rsplit_once('/') {
        Some((_, size)) => size
            .parse()
            .map_err(|_| Error::Reply(format!("the content range {whole:?}")))?,
        None => length,
    };
    let metadata = headers.iter().filter_map(|(name, value)| {
        let name = name.as_str().strip_prefix("x-amz-meta-")?;
        let value = String::from_utf8_lossy(value.as_bytes());
        Some((name.to_owned(), value.into_owned()))
    });
    Ok(ObjectHead {
        length,
        size,
        etag: text(headers, "etag"),
        content_type: text(headers, "content-type"),
        last_modified: text(headers, "last-modified"),
        metadata: metadata.collect(),
    })
}

pub(crate) fn text(headers: &HeaderMap, name: &str) -> String {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_of_objects_and_of_ranges() {
        let mut headers = HeaderMap::new();
        assert!(object_head(&headers).is_err());
        headers.insert("content-length", "5".parse().unwrap());
        headers.insert("x-amz-meta-colour", "blue".parse().unwrap());
        let head = object_head(&headers).unwrap();
        assert_eq!((head.length, head.size), (5, 5));
        assert_eq!(head.metadata, [("colour".to_owned(), "blue".to_owned())]);
        headers.insert("content-range", "bytes 0-4/70".parse().unwrap());
        assert_eq!(object_head(&headers).unwrap().size, 70);
    }

    #[test]
    fn pages_hold_decoded_names() {
        let body = b"<R><EncodingType>url</EncodingType><NextContinuationToken/>\
            <Contents><Key>a+b%2Fc%0A</Key><Size>1</Size></Contents>\
            <CommonPrefixes><Prefix>%C3%BC/</Prefix></CommonPrefixes></R>";
        let page = page(xml::parse(body).unwrap()).unwrap();
        assert_eq!(page.objects[0].key, "a b/c\n");
        assert_eq!(page.prefixes, ["\u{fc}/"]);
        assert_eq!(page.next, None);
    }

    #[test]
    fn only_what_is_given_is_asked_for() {
        let query = list_query(&ListRequest {
            prefix: "p",
            max: Some(3),
            ..ListRequest::default()
        });
        let names: Vec<_> = query.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["prefix", "encoding-type", "max-keys"]);
    }
}
