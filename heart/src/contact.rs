//! When a pacemaker was last heard, and what that means for exclusive instances.
//!
//! Counted from when a request was *sent*: the pacemaker cannot have received it earlier, so its own
//! count of the node's TTL began later than ours, and ours ends first. The same end is the lease of
//! the shims (`shim::lease`), who keep to it when this heart cannot.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::id::NodeId;
use common::time::Span;
use pacemaker_client::Client;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Moment};
use crate::crash_point::Crash;
use crate::directories::Directories;
use crate::local::Fence;

/// The pause of both tasks once the cluster has removed this node: it has nothing to say any more.
pub(crate) const REMOVED_PAUSE: Duration = Duration::from_secs(60);

/// What the two tasks that talk to pacemakers need.
#[derive(Clone, Debug)]
pub(crate) struct Talking {
    pub(crate) node: NodeId,
    /// The id of the cluster; empty: that of the assignment held.
    pub(crate) cluster: String,
    pub(crate) client: Client,
    pub(crate) directories: Directories,
    pub(crate) contact: Arc<Contact>,
    pub(crate) clock: Clock,
    pub(crate) crash: Crash,
    pub(crate) shutdown: CancellationToken,
}

/// What the tasks that talk to pacemakers tell the loop.
#[derive(Debug)]
pub(crate) struct Contact {
    known: Mutex<Known>,
    /// Wakes the loop when something is heard while the fence is not open.
    pub(crate) heard_again: Notify,
    /// Asks for the assignment anew, without waiting for a newer one.
    pub(crate) confirm: Notify,
}

/// Under one lock, so that what is heard just after a judgement is not missed.
#[derive(Debug, Default)]
struct Known {
    heard: Heard,
    /// The fence as it was judged last.
    fence: Fence,
    /// True once the cluster has removed this node.
    is_removed: bool,
}

/// When a pacemaker was heard.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Heard {
    /// One TTL after the last report that was acknowledged was sent, by this heart or an earlier one.
    pub(crate) until: Moment,
    /// When that of this heart was sent; its start when there is none.
    pub(crate) acknowledged: Moment,
    /// When the last question for the assignment that was answered was sent.
    pub(crate) confirmed: Option<Moment>,
}

impl Contact {
    /// The contact of a heart that begins; an earlier one was heard `until` then.
    pub(crate) fn new(until: Moment) -> Self {
        let heard = Heard {
            until,
            ..Heard::default()
        };
        Self {
            known: Mutex::new(Known {
                heard,
                ..Known::default()
            }),
            heard_again: Notify::new(),
            confirm: Notify::new(),
        }
    }

    /// A report that was sent then has been acknowledged, which counts for one TTL.
    pub(crate) fn note_acknowledged(&self, sent: Moment, ttl: Span) {
        self.change(|heard| {
            heard.acknowledged = heard.acknowledged.max(sent);
            heard.until = heard.until.max(sent.after(ttl));
        });
    }

    /// A question for the assignment that was sent at `sent` has been answered.
    pub(crate) fn note_confirmed(&self, sent: Moment) {
        self.change(|heard| heard.confirmed = heard.confirmed.max(Some(sent)));
    }

    /// Whether the cluster has removed this node, as far as is known.
    pub(crate) fn note_removed(&self, is_removed: bool) {
        self.known().is_removed = is_removed;
    }

    /// True while the cluster is known to have removed this node: there is no hurry to ask it anything.
    pub(crate) fn is_removed(&self) -> bool {
        self.known().is_removed
    }

    /// How long ago the last report that was acknowledged was sent.
    pub(crate) fn silence(&self, now: Moment) -> Span {
        now.since(self.heard().acknowledged)
    }

    /// What has been heard so far.
    pub(crate) fn heard(&self) -> Heard {
        self.known().heard
    }

    /// The fence at `now`, by this rule.
    pub(crate) fn judge(&self, rule: &mut FenceRule, now: Moment) -> Fence {
        let mut known = self.known();
        known.fence = rule.judge(known.heard, now);
        known.fence
    }

