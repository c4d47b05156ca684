//! Attempts to delete a bucket, step by step in any order, while clients write: a bucket that goes is empty.
//!
//! A bucket of two slots in two groups, and a directory that counts the attempts as `object_store::placement` says.

use object_core::meta::{Command, DeletionAttempt, Outcome, Refused};
use proptest::prelude::*;

use crate::scenario::{BUCKET, Group, at, delete, put_inline};

const GROUPS: usize = 2;

#[derive(Default)]
struct Site {
    groups: [Group; GROUPS],
    /// The newest attempt, and whether it is under way.
    attempt: DeletionAttempt,
    deleting: bool,
    removed: bool,
}

/// Where an attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Fencing(usize),
    Unfencing(usize),
    Ended,
}

#[derive(Debug, Clone, Copy)]
struct Attempt {
    number: DeletionAttempt,
    doing: Doing,
}

#[derive(Debug, Clone)]
enum Step {
    Put(usize),
    Delete(usize),
    Begin,
    /// One of the attempts goes on: a step of it may have waited for long.
    GoOn(prop::sample::Index),
}

impl Site {
    fn begin(&mut self) -> Attempt {
        self.attempt = self.attempt.next();
        self.deleting = true;
        Attempt {
            number: self.attempt,
            doing: Doing::Fencing(0),
        }
    }

    fn is_newest(&self, attempt: &Attempt) -> bool {
        self.deleting && self.attempt == attempt.number
    }

    fn fence(&mut self, group: usize, attempt: DeletionAttempt) -> Outcome {
        self.groups[group].apply(&Command::FenceSlots {
            bucket: BUCKET,
            slots: vec![group as u16],
            attempt,
        })
    }

    fn unfence(&mut self, group: usize, attempt: DeletionAttempt) -> Outcome {
        self.groups[group].apply(&Command::UnfenceSlots {
            bucket: BUCKET,
            slots: vec![group as u16],
            attempt,
        })
    }

    fn put(&mut self, group: usize) -> Outcome {
        self.groups[group].apply(&put_inline(&at(group as u16, "k"), b"x"))
    }

    fn delete(&mut self, group: usize) -> Outcome {
        self.groups[group].apply(&delete(&at(group as u16, "k")))
    }

    /// The next command of an attempt, as a gateway sends it.
    fn go_on(&mut self, attempt: &mut Attempt) {
        attempt.doing = match attempt.doing {
            Doing::Ended => Doing::Ended,
            Doing::Fencing(GROUPS) => {
                if self.is_newest(attempt) {
                    self.removed = true;
                }
                Doing::Ended
            }
            Doing::Unfencing(GROUPS) => {
                if self.is_newest(attempt) {
                    self.deleting = false;
                }
                Doing::Ended
            }
            Doing::Fencing(group) => match self.fence(group, attempt.number) {
                Outcome::Done => Doing::Fencing(group + 1),
                Outcome::Refused(Refused::SlotNotEmpty) => Doing::Unfencing(0),
                Outcome::Refused(Refused::Overtaken) => Doing::Ended,
                other => panic!("{other:?}"),
            },
            Doing::Unfencing(group) => match self.unfence(group, attempt.number) {
                Outcome::Done => Doing::Unfencing(group + 1),
                Outcome::Refused(Refused::Overtaken) => Doing::Ended,
                other => panic!("{other:?}"),
            },
        };
    }

    fn objects(&self) -> u64 {
        self.groups.iter().map(|group| group.stats().objects).sum()
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..GROUPS).prop_map(Step::Put),
        3 => (0..GROUPS).prop_map(Step::Delete),
        1 => Just(Step::Begin),
        8 => any::<prop::sample::Index>().prop_map(Step::GoOn),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_bucket_that_goes_is_empty_and_one_that_stays_is_open(
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let (mut site, mut attempts) = (Site::default(), Vec::<Attempt>::new());
        for step in steps {
            match step {
                Step::Put(group) => drop(site.put(group)),
                Step::Delete(group) => drop(site.delete(group)),
                Step::Begin if !site.removed => attempts.push(site.begin()),
                Step::GoOn(which) if !attempts.is_empty() => {
                    let which = which.index(attempts.len());
                    site.go_on(&mut attempts[which]);
                }
                Step::Begin | Step::GoOn(_) => {}
            }
            prop_assert!(!site.removed || site.objects() == 0, "a bucket went with an object in it");
        }
        // All that is left comes late; then a job looks after the bucket.
        let left = attempts.iter_mut();
        left.for_each(|attempt| while attempt.doing != Doing::Ended { site.go_on(attempt) });
        if site.deleting && !site.removed {
            let mut last = site.begin();
            while last.doing != Doing::Ended {
                site.go_on(&mut last);
            }
        }
        if site.removed {
            prop_assert_eq!(site.objects(), 0);
        } else {
            prop_assert!(!site.deleting);
            for group in 0..GROUPS {
                prop_assert!(matches!(site.put(group), Outcome::Written(_)), "a slot stayed fenced");
            }
        }
    }
}

#[test]
fn a_refused_attempt_does_not_open_what_a_newer_one_fenced() {
    let mut site = Site::default();
    site.put(1);
    let (mut old, mut new) = (site.begin(), site.begin());
    site.go_on(&mut old);
    site.go_on(&mut old);
    assert_eq!(
        old.doing,
        Doing::Unfencing(0),
        "the second slot is not empty"
    );
    site.go_on(&mut new);
    site.go_on(&mut old);
    assert_eq!(old.doing, Doing::Ended, "it is overtaken");
    assert_eq!(site.put(0), Outcome::Refused(Refused::Fenced));
    site.delete(1);
    site.go_on(&mut new);
    site.go_on(&mut new);
    assert!(site.removed);
}

#[test]
fn an_older_attempt_that_comes_late_changes_nothing() {
    let mut site = Site::default();
    let (old, mut new) = (site.begin().number, site.begin());
    site.go_on(&mut new);
    let overtaken = Outcome::Refused(Refused::Overtaken);
    assert_eq!(site.fence(0, old), overtaken);
    assert_eq!(site.unfence(0, old), overtaken);
    assert_eq!(site.put(0), Outcome::Refused(Refused::Fenced));
    assert_eq!(site.unfence(0, new.number), Outcome::Done);
    assert_eq!(site.fence(0, old), overtaken);
    assert_eq!(site.fence(0, new.number), overtaken, "it was called off");
    assert!(matches!(site.put(0), Outcome::Written(_)));
}
