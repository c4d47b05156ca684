//! Hears the panics of this thread, also those in tasks that nobody awaits: a panic of ours is a bug wherever it is.

use std::cell::RefCell;
use std::panic::{set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static HEARD: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

static HOOK: Once = Once::new();

/// Forgets what was heard, and listens from now on.
pub fn listen() {
    HOOK.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |panic| {
            // A thread that ends has no list any more, and nobody who asks.
            let _ = HEARD.try_with(|heard| heard.borrow_mut().push(panic.to_string()));
            usual(panic);
        }));
    });
    HEARD.with(|heard| heard.borrow_mut().clear());
}

/// What was heard since [`listen`].
pub fn heard() -> Vec<String> {
    HEARD.with(|heard| heard.borrow().clone())
}