    fn change(&self, change: impl FnOnce(&mut Heard)) {
        let mut known = self.known();
        change(&mut known.heard);
        if known.fence != Fence::Open {
            self.heard_again.notify_one();
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // The lock guards single assignments; a panic elsewhere leaves them whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The node's TTL: what the cluster says, or else what this heart was told.
pub(crate) fn node_ttl(said: Span, told: Span) -> Span {
    if said == Span(0) { told } else { said }
}

/// Decides whether exclusive instances may run: pure, told the time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FenceRule {
    /// False: they always may.
    is_needed: bool,
    fence: Fence,
    /// When the node was last known to be cut off (or began).
    lost_at: Moment,
}

impl FenceRule {
    /// The rule of a node; not needed when nobody else could start its instances.
    pub(crate) fn new(is_needed: bool) -> Self {
        let fence = if is_needed {
            Fence::Unconfirmed
        } else {
            Fence::Open
        };
        Self {
            is_needed,
            fence,
            lost_at: Moment(0),
        }
    }

    /// The fence at `now`.
    pub(crate) fn judge(&mut self, heard: Heard, now: Moment) -> Fence {
        if !self.is_needed {
            return Fence::Open;
        }
        self.fence = if now > heard.until {
            self.lost_at = now;
            Fence::Closed
        } else if self.fence == Fence::Open || heard.confirmed.is_some_and(|at| at >= self.lost_at)
        {
            Fence::Open
        } else {
            Fence::Unconfirmed
        };
        self.fence
    }

    /// When the fence closes unless something is heard.
    pub(crate) fn deadline(&self, heard: Heard) -> Option<Moment> {
        match self.fence {
            _ if !self.is_needed => None,
            Fence::Closed => None,
            Fence::Open | Fence::Unconfirmed => Some(heard.until.after(Span(1))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is known of a node with a TTL of three seconds.
    fn heard(acknowledged: u64, confirmed: Option<u64>) -> Heard {
        Heard {
            until: Moment(acknowledged + 3000),
            acknowledged: Moment(acknowledged),
            confirmed: confirmed.map(Moment),
        }
    }

    #[test]
    fn a_node_that_is_cut_off_for_the_ttl_closes_and_opens_only_when_confirmed() {
        let mut rule = FenceRule::new(true);

        assert_eq!(rule.judge(heard(0, None), Moment(10)), Fence::Unconfirmed);
        assert_eq!(rule.judge(heard(0, Some(5)), Moment(20)), Fence::Open);
        assert_eq!(rule.judge(heard(0, Some(5)), Moment(3000)), Fence::Open);
        assert_eq!(rule.judge(heard(0, Some(5)), Moment(3001)), Fence::Closed);

        // Heard again, but the assignment may be an old one.
        let again = heard(3900, Some(5));
        assert_eq!(rule.judge(again, Moment(4000)), Fence::Unconfirmed);
        let confirmed = heard(3900, Some(4000));
        assert_eq!(rule.judge(confirmed, Moment(4001)), Fence::Open);
    }

    #[test]
    fn the_deadline_is_the_first_moment_of_a_closed_fence() {
        let mut rule = FenceRule::new(true);
        let heard = heard(100, Some(100));
        assert_eq!(rule.judge(heard, Moment(200)), Fence::Open);

        let deadline = rule.deadline(heard).unwrap();

        assert_eq!(rule.judge(heard, Moment(deadline.0 - 1)), Fence::Open);
        assert_eq!(rule.judge(heard, deadline), Fence::Closed);
    }

    #[test]
    fn a_node_that_nobody_could_replace_is_never_fenced() {
        let mut rule = FenceRule::new(false);

        assert_eq!(rule.judge(Heard::default(), Moment(u64::MAX)), Fence::Open);
        assert_eq!(rule.deadline(Heard::default()), None);
    }

    #[tokio::test]
    async fn what_is_heard_wakes_the_loop_only_while_the_fence_is_not_open() {
        let contact = Contact::new(Moment(3000));
        let mut rule = FenceRule::new(true);
        let is_woken = async || {
            let woken = contact.heard_again.notified();
            tokio::time::timeout(Duration::ZERO, woken).await.is_ok()
        };

        assert_eq!(contact.judge(&mut rule, Moment(4000)), Fence::Closed);
        contact.note_acknowledged(Moment(4100), Span(3000));
        assert!(is_woken().await);

        assert_eq!(contact.judge(&mut rule, Moment(4200)), Fence::Unconfirmed);
        contact.note_confirmed(Moment(4300));
        assert!(is_woken().await);

        assert_eq!(contact.judge(&mut rule, Moment(4400)), Fence::Open);
        contact.note_acknowledged(Moment(4500), Span(3000));
        assert!(!is_woken().await);
    }
}
