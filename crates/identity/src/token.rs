//! Join tokens: with one, a new machine finds the site, knows that it is the right one, and is let in once.
//!
//! The text is `skj1.` and base64url of: format version, the record below (postcard), and four bytes of checksum, so that
//! a slip of the hand is told apart from a token that the site refuses. It holds the fingerprint of the site's authority:
//! the machine talks to nobody else.
//!
//! The registry holds a [`JoinTokenSpec`] per token, with a hash of the secret only. **Used once**: the entry that admits
//! the machine deletes the token's resource in the same transaction, with the revision that was read as its condition, so
//! that of two machines with one token one is admitted. The same transaction notes which key was admitted under which
//! number, so that a machine that missed the answer gets it again. Apply reads no clock; whether the token has expired is decided by
//! the server that proposes ([`JoinTokenSpec::verify`]).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ids::SiteId;
use rand::Rng;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

/// What every token of this format starts with.
pub const PREFIX: &str = "skj1.";
/// Most addresses in a token.
pub const ADDRESSES_MAX: usize = 16;
/// The longest text that is looked at, in bytes.
pub const TEXT_BYTES_MAX: usize = 8192;

const VERSION: u8 = 1;
const CHECKSUM_LEN: usize = 4;
const SECRET_LEN: usize = 16;

/// What the machine will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JoinRole {
    /// Votes and stores.
    Server,
    /// Hosts ports and work only.
    Agent,
}

impl fmt::Display for JoinRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            JoinRole::Server => "server",
            JoinRole::Agent => "agent",
        })
    }
}

/// Names a token in the registry: 16 hexadecimal digits, no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TokenId(pub [u8; 8]);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::str::FromStr for TokenId {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut id = [0; 8];
        hex::decode_to_slice(text, &mut id).map_err(|_| TokenError::Id(text.to_owned()))?;
        Ok(TokenId(id))
    }
}

/// Text that is not a usable token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Something else.
    #[error(
        "this is not a join token: it should start with `{PREFIX}`; make one with `skerry token create`"
    )]
    NotAToken,
    /// A later format.
    #[error(
        "the join token has a newer format than this program knows: upgrade this machine first"
    )]
    Newer,
    /// A letter is wrong or missing.
    #[error("the join token was not copied whole: a character is wrong or missing")]
    Typo,
    /// Made by a program that doesn't follow the format.
    #[error(
        "the join token is well copied but makes no sense: make a new one with `skerry token create`"
    )]
    Senseless,
    /// More than [`ADDRESSES_MAX`] addresses, or none.
    #[error("a join token holds between 1 and {ADDRESSES_MAX} addresses, not {0}")]
    Addresses(usize),
    /// Not a token's name.
    #[error("`{0}` is not the id of a join token: expected 16 hexadecimal digits")]
    Id(String),
}

/// Why the site does not accept a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// Its time is over.
    #[error("the join token has expired: make a new one with `skerry token create`")]
    Expired,
    /// Somebody guesses.
    #[error("the join token's secret is wrong")]
    WrongSecret,
}

/// What only the token's holder knows. Wiped when dropped.
#[derive(Clone, Serialize, Deserialize)]
pub struct TokenSecret([u8; SECRET_LEN]);

impl TokenSecret {
    /// The bytes, for sending them to the site.
    pub fn as_bytes(&self) -> &[u8; SECRET_LEN] {
        &self.0
    }

    /// The secret of these bytes.
    pub fn from_bytes(bytes: [u8; SECRET_LEN]) -> Self {
        TokenSecret(bytes)
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(…)")
    }
}

impl Drop for TokenSecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// What the token's holder has.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinToken {
    /// The site.
    pub site: SiteId,
    /// SHA-256 of the certificate of the site's authority.
    pub ca_fingerprint: [u8; 32],
    /// What the machine will be.
    pub role: JoinRole,
    /// The token's name in the registry.
    pub id: TokenId,
    /// Proves that the machine holds the token.
    pub secret: TokenSecret,
    /// The token is good before this time, in milliseconds since 1970.
    pub expires_ms: u64,
    /// `host:port` of servers to ask, in this order.
    pub addresses: Vec<String>,
}

/// What the registry keeps of a token; deleted when the token is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinTokenSpec {
    /// The token's name.
    pub id: TokenId,
    /// A keyed hash of the secret.
    pub secret_hash: [u8; 32],
    /// What the machine will be.
    pub role: JoinRole,
    /// The token is good before this time, in milliseconds since 1970.
    pub expires_ms: u64,
}

