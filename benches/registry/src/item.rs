//! The kind of resource that is written: a number and some text.

use std::sync::LazyLock;

use registry::Kind;
use serde::{Deserialize, Serialize};

/// Bytes of text in an item: with name and metadata it takes about 500 as it is stored.
const TEXT_LEN: usize = 430;

static TEXT: LazyLock<String> =
    LazyLock::new(|| "skerry ".repeat(TEXT_LEN)[..TEXT_LEN].to_string());

/// See the module.
#[derive(Debug)]
pub struct Item;

/// What an item holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ItemSpec {
    /// Which of its series.
    pub number: u64,
    /// The rest.
    pub text: String,
}

impl Kind for Item {
    const API_VERSION: &'static str = "bench/v1";
    const KIND: &'static str = "Item";
    const FORMAT: u8 = 1;
    type Spec = ItemSpec;
    type Status = ();
}

impl ItemSpec {
    /// Item `number`. All have the same text: nothing on the way compresses.
    pub fn new(number: u64) -> ItemSpec {
        let text = TEXT.clone();
        ItemSpec { number, text }
    }
}
