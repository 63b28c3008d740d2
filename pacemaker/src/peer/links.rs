//! The links to all peers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::mpsc;

use super::connect::Credentials;
use super::link::{Link, Place};
use super::refusals::Refusals;

/// What a link is for; what is large never stands before what must be quick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    /// Votes, heartbeats, forwarded requests.
    Quick,
    /// Entries and snapshots.
    Large,
}

/// What links notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A connection was made.
    Up(u64),
    /// A connection ended and nobody listens at the address any more: the process has ended.
    Gone(u64),
    /// A peer says that this pacemaker was taken out of the group.
    Removed,
}

/// The links to all peers; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    credentials: Credentials,
    events: mpsc::UnboundedSender<Event>,
    links: Mutex<BTreeMap<(u64, Lane), Link>>,
    refusals: Refusals,
}

impl Peers {
    /// No links yet; what they will notice comes out of the receiver.
    pub(crate) fn new(credentials: Credentials) -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (events, noticed) = mpsc::unbounded_channel();
        let shared = Shared {
            credentials,
            events,
            links: Mutex::default(),
            refusals: Refusals::default(),
        };
        let peers = Self {
            shared: Arc::new(shared),
        };
        (peers, noticed)
    }

    /// Who this pacemaker is among them.
    pub(crate) fn credentials(&self) -> &Credentials {
        &self.shared.credentials
    }

    /// What has been said of those that were refused here.
    pub(crate) fn refusals(&self) -> &Refusals {
        &self.shared.refusals
    }

    /// The link to a peer, made when there is none.
    pub(crate) fn link(&self, member: u64, place: &Place, lane: Lane) -> Link {
        let mut links = self.links();
        let link = links.entry((member, lane)).or_insert_with(|| {
            Link::start(
                self.shared.credentials.clone(),
                member,
                place.clone(),
                lane,
                self.shared.events.clone(),
            )
        });
        link.move_to(place.clone());
        link.clone()
    }

    /// The quick link to a peer that is known.
    pub(crate) fn quick(&self, member: u64) -> Option<Link> {
        self.links().get(&(member, Lane::Quick)).cloned()
    }

    /// Keeps a quick link to each of these, and none to others.
    pub(crate) fn keep(&self, members: &BTreeMap<u64, Place>) {
        let own = self.shared.credentials.member;
        self.links()
            .retain(|(member, _), _| members.contains_key(member));
        for (member, place) in members {
            if *member != own {
                self.link(*member, place, Lane::Quick);
            }
            if let Some(link) = self.links().get(&(*member, Lane::Large)) {
                link.move_to(place.clone());
            }
        }
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<(u64, Lane), Link>> {
        self.shared
            .links
            .lock()
            .expect("no one panics while holding the links")
    }
}
