//! An S3 client for the command line and the load generator
