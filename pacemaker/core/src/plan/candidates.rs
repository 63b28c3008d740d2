//! Which node is the best for one more instance of a type.
//!
//! A node must suit: it offers the runtime, has every tag and stands in the zone that `placement`
//! asks for, is heard of and not being drained, and no instance of the type keeps crashing there.
//! Of those that suit, the best is the one, in this order,
//!
//! 1. whose zone has the fewest of the type, where the manifest says `spread: zone`;
//! 2. that has the fewest of the type itself;
//! 3. whose zone has the fewest of the type;
//! 4. that has more memory free, then more processor, in eighths of what the machine has; what is
//!    placed and does not run yet counts as if it did; a machine that has not said counts as half free;
//! 5. that has the fewest instances of all types;
//! 6. that joined first, so that the choice is the same everywhere.
//!
//! Nodes are kept in the order of 4 to 6 for each kind of request and zone, so a choice costs a
//! few steps however many nodes there are.

use std::collections::{BTreeMap, BTreeSet};

use common::application::InstanceTypeSpec;
use common::assignment::Load;
use common::id::NodeId;
use common::time::Timestamp;

use crate::offers::suits;
use crate::sightings::Sightings;
use crate::state::State;

/// What an instance that does not run yet is thought to need, until its node's report tells.
const ASSUMED_MEMORY_BYTES: u64 = 128 << 20;
/// The same in thousandths of a core.
const ASSUMED_CPU_MILLI: u64 = 100;
/// Memory and processor are compared in this many steps, so that noise does not decide.
const STEPS: u64 = 8;
/// Of a machine that has not told its load.
const UNKNOWN_STEP: u64 = STEPS / 2;
/// Kinds of requests that are remembered at once: more than the combinations of runtimes, tags and
/// zones that are in use at a time.
const REQUESTS_MAX: usize = 64;

/// What speaks against a node, whatever is to be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Burden {
    memory: u64,
    cpu: u64,
    instances: usize,
}

impl Burden {
    fn of(load: Load, starting: u64, instances: usize) -> Self {
        let assumed = starting.saturating_mul(ASSUMED_MEMORY_BYTES);
        let used = load
            .memory_total
            .saturating_sub(load.memory_available)
            .saturating_add(assumed);
        let busy = load
            .load_milli
            .saturating_add(starting.saturating_mul(ASSUMED_CPU_MILLI));
        Self {
            memory: step(used, load.memory_total),
            cpu: step(busy, u64::from(load.cpus).saturating_mul(1_000)),
            instances,
        }
    }
}

fn step(used: u64, total: u64) -> u64 {
    let steps = used.saturating_mul(STEPS).checked_div(total);
    steps.unwrap_or(UNKNOWN_STEP).min(STEPS)
}

/// What is remembered of a node.
#[derive(Clone, Debug, PartialEq)]
struct Candidate {
    takes_instances: bool,
    registered: Timestamp,
    zone: Zone,
    load: Load,
    starting: u64,
    instances: usize,
}

impl Candidate {
    fn burden(&self) -> Burden {
        Burden::of(self.load, self.starting, self.instances)
    }
}

/// A number for each zone, in the order in which they were met.
type Zone = usize;

/// What a type asks for: runtime, version, tags as JSON, zone.
type Request = (String, String, String, Option<String>);

/// The nodes that suit a request, by zone, the least burdened first.
///
/// A burden may be too small, because it grows while a plan is made; it is corrected when its turn
/// comes. It is never too large.
#[derive(Clone, Debug, Default)]
struct Suited {
    zones: BTreeMap<Zone, BTreeSet<(Burden, NodeId)>>,
    burdens: BTreeMap<NodeId, Burden>,
}

/// What is to be placed.
pub(super) struct Order<'a> {
    pub(super) spec: &'a InstanceTypeSpec,
    /// Where the type's instances are.
    pub(super) present: Vec<NodeId>,
    /// Where they are not tried again.
    pub(super) worn: &'a [NodeId],
    pub(super) count: usize,
}

