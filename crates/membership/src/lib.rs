//! Servers, epochs and the liveness of peers
