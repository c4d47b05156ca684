//! An S3 client for the command line and the load generator, against any S3 endpoint.
//!
//! [`S3Client`] speaks single requests, [`transfer`] moves files and folders, [`bench`] makes load.
//!
//! Invariants:
//! - every request is sent as a presigned URL over HTTP/1.1 with kept-alive connections, plain or under TLS;
//! - attempts, waits, idle connections and the size of collected replies are bounded.
//!
//! It does not copy within S3, follow redirects, or sign bodies: over plain HTTP, what is on the way can be changed.

pub mod bench;
mod client;
mod connection;
mod error;
mod multipart;
mod objects;
mod removal;
mod sign;
pub mod tls;
pub mod transfer;
mod xml;

pub use client::{Endpoint, S3Client};
pub use error::{Error, Result};
pub use multipart::{UploadInfo, UploadedPart};
pub use objects::{
    BucketInfo, DeleteFailure, ListPage, ListRequest, ObjectBody, ObjectHead, ObjectInfo,
};