/// Every node, as far as placing is concerned; empty until something is to be placed.
#[derive(Clone, Debug, Default)]
pub(super) struct Candidates {
    nodes: BTreeMap<NodeId, Candidate>,
    zones: BTreeMap<Option<String>, Zone>,
    suited: BTreeMap<Request, Suited>,
    /// Nodes that the last plan chose, whether or not it was carried out.
    chosen: BTreeSet<NodeId>,
}

impl Candidates {
    /// A node has changed or has reported.
    pub(super) fn notice(&mut self, state: &State, sightings: &Sightings, id: NodeId) {
        if self.nodes.is_empty() {
            return;
        }
        self.chosen.remove(&id);
        let Some(after) = self.candidate(state, sightings, id) else {
            self.nodes.remove(&id);
            self.suited.clear();
            return;
        };
        let burden = after.burden();
        let before = self.nodes.insert(id, after.clone());
        let suits_as_before = before.is_some_and(|before| {
            (before.takes_instances, before.registered, before.zone)
                == (after.takes_instances, after.registered, after.zone)
        });
        if !suits_as_before {
            self.suited.clear();
        }
        for suited in self.suited.values_mut() {
            suited.relieve(id, after.zone, burden);
        }
    }

    /// What was planned counts only where it has become true.
    pub(super) fn forget_plans(&mut self, state: &State, sightings: &Sightings) {
        if self.nodes.len() != state.nodes.len() {
            *self = Self::default();
        }
        for id in std::mem::take(&mut self.chosen) {
            self.notice(state, sightings, id);
        }
    }

    fn candidate(&mut self, state: &State, sightings: &Sightings, id: NodeId) -> Option<Candidate> {
        let node = state.nodes.get(&id)?;
        let known = self.nodes.get(&id);
        let zone = match known.filter(|known| known.registered == node.registered) {
            Some(known) => known.zone,
            None => {
                let count = self.zones.len();
                let zone = node.node.description.zone.clone();
                *self.zones.entry(zone).or_insert(count)
            }
        };
        let load = sightings
            .hearts
            .get(&id)
            .map(|sighting| sighting.report.load);
        Some(Candidate {
            takes_instances: node.takes_instances(),
            registered: node.registered,
            zone,
            load: load.unwrap_or_default(),
            starting: state.starting_on(node),
            instances: node.instances.len(),
        })
    }

    /// The best node for each instance of an order, one after another; fewer when none suits.
    pub(super) fn choose(
        &mut self,
        state: &State,
        sightings: &Sightings,
        order: &Order<'_>,
    ) -> Vec<NodeId> {
        if self.nodes.is_empty() {
            for id in state.nodes.keys() {
                if let Some(candidate) = self.candidate(state, sightings, *id) {
                    self.nodes.insert(*id, candidate);
                }
            }
        }
        let request = request(order.spec);
        let mut suited = match self.suited.remove(&request) {
            Some(suited) => suited,
            None => self.suited_for(state, order.spec),
        };
        let chosen = self.choose_among(&mut suited, order);
        if self.suited.len() >= REQUESTS_MAX {
            self.suited.clear();
        }
        self.suited.insert(request, suited);
        self.chosen.extend(chosen.iter().copied());
        chosen
    }

    fn suited_for(&self, state: &State, spec: &InstanceTypeSpec) -> Suited {
        let mut suited = Suited::default();
        for (id, candidate) in &self.nodes {
            let node = state.nodes.get(id);
            if candidate.takes_instances
                && node.is_some_and(|node| suits(&node.node.description, spec))
            {
                suited.set(*id, candidate.zone, candidate.burden());
            }
        }
        suited
    }

