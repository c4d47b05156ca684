//! Who may do what: users, keys, roles, certificates, join tokens
