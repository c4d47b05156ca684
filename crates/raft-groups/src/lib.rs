//! Many Raft groups on one node: openraft behind our own trait