    /// Keeps the best node of each zone in order: a choice changes only its own zone's.
    fn choose_among(&mut self, suited: &mut Suited, order: &Order<'_>) -> Vec<NodeId> {
        let mut counts = Counts::default();
        for node in &order.present {
            if let Some(candidate) = self.nodes.get(node) {
                counts.add(*node, candidate.zone);
            }
        }
        let is_by_zone = order.spec.placement.spread_zones;
        let zones: Vec<Zone> = suited.zones.keys().copied().collect();
        let mut best: BTreeSet<(Score, Zone)> = BTreeSet::new();
        for zone in zones {
            let found = suited.best(&self.nodes, zone, &counts, order.worn);
            best.extend(found.map(|found| (counts.score(found, zone, is_by_zone), zone)));
        }
        let mut chosen = Vec::with_capacity(order.count);
        while chosen.len() < order.count
            && let Some((score, zone)) = best.pop_first()
        {
            let node = score.node;
            chosen.push(node);
            counts.add(node, zone);
            if let Some(candidate) = self.nodes.get_mut(&node) {
                candidate.starting = candidate.starting.saturating_add(1);
                candidate.instances = candidate.instances.saturating_add(1);
            }
            let found = suited.best(&self.nodes, zone, &counts, order.worn);
            best.extend(found.map(|found| (counts.score(found, zone, is_by_zone), zone)));
        }
        chosen
    }
}

impl Suited {
    fn set(&mut self, node: NodeId, zone: Zone, burden: Burden) {
        let order = self.zones.entry(zone).or_default();
        if let Some(before) = self.burdens.insert(node, burden) {
            order.remove(&(before, node));
        }
        order.insert((burden, node));
    }

    /// A burden that has become smaller must be known at once.
    fn relieve(&mut self, node: NodeId, zone: Zone, burden: Burden) {
        if self.burdens.get(&node).is_some_and(|known| burden < *known) {
            self.set(node, zone, burden);
        }
    }

    /// The best node of a zone: with the fewest of the type, then the least burdened.
    fn best(
        &mut self,
        nodes: &BTreeMap<NodeId, Candidate>,
        zone: Zone,
        counts: &Counts,
        worn: &[NodeId],
    ) -> Option<(usize, Burden, NodeId)> {
        loop {
            let mut best: Option<(usize, Burden, NodeId)> = None;
            let mut outdated = None;
            for (known, node) in self.zones.get(&zone)? {
                let burden = nodes.get(node).map(Candidate::burden)?;
                if burden != *known {
                    outdated = Some((*node, burden));
                    break;
                }
                if worn.contains(node) {
                    continue;
                }
                let candidate = (counts.on(*node), burden, *node);
                let is_best = candidate.0 == 0;
                best = Some(best.map_or(candidate, |best| best.min(candidate)));
                if is_best {
                    break;
                }
            }
            match outdated {
                Some((node, burden)) => self.set(node, zone, burden),
                None => return best,
            }
        }
    }
}

/// How many of the type are where.
#[derive(Debug, Default)]
struct Counts {
    nodes: BTreeMap<NodeId, usize>,
    zones: BTreeMap<Zone, usize>,
}

impl Counts {
    fn add(&mut self, node: NodeId, zone: Zone) {
        let on_node = self.nodes.entry(node).or_default();
        *on_node = on_node.saturating_add(1);
        let in_zone = self.zones.entry(zone).or_default();
        *in_zone = in_zone.saturating_add(1);
    }

    fn on(&self, node: NodeId) -> usize {
        self.nodes.get(&node).copied().unwrap_or_default()
    }

    fn score(
        &self,
        (on_node, burden, node): (usize, Burden, NodeId),
        zone: Zone,
        is_by_zone: bool,
    ) -> Score {
        let in_zone = self.zones.get(&zone).copied().unwrap_or_default();
        Score {
            in_zone_first: if is_by_zone { in_zone } else { 0 },
            on_node,
            in_zone,
            burden,
            node,
        }
    }
}

/// How good a node is for one more instance of a type; the smallest wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    in_zone_first: usize,
    on_node: usize,
    in_zone: usize,
    burden: Burden,
    node: NodeId,
}

fn request(spec: &InstanceTypeSpec) -> Request {
    let tags = if spec.placement.tags.is_empty() {
        String::new()
    } else {
        serde_json::to_string(&spec.placement.tags).unwrap_or_default()
    };
    (
        spec.runtime.plugin.to_string(),
        spec.runtime.version.clone(),
        tags,
        spec.placement.zone.clone(),
    )
}
