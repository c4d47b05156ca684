//! The next step from the members that a group has to the members that it should have.
//!
//! [`next_step`] is asked again after every step, by the group's leader; it remembers nothing, so a step that failed or that
//! another leader made is simply seen. The order is: let the newcomers follow, wait until they have caught up, move a
//! leader that would lose its vote, change all voters at once (a joint change is safe whatever overlaps), drop those who
//! only follow, give the lead to the preferred leader.
//!
//! Invariant: from any members, with every step carried out, the wanted members are reached in at most eight steps,
//! and then the answer is [`Step::Nothing`]. A vote is given only to a server that has caught up.

use std::collections::BTreeSet;

use ids::NodeId;

/// The group as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    /// Who votes; while a joint change is under way, the voters of its new half.
    pub voters: BTreeSet<NodeId>,
    /// A joint change was begun and not finished.
    pub joint: bool,
    /// Who follows without a vote.
    pub learners: BTreeSet<NodeId>,
    /// The leader.
    pub leader: NodeId,
    /// Members that answer and lack few entries; the leader counts as one of them.
    pub caught_up: BTreeSet<NodeId>,
}

/// The group as the map wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Who should vote, the preferred leader first.
    pub voters: Vec<NodeId>,
    /// Who should follow without a vote.
    pub learners: Vec<NodeId>,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The group is as it should be.
    Nothing,
    /// Let these follow the group.
    AddLearners(BTreeSet<NodeId>),
    /// Nothing can be done before these have caught up.
    AwaitCatchUp(BTreeSet<NodeId>),
    /// Make exactly these the voters, in one joint change; old voters remain as learners.
    ChangeVoters(BTreeSet<NodeId>),
    /// Let these no longer follow.
    RemoveLearners(BTreeSet<NodeId>),
    /// Give the lead to this voter.
    TransferLeader(NodeId),
}

/// The next step; see the module for the order. Nothing is done when nobody is wanted: a group never loses all voters.
pub fn next_step(current: &Current, wanted: &Wanted) -> Step {
    let voters: BTreeSet<NodeId> = wanted.voters.iter().copied().collect();
    if voters.is_empty() {
        return Step::Nothing;
    }
    let everyone: BTreeSet<NodeId> = voters.iter().chain(&wanted.learners).copied().collect();
    let members: BTreeSet<NodeId> = &current.voters | &current.learners;

    if current.joint {
        return Step::ChangeVoters(current.voters.clone());
    }
    let missing = &everyone - &members;
    if !missing.is_empty() {
        return Step::AddLearners(missing);
    }
    if current.voters != voters {
        return change_voters(current, &voters);
    }
    let leaving = &current.learners - &everyone;
    if !leaving.is_empty() {
        return Step::RemoveLearners(leaving);
    }
    let preferred = wanted.voters[0];
    if current.leader != preferred && current.caught_up.contains(&preferred) {
        return Step::TransferLeader(preferred);
    }
    Step::Nothing
}

