//! Which pacemakers there are, and which one answered last.

use std::sync::Arc;

use tokio::sync::watch;

use crate::error::Error;
use crate::transport::configuration;

/// More than the largest group of pacemakers, for clusters that move.
const ENDPOINTS_MAX: usize = 16;

/// The endpoints; shared by all clones of a client.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    known: Arc<watch::Sender<Known>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    endpoints: Arc<[String]>,
    /// The one that answered last.
    preferred: usize,
}

/// One endpoint to ask.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    pub(crate) endpoint: String,
    /// Which one was preferred when the round began.
    preferred: String,
}

impl Route {
    pub(crate) fn new(endpoints: &[String]) -> Result<Self, Error> {
        let known = Known {
            endpoints: checked(endpoints)?,
            preferred: 0,
        };
        Ok(Self {
            known: Arc::new(watch::Sender::new(known)),
        })
    }

    /// Knows these from now on, and keeps to the one that answered last if it is among them.
    pub(crate) fn replace(&self, endpoints: &[String]) {
        let (good, bad): (Vec<_>, Vec<_>) = endpoints
            .iter()
            .cloned()
            .partition(|endpoint| reqwest::Url::parse(endpoint).is_ok());
        if !bad.is_empty() {
            tracing::warn!(?bad, "pacemakers are left out whose addresses are no URLs");
        }
        let Ok(endpoints) = checked(&good) else {
            return;
        };
        self.known.send_if_modified(|known| {
            let kept = known.preferred();
            let preferred = endpoints.iter().position(|endpoint| *endpoint == kept);
            let newer = Known {
                preferred: preferred.unwrap_or(0),
                endpoints,
            };
            let is_other = newer != *known;
            *known = newer;
            is_other
        });
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.known.borrow().endpoints.to_vec()
    }

    pub(crate) fn is_several(&self) -> bool {
        self.known.borrow().endpoints.len() > 1
    }

    /// All endpoints, beginning with the one that answered last.
    pub(crate) fn stops(&self) -> Vec<Stop> {
        let known = self.known.borrow();
        let preferred = known.preferred();
        let (before, from) = known.endpoints.split_at(known.preferred);
        from.iter()
            .chain(before)
            .map(|endpoint| Stop {
                endpoint: endpoint.clone(),
                preferred: preferred.clone(),
            })
            .collect()
    }

    /// Prefers an endpoint that has answered, unless another request has moved on meanwhile.
    pub(crate) fn keep_to(&self, stop: &Stop) {
        if stop.endpoint == stop.preferred {
            return;
        }
        self.known.send_if_modified(|known| {
            let place = |wanted: &String| known.endpoints.iter().position(|e| e == wanted);
            let Some(found) = place(&stop.endpoint) else {
                return false;
            };
            let is_unmoved = known.preferred() == stop.preferred;
            if is_unmoved {
                known.preferred = found;
            }
            is_unmoved
        });
    }

    /// Tells when another endpoint is preferred than now.
    pub(crate) fn moves(&self) -> Moves {
        let known = self.known.subscribe();
        let preferred = known.borrow().preferred();
        Moves { known, preferred }
    }
}

impl Known {
    fn preferred(&self) -> String {
        self.endpoints
            .get(self.preferred)
            .cloned()
            .unwrap_or_default()
    }
}

/// Waits for another preferred endpoint.
#[derive(Debug)]
pub(crate) struct Moves {
    known: watch::Receiver<Known>,
    preferred: String,
}

impl Moves {
    /// Resolves when other requests have moved on to another endpoint.
    pub(crate) async fn moved(&mut self) {
        let preferred = &self.preferred;
        if self
            .known
            .wait_for(|known| known.preferred() != *preferred)
            .await
            .is_err()
        {
            std::future::pending::<()>().await;
        }
    }
}

fn checked(endpoints: &[String]) -> Result<Arc<[String]>, Error> {
    if endpoints.is_empty() {
        return Err(configuration(
            "no endpoint",
            "at least one endpoint is needed",
        ));
    }
    for endpoint in endpoints {
        reqwest::Url::parse(endpoint).map_err(|error| configuration(endpoint, error))?;
    }
    Ok(endpoints
        .iter()
        .take(ENDPOINTS_MAX)
        .map(|endpoint| endpoint.trim_end_matches('/').to_owned())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(names: &[&str]) -> Route {
        let endpoints: Vec<String> = names.iter().map(|name| format!("http://{name}")).collect();
        Route::new(&endpoints).unwrap()
    }

    fn order(route: &Route) -> String {
        let stops = route.stops();
        stops
            .iter()
            .map(|stop| stop.endpoint.trim_start_matches("http://"))
            .collect()
    }

    #[test]
    fn the_one_that_answered_last_is_asked_first() {
        let route = route(&["a", "b", "c"]);
        let stops = route.stops();

        route.keep_to(&stops[1]);
        assert_eq!(order(&route), "bca");
        route.keep_to(&stops[2]);
        assert_eq!(order(&route), "bca", "another request had moved on");

        route.replace(&["http://d", "http://b", "no URL"].map(str::to_owned));
        assert_eq!(order(&route), "bd");
        route.replace(&["http://e".to_owned()]);
        route.replace(&[]);
        assert_eq!(order(&route), "e");
    }

    #[tokio::test]
    async fn a_move_is_told() {
        let route = route(&["a", "b"]);
        let mut moves = route.moves();
        let stops = route.stops();

        route.keep_to(&stops[0]);
        let early = std::time::Duration::from_millis(1);
        assert!(tokio::time::timeout(early, moves.moved()).await.is_err());
        route.keep_to(&stops[1]);

        moves.moved().await;
    }
}
