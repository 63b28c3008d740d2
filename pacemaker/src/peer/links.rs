//! The links to all peers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::mpsc;

use super::connect::Credentials;
use super::link::{Link, Place, WeakLink};
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
    links: Mutex<Links>,
    refusals: Refusals,
}

#[derive(Debug, Default)]
struct Links {
    /// Every link that someone has, so that all of them can be moved. It holds none itself: a link
    /// that it gave up while openraft has it would stay at an address that its peer has left.
    all: BTreeMap<(u64, Lane), WeakLink>,
    /// The quick links to the members of the group.
    kept: Vec<Link>,
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
        self.link_of(&mut self.links(), member, place, lane)
    }

    /// The quick link to a peer that is known.
    pub(crate) fn quick(&self, member: u64) -> Option<Link> {
        self.links().all.get(&(member, Lane::Quick))?.upgrade()
    }

    /// Keeps a quick link to each of these, and moves all links to where their peers are.
    pub(crate) fn keep(&self, members: &BTreeMap<u64, Place>) {
        let own = self.shared.credentials.member;
        let mut links = self.links();
        let kept = members
            .iter()
            .filter(|(member, _)| **member != own)
            .map(|(member, place)| self.link_of(&mut links, *member, place, Lane::Quick))
            .collect();
        links.kept = kept;
        links.all.retain(|(member, _), link| {
            let Some(link) = link.upgrade() else {
                return false;
            };
            if let Some(place) = members.get(member) {
                link.move_to(place.clone());
            }
            true
        });
    }

    fn link_of(&self, links: &mut Links, member: u64, place: &Place, lane: Lane) -> Link {
        let known = links.all.get(&(member, lane)).and_then(WeakLink::upgrade);
        if let Some(link) = known {
            link.move_to(place.clone());
            return link;
        }
        let link = Link::start(
            self.shared.credentials.clone(),
            member,
            place.clone(),
            lane,
            self.shared.events.clone(),
        );
        links.all.insert((member, lane), link.downgrade());
        link
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        self.shared
            .links
            .lock()
            .expect("no one panics while holding the links")
    }
}

#[cfg(test)]
mod tests;
