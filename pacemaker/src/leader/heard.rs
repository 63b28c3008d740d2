//! What the leader has heard: the newest report of each role, and nothing that was overtaken.
//!
//! Owns the order of reports (incarnation, then sequence) and the notice that this process itself
//! has been away. Decides nothing.

use std::collections::{BTreeMap, BTreeSet};

use common::assignment::{HeartReport, Load, Report, RouterReport};
use common::id::NodeId;
use common::time::{Span, Timestamp};
use pacemaker_core::sightings::{Sighting, Sightings};

/// Time between two passes from which on this process, not the nodes, has been away: stopped,
/// starved, or its clock was set. Three passes that did not come.
const STALL: Span = Span(1_500);

/// The sightings and what keeps late reports out of them.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) sightings: Sightings,
    /// Hearts that have reported since the last plan.
    pub(super) reported: BTreeSet<NodeId>,
    /// When the last pass of this leader began.
    pub(super) passed: Option<Timestamp>,
    /// The incarnation before the present one: a report of it has been overtaken.
    former_hearts: BTreeMap<NodeId, u64>,
    former_routers: BTreeMap<NodeId, u64>,
}

impl Heard {
    /// Notices that this process has been away: what it did not hear meanwhile is no silence, so
    /// every node has one TTL again, as after an election.
    pub(super) fn begin_pass(&mut self, now: Timestamp) {
        let away = self.passed.map(|before| now.since(before));
        if let Some(away) = away.filter(|away| *away > STALL) {
            tracing::warn!(%away, "this pacemaker was stalled; nodes are given time to report");
            self.sightings.elected = now;
        }
        self.passed = Some(now);
    }

    /// True when the report says something new.
    pub(super) fn take(&mut self, report: Report, now: Timestamp) -> bool {
        let node = report.node;
        let mut is_news = false;
        if let Some(heart) = report.heart {
            let newest = &mut self.sightings.hearts;
            is_news |= keep(newest, &mut self.former_hearts, node, heart, now);
            self.reported.insert(node);
        }
        if let Some(router) = report.router {
            let newest = &mut self.sightings.routers;
            is_news |= keep(newest, &mut self.former_routers, node, router, now);
        }
        is_news
    }
}

/// One role's part of a report.
trait Part {
    fn incarnation(&self) -> u64;
    fn sequence(&self) -> u64;
    /// The part without what changes in every report and decides nothing.
    fn essence(&self) -> Self;
}

impl Part for HeartReport {
    fn incarnation(&self) -> u64 {
        self.incarnation
    }

    fn sequence(&self) -> u64 {
        self.sequence
    }

    fn essence(&self) -> Self {
        Self {
            sequence: 0,
            load: Load::default(),
            ..self.clone()
        }
    }
}

impl Part for RouterReport {
    fn incarnation(&self) -> u64 {
        self.incarnation
    }

    fn sequence(&self) -> u64 {
        self.sequence
    }

    fn essence(&self) -> Self {
        Self {
            sequence: 0,
            ..self.clone()
        }
    }
}

fn keep<P: Part + PartialEq>(
    newest: &mut BTreeMap<NodeId, Sighting<P>>,
    former: &mut BTreeMap<NodeId, u64>,
    node: NodeId,
    report: P,
    at: Timestamp,
) -> bool {
    let mut is_news = true;
    if let Some(before) = newest.get(&node) {
        let before = &before.report;
        if before.incarnation() == report.incarnation() {
            if report.sequence() <= before.sequence() {
                return false;
            }
            is_news = before.essence() != report.essence();
        } else if former.get(&node) == Some(&report.incarnation()) {
            return false;
        } else {
            former.insert(node, before.incarnation());
        }
    }
    newest.insert(node, Sighting { at, report });
    is_news
}

#[cfg(test)]
mod tests {
    use common::id::Generation;

    use super::*;

    #[test]
    fn only_news_make_a_pass_due_and_late_reports_are_ignored() {
        let mut heard = Heard::default();
        let mut take = |incarnation, sequence, routes| {
            let report = Report {
                cluster: String::new(),
                node: NodeId(1),
                heart: None,
                router: Some(RouterReport {
                    incarnation,
                    sequence,
                    routes: Generation(routes),
                    ..RouterReport::default()
                }),
            };
            let is_news = heard.take(report, Timestamp(sequence));
            let kept = &heard.sightings.routers[&NodeId(1)];
            (is_news, kept.report.routes.0, kept.at.0)
        };

        assert_eq!(take(7, 1, 5), (true, 5, 1), "the first report");
        assert_eq!(take(7, 2, 5), (false, 5, 2), "nothing new");
        assert_eq!(take(7, 4, 6), (true, 6, 4), "an acknowledgement");
        assert_eq!(take(7, 3, 5), (false, 6, 4), "overtaken");
        assert_eq!(take(8, 1, 0), (true, 0, 1), "the router has restarted");
        assert_eq!(take(7, 9, 6), (false, 0, 1), "from before the restart");
    }

    #[test]
    fn nodes_are_not_blamed_for_what_a_stalled_leader_did_not_hear() {
        let mut heard = Heard::default();
        heard.sightings.elected = Timestamp(1_000);

        heard.begin_pass(Timestamp(20_000));
        heard.begin_pass(Timestamp(20_500));
        heard.begin_pass(Timestamp(22_000));
        assert_eq!(heard.sightings.elected, Timestamp(1_000));

        heard.begin_pass(Timestamp(27_000));
        assert_eq!(heard.sightings.elected, Timestamp(27_000));
    }
}
