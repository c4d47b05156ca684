//! The first thing that went so wrong that the node can't go on; whoever runs the groups waits for it.

use tokio::sync::watch;

/// See the module. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Failure(watch::Sender<Option<String>>);

impl Default for Failure {
    fn default() -> Self {
        Failure(watch::Sender::new(None))
    }
}

impl Failure {
    /// Notes why, unless something else was noted before.
    pub fn set(&self, why: impl FnOnce() -> String) {
        self.0.send_if_modified(|noted| {
            let first = noted.is_none();
            if first {
                *noted = Some(why());
            }
            first
        });
    }

    /// Waits for the first failure.
    pub async fn until_set(&self) -> String {
        let mut noted = self.0.subscribe();
        loop {
            if let Some(why) = noted.borrow_and_update().clone() {
                return why;
            }
            // Never an error: the sender is in `self`.
            let _ = noted.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_failure_is_told_to_all() {
        let failure = Failure::default();
        let waiting = tokio::spawn({
            let failure = failure.clone();
            async move { failure.until_set().await }
        });
        tokio::task::yield_now().await;
        failure.set(|| "first".into());
        failure.set(|| "second".into());
        assert_eq!(waiting.await.unwrap(), "first");
        assert_eq!(failure.until_set().await, "first");
    }
}
