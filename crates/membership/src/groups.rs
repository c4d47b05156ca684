//! Which servers hold each placement group: rendezvous ranking with bounded loads, computed from the previous table.
//!
//! Groups are few (16 over 20 servers), so hashing alone would leave one server with twice the load of another. Instead:
//!
//! 1. members that are still there stay;
//! 2. gaps are filled, each by the server that carries least for its weight (ties: the group's own ranking);
//! 3. while a move from one server to another lowers Σ load² ÷ weight, the best such move is made, taking copies that were
//!    placed just now before old ones, and groups that changed little before groups that changed more;
//! 4. preferred leaders: the old one stays if it can; then leads are shifted along chains of groups while that lowers
//!    Σ leads² ÷ weight. The sum is convex and chains are all considered, so the result is its minimum.
//!
//! For equal weights the sum is lowest exactly when the numbers differ by at most one; a table whose loads differ by at most
//! one allows leads that differ by at most one (give each member a third of a lead and round the flow).
//! A server that comes takes only its share, a server that goes gives up only what it had.

use std::collections::VecDeque;

use crate::map::{COPIES, PlacedServer};
use crate::rendezvous::{Table, hash};

/// Members of one group as positions in the list of servers; the preferred leader is first.
pub(crate) type Members = Vec<usize>;

/// Places all groups; `before` holds each group's old members that are still servers (of weight > 0), leader first if it is
/// still there (`None` in front otherwise).
pub(crate) fn place(before: Vec<Before>, servers: &[PlacedServer]) -> Vec<Members> {
    let mut placing = Placing::new(before, servers);
    placing.fill();
    placing.balance();
    placing.lead();
    placing.balance_leads();
    placing.finish()
}

/// What a group had.
#[derive(Debug, Clone, Default)]
pub(crate) struct Before {
    /// Members that remain.
    pub members: Vec<usize>,
    /// The preferred leader, if it remains.
    pub leader: Option<usize>,
}

struct Placing<'a> {
    servers: &'a [PlacedServer],
    copies: usize,
    before: Vec<Before>,
    members: Vec<Vec<usize>>,
    load: Vec<u64>,
    leader: Vec<usize>,
    leads: Vec<u64>,
}

impl<'a> Placing<'a> {
    fn new(before: Vec<Before>, servers: &'a [PlacedServer]) -> Self {
        let mut load = vec![0; servers.len()];
        for &server in before.iter().flat_map(|group| &group.members) {
            load[server] += 1;
        }
        Placing {
            servers,
            copies: COPIES.min(servers.iter().filter(|server| server.weight > 0).count()),
            members: before.iter().map(|group| group.members.clone()).collect(),
            leader: Vec::new(),
            leads: vec![0; servers.len()],
            before,
            load,
        }
    }

