//! When an idle group may go to sleep, as pure rules.
//!
//! A sleeping group has no timers: no heartbeats, no elections. It is safe because nothing rests on a sleeping group's
//! timers: a leader that wakes confirms itself with a majority before it answers, and a follower whose leader's *node* is
//! suspected or restarted wakes and stands for election. It costs nothing: hundreds of idle groups send no message.

use crate::message::Idle;

/// What a replica knows of its group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub term: u64,
    pub leader: Option<u64>,
    pub last_index: u64,
    pub committed_index: u64,
    pub applied_index: u64,
    /// Leader only: how far each other member got.
    pub matched: Vec<u64>,
    /// Not in the middle of a membership change.
    pub uniform: bool,
}

/// Whether the leader `node` may ask its followers to sleep.
pub(crate) fn leader_may_ask(node: u64, facts: &Facts) -> bool {
    facts.leader == Some(node)
        && facts.uniform
        && settled(facts)
        && facts.matched.iter().all(|at| *at == facts.last_index)
}

/// Whether a follower agrees with its leader's wish.
pub(crate) fn follower_agrees(facts: &Facts, idle: &Idle) -> bool {
    facts.leader == Some(idle.leader)
        && facts.term == idle.term
        && facts.last_index == idle.last_index
        && settled(facts)
}

fn settled(facts: &Facts) -> bool {
    facts.committed_index == facts.last_index && facts.applied_index == facts.last_index
}

#[cfg(test)]
mod tests {
    use ids::GroupId;

    use super::*;

    fn idle_facts() -> Facts {
        Facts {
            term: 3,
            leader: Some(1),
            last_index: 9,
            committed_index: 9,
            applied_index: 9,
            matched: vec![9, 9],
            uniform: true,
        }
    }

    #[test]
    fn only_a_settled_leader_asks() {
        assert!(leader_may_ask(1, &idle_facts()));
        assert!(!leader_may_ask(2, &idle_facts()), "not the leader");
        for change in [
            |facts: &mut Facts| facts.committed_index = 8,
            |facts: &mut Facts| facts.applied_index = 8,
            |facts: &mut Facts| facts.matched[1] = 8,
            |facts: &mut Facts| facts.uniform = false,
            |facts: &mut Facts| facts.leader = None,
        ] {
            let mut facts = idle_facts();
            change(&mut facts);
            assert!(!leader_may_ask(1, &facts), "{facts:?}");
        }
    }

    #[test]
    fn a_follower_with_another_view_stays_awake() {
        let idle = Idle {
            group: GroupId(1),
            term: 3,
            leader: 1,
            last_index: 9,
        };
        assert!(follower_agrees(&idle_facts(), &idle));
        for other in [
            Idle {
                term: 4,
                ..idle.clone()
            },
            Idle {
                leader: 2,
                ..idle.clone()
            },
            Idle {
                last_index: 10,
                ..idle.clone()
            },
        ] {
            assert!(!follower_agrees(&idle_facts(), &other), "{other:?}");
        }
    }
}
