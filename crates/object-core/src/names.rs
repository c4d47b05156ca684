//! Names and bounds.