    fn usable(&self) -> impl Iterator<Item = usize> + use<'a> {
        let servers = self.servers;
        (0..servers.len()).filter(|&at| servers[at].weight > 0)
    }

    /// Order of servers by what one more unit would cost: `(2 load + 1) ÷ weight`.
    fn cheaper(&self, load: &[u64], a: usize, b: usize) -> std::cmp::Ordering {
        let cost =
            |of: usize, other: usize| (2 * load[of] + 1) * u64::from(self.servers[other].weight);
        cost(a, b).cmp(&cost(b, a))
    }

    /// Whether moving one unit lowers the sum of load² ÷ weight.
    fn improves(&self, load: &[u64], from: usize, to: usize) -> bool {
        load[from] > 0
            && (2 * load[from] - 1) * u64::from(self.servers[to].weight)
                > (2 * load[to] + 1) * u64::from(self.servers[from].weight)
    }

    fn affinity(&self, group: usize, server: usize) -> u64 {
        hash(Table::Groups, group as u32, self.servers[server].node)
    }

    fn fill(&mut self) {
        for group in 0..self.members.len() {
            while self.members[group].len() < self.copies {
                let best = self
                    .usable()
                    .filter(|server| !self.members[group].contains(server))
                    .min_by(|&a, &b| {
                        let ties = || self.affinity(group, b).cmp(&self.affinity(group, a));
                        self.cheaper(&self.load, a, b).then_with(ties)
                    })
                    .expect("a group has no more copies than there are servers");
                self.members[group].push(best);
                self.load[best] += 1;
            }
        }
    }

    fn balance(&mut self) {
        while let Some((group, from, to)) = self.best_move() {
            self.members[group].retain(|&server| server != from);
            self.members[group].push(to);
            self.load[from] -= 1;
            self.load[to] += 1;
        }
    }

    /// A move that lowers the sum: from the fullest server to the emptiest that can take it.
    fn best_move(&self) -> Option<(usize, usize, usize)> {
        let mut order: Vec<usize> = self.usable().collect();
        order.sort_by(|&a, &b| self.cheaper(&self.load, a, b).then(a.cmp(&b)));
        for &from in order.iter().rev() {
            for &to in order.iter().take_while(|&&to| to != from) {
                if self.improves(&self.load, from, to)
                    && let Some(group) = self.group_to_move(from, to)
                {
                    return Some((group, from, to));
                }
            }
        }
        None
    }

    fn group_to_move(&self, from: usize, to: usize) -> Option<usize> {
        (0..self.members.len())
            .filter(|&group| {
                self.members[group].contains(&from) && !self.members[group].contains(&to)
            })
            .min_by_key(|&group| {
                let was_there = self.before[group].members.contains(&from);
                (
                    was_there,
                    self.changed(group),
                    u64::MAX - self.affinity(group, to),
                    group,
                )
            })
    }

    fn changed(&self, group: usize) -> usize {
        self.members[group]
            .iter()
            .filter(|server| !self.before[group].members.contains(server))
            .count()
    }

    fn lead(&mut self) {
        for group in 0..self.members.len() {
            if let Some(old) = self.before[group]
                .leader
                .filter(|old| self.members[group].contains(old))
            {
                self.leads[old] += 1;
            }
        }
        for group in 0..self.members.len() {
            let old = self.before[group]
                .leader
                .filter(|old| self.members[group].contains(old));
            let leader = old.unwrap_or_else(|| {
                let members = self.members[group].iter().copied();
                let best = members.min_by(|&a, &b| self.cheaper(&self.leads, a, b).then(a.cmp(&b)));
                let best = best.expect("a group has members");
                self.leads[best] += 1;
                best
            });
            self.leader.push(leader);
        }
    }

    fn balance_leads(&mut self) {
        while let Some(chain) = self.best_chain() {
            for (group, to) in chain {
                let from = std::mem::replace(&mut self.leader[group], to);
                self.leads[from] -= 1;
                self.leads[to] += 1;
            }
        }
    }

    /// Groups to hand on, one after the other, so that one server leads one group fewer and another one more.
    fn best_chain(&self) -> Option<Vec<(usize, usize)>> {
        let mut order: Vec<usize> = self.usable().collect();
        order.sort_by(|&a, &b| self.cheaper(&self.leads, a, b).then(a.cmp(&b)));
        order
            .iter()
            .rev()
            .find_map(|&from| self.chain_from(from, &order))
    }

    fn chain_from(&self, from: usize, order: &[usize]) -> Option<Vec<(usize, usize)>> {
        // How each server was reached: the group that its predecessor would hand to it.
        let mut reached_by: Vec<Option<usize>> = vec![None; self.servers.len()];
        let mut queue = VecDeque::from([from]);
        while let Some(at) = queue.pop_front() {
            for group in (0..self.members.len()).filter(|&group| self.leader[group] == at) {
                for &next in &self.members[group] {
                    if next != from && reached_by[next].is_none() {
                        reached_by[next] = Some(group);
                        queue.push_back(next);
                    }
                }
            }
        }
        let mut to = *order
            .iter()
            .find(|&&to| reached_by[to].is_some() && self.improves(&self.leads, from, to))?;
        let mut chain = Vec::new();
        while to != from {
            let group = reached_by[to]?;
            chain.push((group, to));
            to = self.leader[group];
        }
        Some(chain)
    }

    fn finish(self) -> Vec<Members> {
        let mut members = self.members;
        for (group, leader) in members.iter_mut().zip(&self.leader) {
            group.sort_by_key(|server| (server != leader, *server));
        }
        members
    }
}
