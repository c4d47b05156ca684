//! The node's one write-ahead log, shared by all Raft groups
