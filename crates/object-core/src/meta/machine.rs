//! Applies commands and answers queries over a group's keys.
