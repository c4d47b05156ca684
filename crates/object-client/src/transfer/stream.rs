//! Objects from and to what is no file: pipes, standard input and output.
//!
//! An upload of unknown length can't go on after a failure, so its parts are removed.

use std::io::{Read, Write};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::plan::{PART_SIZE, PARTS_MAX, Parts};
use super::{Moved, Transfer};
use crate::{Error, Result};

/// What is read, and whether there may be more.
struct Source<R> {
    reader: R,
    number: u32,
    ended: bool,
}

impl Transfer {
    /// Uploads what can be read until its end.
    ///
    /// # Errors
    /// See [`Error`]; then there is no new object.
    pub async fn upload_stream<R>(&self, reader: R, key: &str) -> Result<Moved>
    where
        R: Read + Send + 'static,
    {
        let source = Source {
            reader,
            number: 0,
            ended: false,
        };
        let (source, first) = read_part(source, PART_SIZE).await?;
        if source.ended {
            let bytes = first.len() as u64;
            let content_type = self.content_type.as_deref();
            self.client
                .put(&self.bucket, key, first, content_type)
                .await?;
            self.progress.bytes(bytes);
            return Ok(Moved { files: 1, bytes });
        }
        let upload = self.create(key).await?;
        let sent = self.send_all(key, &upload.id, source, first).await;
        if sent.is_err() {
            let aborted = self.client.abort_multipart(&self.bucket, key, &upload.id);
            let _ = aborted.await;
        }
        sent
    }

    async fn send_all<R>(
        &self,
        key: &str,
        id: &str,
        source: Source<R>,
        first: Bytes,
    ) -> Result<Moved>
    where
        R: Read + Send + 'static,
    {
        let rest = stream::try_unfold(source, |source| async move {
            if source.ended {
                return Ok(None);
            }
            if u64::from(source.number) >= PARTS_MAX {
                let words = "more than 156 GiB can't be read from a pipe: copy a file instead";
                return Err(Error::Options(words.to_owned()));
            }
            let (source, body) = read_part(source, PART_SIZE).await?;
            Ok(Some(((source.number, body), source)))
        });
        let all = stream::iter([Ok((1, first))]).chain(rest);
        let mut parts: Vec<(u32, String, u64)> = all
            .try_filter(|(number, body)| std::future::ready(*number == 1 || !body.is_empty()))
            .map_ok(|(number, body)| async move {
                let bytes = body.len() as u64;
                let etag = self.send_part(key, id, number, body).await?;
                self.progress.bytes(bytes);
                Ok::<_, Error>((number, etag, bytes))
            })
            .try_buffer_unordered(self.jobs)
            .try_collect()
            .await?;
        parts.sort_unstable();
        let bytes = parts.iter().map(|(_, _, bytes)| bytes).sum();
        let parts: Vec<_> = parts.into_iter().map(|(n, etag, _)| (n, etag)).collect();
        self.client
            .complete_multipart(&self.bucket, key, id, &parts)
            .await?;
        Ok(Moved { files: 1, bytes })
    }

    /// Writes an object in the order of its bytes; they are fetched in parallel.
    ///
    /// # Errors
    /// See [`Error`]; what was written before stays written.
    pub async fn download_stream<W>(&self, key: &str, mut writer: W) -> Result<Moved>
    where
        W: Write + Send + 'static,
    {
        let head = self.client.head(&self.bucket, key).await?;
        self.progress.found(1, head.size);
        let parts = Parts::of(head.size);
        let etag = head.etag.as_str();
        let mut bodies = stream::iter(parts.numbers())
            .map(|number| {
                let (offset, length) = parts.range(number);
                self.fetch_range(key, offset, length, etag)
            })
            .buffered(self.jobs);
        while let Some(body) = bodies.next().await {
            let body = body?;
            let bytes = body.len() as u64;
            writer = write(writer, body).await?;
            self.progress.bytes(bytes);
        }
        Ok(Moved {
            files: 1,
            bytes: head.size,
        })
    }
}

async fn read_part<R>(mut source: Source<R>, length: u64) -> Result<(Source<R>, Bytes)>
where
    R: Read + Send + 'static,
{
    let done = tokio::task::spawn_blocking(move || {
        let mut body = Vec::new();
        let read = source.reader.by_ref().take(length).read_to_end(&mut body);
        source.number += 1;
        source.ended = (body.len() as u64) < length;
        read.map(|_| (source, Bytes::from(body)))
    });
    let read = done.await.expect("reading does not panic");
    read.map_err(|source| Error::Stream {
        what: "can't read the input",
        source,
    })
}

async fn write<W>(mut writer: W, body: Bytes) -> Result<W>
where
    W: Write + Send + 'static,
{
    let done = tokio::task::spawn_blocking(move || -> std::io::Result<W> {
        writer.write_all(&body)?;
        writer.flush()?;
        Ok(writer)
    });
    let written = done.await.expect("writing does not panic");
    written.map_err(|source| Error::Stream {
        what: "can't write the output",
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn parts_of_a_stream() {
        let source = Source {
            reader: std::io::Cursor::new(b"12345".to_vec()),
            number: 0,
            ended: false,
        };
        let (source, body) = read_part(source, 3).await.unwrap();
        assert_eq!(
            (body, source.number, source.ended),
            ("123".into(), 1, false)
        );
        let (source, body) = read_part(source, 3).await.unwrap();
        assert_eq!((body, source.number, source.ended), ("45".into(), 2, true));
    }
}