/// What a new token is for.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// The site.
    pub site: SiteId,
    /// SHA-256 of the certificate of the site's authority.
    pub ca_fingerprint: [u8; 32],
    /// What the machine will be.
    pub role: JoinRole,
    /// When the token expires, in milliseconds since 1970.
    pub expires_ms: u64,
    /// `host:port` of servers to ask.
    pub addresses: Vec<String>,
}

impl JoinToken {
    /// Draws a token, and makes the record of it for the registry.
    pub fn create(
        new: NewToken,
        rng: &mut dyn Rng,
    ) -> Result<(JoinToken, JoinTokenSpec), TokenError> {
        check_addresses(&new.addresses)?;
        let (mut id, mut secret) = ([0; 8], [0; SECRET_LEN]);
        rng.fill_bytes(&mut id);
        rng.fill_bytes(&mut secret);
        let NewToken {
            site,
            ca_fingerprint,
            role,
            expires_ms,
            addresses,
        } = new;
        let (id, secret) = (TokenId(id), TokenSecret(secret));
        let spec = JoinTokenSpec {
            id,
            secret_hash: hash(id, &secret).into(),
            role,
            expires_ms,
        };
        Ok((
            JoinToken {
                site,
                ca_fingerprint,
                role,
                id,
                secret,
                expires_ms,
                addresses,
            },
            spec,
        ))
    }

    /// The token as its holder gets it: one word, good for a command line.
    pub fn to_text(&self) -> String {
        let mut bytes =
            postcard::to_extend(self, vec![VERSION]).expect("plain data always encodes");
        let sum = checksum(&bytes);
        bytes.extend(sum);
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Reads what [`JoinToken::to_text`] wrote; space around it does no harm.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let body = text
            .strip_prefix(PREFIX)
            .ok_or_else(|| other_prefix(text))?;
        if text.len() > TEXT_BYTES_MAX {
            return Err(TokenError::NotAToken);
        }
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| TokenError::Typo)?;
        let (rest, sum) = bytes
            .split_last_chunk::<CHECKSUM_LEN>()
            .ok_or(TokenError::Typo)?;
        if checksum(rest) != *sum {
            return Err(TokenError::Typo);
        }
        match rest.split_first() {
            Some((&VERSION, record)) => decode(record),
            _ => Err(TokenError::Newer),
        }
    }

    /// Whether the token's time is over by this machine's clock. The site decides; this only saves the way.
    pub fn is_expired(&self, now_ms: u64) -> bool {
        now_ms >= self.expires_ms
    }
}

impl JoinTokenSpec {
    /// Whether the holder of `secret` may join now. Takes equally long for every wrong secret.
    pub fn verify(&self, secret: &TokenSecret, now_ms: u64) -> Result<(), TokenRefusal> {
        // The comparison of `blake3::Hash` takes constant time. A guesser isn't told whether the token has expired.
        if hash(self.id, secret) != blake3::Hash::from_bytes(self.secret_hash) {
            return Err(TokenRefusal::WrongSecret);
        }
        if now_ms >= self.expires_ms {
            Err(TokenRefusal::Expired)
        } else {
            Ok(())
        }
    }
}

fn hash(id: TokenId, secret: &TokenSecret) -> blake3::Hash {
    let key = blake3::derive_key("skerry 2026 join token", &id.0);
    blake3::keyed_hash(&key, &secret.0)
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let hash = blake3::hash(bytes);
    hash.as_bytes().first_chunk().copied().unwrap_or_default()
}

fn other_prefix(text: &str) -> TokenError {
    let version = text
        .strip_prefix("skj")
        .and_then(|rest| rest.split_once('.'));
    match version.and_then(|(number, _)| number.parse::<u32>().ok()) {
        Some(number) if number > u32::from(VERSION) => TokenError::Newer,
        _ => TokenError::NotAToken,
    }
}

fn decode(record: &[u8]) -> Result<JoinToken, TokenError> {
    match postcard::take_from_bytes::<JoinToken>(record) {
        Ok((token, [])) => {
            check_addresses(&token.addresses)?;
            Ok(token)
        }
        _ => Err(TokenError::Senseless),
    }
}

fn check_addresses(addresses: &[String]) -> Result<(), TokenError> {
    let count = addresses.len();
    if (1..=ADDRESSES_MAX).contains(&count) {
        Ok(())
    } else {
        Err(TokenError::Addresses(count))
    }
}
