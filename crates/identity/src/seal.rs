//! Secrets encrypted under the site's key, as they lie in the registry, its log and its snapshots.
//!
//! The key itself is in none of these: each server keeps it in a file, and a new one gets it over TLS when it joins.
//! AES-256-GCM; sealed bytes are `version ‖ key id ‖ nonce ‖ ciphertext ‖ tag`. What comes before the ciphertext and the
//! *context* (what the secret is and whose) are authenticated: a secret moved to another record doesn't open there.
//!
//! Nonces are 96 random bits: one key may seal 2^32 secrets before a repeat becomes likely enough to matter.

use std::fmt;

use rand::Rng;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroize;

const VERSION: u8 = 1;
const KEY_ID_LEN: usize = 4;
const HEADER_LEN: usize = 1 + KEY_ID_LEN + NONCE_LEN;

/// Sealed bytes that don't open, or a key that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Sealed by a newer version.
    #[error("the secret is sealed in format {0}, this program knows {VERSION}: upgrade this node")]
    Newer(u8),
    /// Sealed by another site's key, or an older one.
    #[error(
        "the secret was sealed under another key ({found}) than this node's ({own}): is this the site's key file?"
    )]
    OtherKey {
        /// The id of the key that sealed it.
        found: String,
        /// The id of the key at hand.
        own: String,
    },
    /// Changed, cut short, or sealed for another purpose.
    #[error("the sealed secret is damaged, or belongs to another record than `{0}`")]
    Refused(String),
    /// Not what [`SiteKey::to_text`] writes.
    #[error("the site's key must be 64 hexadecimal digits on one line")]
    KeyText,
}

/// The key under which a site's secrets are sealed.
#[derive(Clone)]
pub struct SiteKey([u8; 32]);

impl SiteKey {
    /// Draws a new key.
    pub fn generate(rng: &mut dyn Rng) -> Self {
        let mut key = [0; 32];
        rng.fill_bytes(&mut key);
        SiteKey(key)
    }

    /// The key of these bytes.
    pub fn from_bytes(key: [u8; 32]) -> Self {
        SiteKey(key)
    }

    /// The bytes: for handing the key to a server that joins.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The content of the key file.
    pub fn to_text(&self) -> String {
        hex::encode(self.0) + "\n"
    }

    /// Reads the content of the key file.
    pub fn parse(text: &str) -> Result<Self, SealError> {
        let mut key = [0; 32];
        hex::decode_to_slice(text.trim_end(), &mut key).map_err(|_| SealError::KeyText)?;
        Ok(SiteKey(key))
    }

    /// A short name of the key that reveals nothing about it.
    pub fn id(&self) -> String {
        hex::encode(self.id_bytes())
    }

    fn id_bytes(&self) -> [u8; KEY_ID_LEN] {
        let hash = blake3::derive_key("skerry 2026 id of a site key", &self.0);
        [hash[0], hash[1], hash[2], hash[3]]
    }

    /// Encrypts. `context` says what is sealed (such as `access-key/SKABC`) and must be the same when it is opened.
    pub fn seal(&self, context: &str, plaintext: &[u8], rng: &mut dyn Rng) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        rng.fill_bytes(&mut nonce);
        let mut sealed = Vec::with_capacity(HEADER_LEN + plaintext.len() + AES_256_GCM.tag_len());
        sealed.push(VERSION);
        sealed.extend(self.id_bytes());
        sealed.extend(nonce);
        let aad = aad(&sealed, context);
        let mut body = plaintext.to_vec();
        self.cipher()
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(aad),
                &mut body,
            )
            .expect("a secret is shorter than what AES-GCM can seal");
        sealed.append(&mut body);
        sealed
    }

    /// Decrypts what [`SiteKey::seal`] made with the same context.
    pub fn open(&self, context: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let refused = || SealError::Refused(context.to_owned());
        match sealed.first() {
            Some(&VERSION) => {}
            Some(&newer) => return Err(SealError::Newer(newer)),
            None => return Err(refused()),
        }
        let (header, body) = sealed.split_at_checked(HEADER_LEN).ok_or_else(refused)?;
        let (key_id, nonce) = header[1..].split_at(KEY_ID_LEN);
        if key_id != self.id_bytes() {
            return Err(SealError::OtherKey {
                found: hex::encode(key_id),
                own: self.id(),
            });
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| refused())?;
        let mut body = body.to_vec();
        let aad = Aad::from(aad(header, context));
        let len = self
            .cipher()
            .open_in_place(nonce, aad, &mut body)
            .map_err(|_| refused())?
            .len();
        body.truncate(len);
        Ok(body)
    }

    fn cipher(&self) -> LessSafeKey {
        LessSafeKey::new(
            UnboundKey::new(&AES_256_GCM, &self.0).expect("the key has the right length"),
        )
    }
}

fn aad(header: &[u8], context: &str) -> Vec<u8> {
    [header, context.as_bytes()].concat()
}

impl Drop for SiteKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for SiteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SiteKey({})", self.id())
    }
}
