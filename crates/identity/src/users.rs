//! Projects, users and their access keys, as the registry keeps them.
//!
//! An access key's secret is kept sealed under the site's key: the server needs it in clear to check a request's signature,
//! so it can't be a hash. It is shown once, when the key is made.

use std::fmt;

use ids::UserId;
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::seal::{SealError, SiteKey};
use crate::secret::Secret;

/// Longest name of a project or user.
pub const NAME_LEN_MAX: usize = 64;
/// Length of an access key.
pub const ACCESS_KEY_LEN: usize = 20;
/// Length of an access key's secret.
pub const SECRET_LEN: usize = 40;

const ACCESS_KEY_PREFIX: &str = "SK";
/// 32 characters that are hard to mistake for each other.
const ACCESS_KEY_CHARS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// 64 characters that no shell, URL or configuration file treats specially.
const SECRET_CHARS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._";

/// A name that can't be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty or too long.
    #[error("a name has 1 to {NAME_LEN_MAX} characters, `{0}` has {len}", len = .0.len())]
    Length(String),
    /// A character that isn't allowed.
    #[error("`{name}` holds {found:?}: a name holds only a-z, 0-9, `.`, `_` and `-`")]
    Character {
        /// The name.
        name: String,
        /// Its first wrong character.
        found: char,
    },
    /// Punctuation in front.
    #[error("`{0}` must start with a letter or a digit")]
    Start(String),
}

/// Checks the name of a project or user: 1–64 of `a-z 0-9 . _ -`, a letter or digit first.
pub fn check_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() || name.len() > NAME_LEN_MAX {
        return Err(NameError::Length(name.to_owned()));
    }
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c);
    if let Some(found) = name.chars().find(|&c| !allowed(c)) {
        return Err(NameError::Character {
            name: name.to_owned(),
            found,
        });
    }
    if name.starts_with(['.', '-', '_']) {
        return Err(NameError::Start(name.to_owned()));
    }
    Ok(())
}

/// What a user may do within a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sees what the project has.
    Reader,
    /// Uses and changes what the project has.
    Member,
    /// Runs the site: servers, projects, users, and everything that a member does.
    Admin,
}

impl Role {
    /// Whether this role includes the other.
    pub fn includes(self, other: Role) -> bool {
        self >= other
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Reader => "reader",
            Role::Member => "member",
            Role::Admin => "admin",
        })
    }
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Role::Reader, Role::Member, Role::Admin];
        let found = all.into_iter().find(|role| role.to_string() == text);
        found.ok_or_else(|| format!("`{text}` is not a role: expected admin, member or reader"))
    }
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectSpec {
    /// Unique; see [`check_name`].
    pub name: String,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
}

/// A user; the resource is named by the [`UserId`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserSpec {
    /// Unique within the site; see [`check_name`].
    pub name: String,
    /// What the user may do.
    pub role: Role,
    /// The name of the project that the user belongs to.
    pub project: String,
}

/// One of a user's keys; the resource is named by the access key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessKeySpec {
    /// Whose.
    pub user: UserId,
    /// The public half, [`ACCESS_KEY_LEN`] upper-case letters and digits.
    pub access_key: String,
    /// The secret half, sealed under the site's key.
    pub sealed_secret: Vec<u8>,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// What the owner wants to remember about it.
    pub note: String,
}

impl fmt::Debug for AccessKeySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessKeySpec")
            .field("user", &self.user)
            .field("access_key", &self.access_key)
            .finish_non_exhaustive()
    }
}

impl AccessKeySpec {
    /// Draws a key for a user and seals its secret; the secret is for showing it once.
    pub fn create(
        user: UserId,
        created_ms: u64,
        note: String,
        site_key: &SiteKey,
        rng: &mut dyn Rng,
    ) -> (AccessKeySpec, Secret) {
        let access_key = generate_access_key(rng);
        let secret = generate_secret(rng);
        let sealed_secret =
            site_key.seal(&seal_context(&access_key), secret.reveal().as_bytes(), rng);
        (
            AccessKeySpec {
                user,
                access_key,
                sealed_secret,
                created_ms,
                note,
            },
            secret,
        )
    }

    /// Opens the secret.
    pub fn open_secret(&self, site_key: &SiteKey) -> Result<Secret, SealError> {
        let context = seal_context(&self.access_key);
        let bytes = site_key.open(&context, &self.sealed_secret)?;
        String::from_utf8(bytes)
            .map(Secret::new)
            .map_err(|_| SealError::Refused(context))
    }
}

fn seal_context(access_key: &str) -> String {
    format!("access-key/{access_key}")
}

/// Draws an access key: `SK` and 90 random bits.
pub fn generate_access_key(rng: &mut dyn Rng) -> String {
    let rest = draw(
        ACCESS_KEY_CHARS,
        ACCESS_KEY_LEN - ACCESS_KEY_PREFIX.len(),
        rng,
    );
    ACCESS_KEY_PREFIX.to_owned() + &rest
}

/// Draws an access key's secret: 240 random bits.
pub fn generate_secret(rng: &mut dyn Rng) -> Secret {
    Secret::new(draw(SECRET_CHARS, SECRET_LEN, rng))
}

/// Draws uniformly, as the number of characters divides 256.
fn draw(chars: &[u8], len: usize, rng: &mut dyn Rng) -> String {
    let mut bytes = vec![0; len];
    rng.fill_bytes(&mut bytes);
    bytes
        .iter()
        .map(|&byte| char::from(chars[usize::from(byte) % chars.len()]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule() {
        for good in ["a", "7", "shop-4711", "a.b_c-d", &"x".repeat(64)] {
            assert_eq!(check_name(good), Ok(()));
        }
        let words = |name: &str| check_name(name).unwrap_err().to_string();
        assert_eq!(words(""), "a name has 1 to 64 characters, `` has 0");
        assert!(words(&"x".repeat(65)).contains("has 65"));
        assert_eq!(
            words("Ada"),
            "`Ada` holds 'A': a name holds only a-z, 0-9, `.`, `_` and `-`"
        );
        assert!(words("a/b").contains("'/'"));
        assert_eq!(words(".."), "`..` must start with a letter or a digit");
    }

    #[test]
    fn roles_include_the_lesser_ones() {
        assert!(Role::Admin.includes(Role::Member) && Role::Member.includes(Role::Reader));
        assert!(!Role::Reader.includes(Role::Member));
        assert_eq!("member".parse(), Ok(Role::Member));
        assert!(
            "owner"
                .parse::<Role>()
                .unwrap_err()
                .contains("admin, member or reader")
        );
    }
}