fn change_voters(current: &Current, voters: &BTreeSet<NodeId>) -> Step {
    let behind = &(voters - &current.voters) - &current.caught_up;
    if !behind.is_empty() {
        return Step::AwaitCatchUp(behind);
    }
    // A leader may vote itself out, but then the group waits for an election: hand over first where somebody can.
    let mut stays = current
        .voters
        .intersection(voters)
        .filter(|node| current.caught_up.contains(node));
    match stays.next() {
        Some(&next) if !voters.contains(&current.leader) => Step::TransferLeader(next),
        _ => Step::ChangeVoters(voters.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(nodes: &[u64]) -> BTreeSet<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    fn list(nodes: &[u64]) -> Vec<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    fn current(voters: &[u64], learners: &[u64], leader: u64) -> Current {
        let caught_up = set(&[voters, learners].concat());
        Current {
            voters: set(voters),
            joint: false,
            learners: set(learners),
            leader: NodeId(leader),
            caught_up,
        }
    }

    fn carry_out(current: &mut Current, step: &Step) {
        match step {
            Step::Nothing => {}
            Step::AddLearners(nodes) => current.learners.extend(nodes),
            Step::AwaitCatchUp(nodes) => current.caught_up.extend(nodes),
            Step::ChangeVoters(nodes) => {
                let before = std::mem::replace(&mut current.voters, nodes.clone());
                current.learners = &(&current.learners | &before) - nodes;
                current.joint = false;
                if !nodes.contains(&current.leader) {
                    current.leader = *nodes.iter().next().expect("never empty");
                }
            }
            Step::RemoveLearners(nodes) => current.learners.retain(|node| !nodes.contains(node)),
            Step::TransferLeader(node) => current.leader = *node,
        }
    }

    #[test]
    fn one_server_becomes_three() {
        let wanted = Wanted {
            voters: list(&[2, 1, 3]),
            learners: vec![],
        };
        let mut group = current(&[1], &[], 1);
        let mut steps = Vec::new();
        while steps.last() != Some(&Step::Nothing) {
            steps.push(next_step(&group, &wanted));
            carry_out(&mut group, &steps[steps.len() - 1]);
        }
        let expected = [
            Step::AddLearners(set(&[2, 3])),
            Step::AwaitCatchUp(set(&[2, 3])),
            Step::ChangeVoters(set(&[1, 2, 3])),
            Step::TransferLeader(NodeId(2)),
            Step::Nothing,
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn a_leader_that_leaves_hands_over_first_and_is_dropped_last() {
        let wanted = Wanted {
            voters: list(&[4, 2, 3]),
            learners: vec![],
        };
        let mut group = current(&[1, 2, 3], &[4], 1);
        assert_eq!(next_step(&group, &wanted), Step::TransferLeader(NodeId(2)));
        group.leader = NodeId(2);
        assert_eq!(
            next_step(&group, &wanted),
            Step::ChangeVoters(set(&[2, 3, 4]))
        );
        let group = current(&[2, 3, 4], &[1], 2);
        assert_eq!(next_step(&group, &wanted), Step::RemoveLearners(set(&[1])));
    }

    #[test]
    fn a_joint_change_is_finished_before_anything_else() {
        let group = Current {
            joint: true,
            ..current(&[1, 2], &[3], 1)
        };
        let wanted = Wanted {
            voters: list(&[7, 8, 9]),
            learners: vec![],
        };
        assert_eq!(next_step(&group, &wanted), Step::ChangeVoters(set(&[1, 2])));
    }

    #[test]
    fn a_preferred_leader_that_lags_is_left_alone() {
        let mut group = current(&[1, 2, 3], &[], 1);
        group.caught_up.remove(&NodeId(2));
        let wanted = Wanted {
            voters: list(&[2, 1, 3]),
            learners: vec![],
        };
        assert_eq!(next_step(&group, &wanted), Step::Nothing);
    }

    #[test]
    fn a_group_is_never_emptied() {
        let wanted = Wanted {
            voters: vec![],
            learners: list(&[1]),
        };
        assert_eq!(next_step(&current(&[1, 2], &[], 1), &wanted), Step::Nothing);
    }

    fn nodes() -> impl Strategy<Value = BTreeSet<u64>> {
        proptest::collection::btree_set(1..8_u64, 1..5)
    }

    proptest! {
        #[test]
        fn the_wanted_members_are_reached_from_any_others(
            voters in nodes(), learners in nodes(), wanted in nodes(), follow in nodes(), joint: bool,
        ) {
            let flat = |set: &BTreeSet<u64>| set.iter().copied().collect::<Vec<_>>();
            let learners: Vec<_> = learners.difference(&voters).copied().collect();
            let follow: Vec<_> = follow.difference(&wanted).copied().collect();
            let leader = *voters.first().unwrap();
            let mut group = Current { joint, ..current(&flat(&voters), &learners, leader) };
            let wanted = Wanted { voters: list(&flat(&wanted)), learners: list(&follow) };
            let mut steps = 0;
            loop {
                let step = next_step(&group, &wanted);
                if step == Step::Nothing {
                    break;
                }
                if let Step::ChangeVoters(voters) = &step {
                    prop_assert!((voters - &group.voters).is_subset(&group.caught_up));
                }
                carry_out(&mut group, &step);
                steps += 1;
                prop_assert!(steps <= 8, "{step:?}");
            }
            prop_assert_eq!(&group.voters, &wanted.voters.iter().copied().collect());
            prop_assert_eq!(&group.learners, &wanted.learners.iter().copied().collect());
            prop_assert_eq!(group.leader, wanted.voters[0]);
        }
    }
}
