//! One request to whichever pacemaker answers.
//!
//! Every request can be sent again without harm: it reads, or it carries an `Idempotency-Key`, an
//! offset, a sequence number or the node's own key. So a pacemaker that cannot be reached, breaks off
//! or cannot answer now (503) is passed over for the next one.

mod http;
mod route;

use std::time::Duration;

use common::api::{IDEMPOTENCY_KEY, Problem, WATCH_SECONDS};
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::error::Error;
use crate::tls::Tls;
use crate::transport::http::Http;
pub(crate) use crate::transport::http::{node_pool, plain_pool};
use crate::transport::route::{Route, Stop};

/// How long an answer may take, beyond what a watch blocks on purpose.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a watch may take in all.
pub(crate) const WATCH_TIMEOUT: Duration = Duration::from_secs(WATCH_SECONDS + 10);
/// How long a report may take when another pacemaker could be asked: three of them are within a
/// node's TTL (3 s), so that one that is paused or cut off does not make its nodes silent.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a question or a change goes on asking while pacemakers say that they cannot answer now:
/// some elections, or the start of a pacemaker.
const SETTLING_PATIENCE: Duration = Duration::from_secs(5);
/// The pause between two rounds, which doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause between two rounds.
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
/// The longest text of an error answer that is not a problem document.
const ERROR_TEXT_MAX_CHARACTERS: usize = 400;

/// Endpoints, credentials and the connection pool; shared by all clones of a client.
#[derive(Clone, Debug)]
pub(crate) struct Transport {
    http: Http,
    route: Route,
    /// Marked as sensitive, so that nothing prints it. None for nodes, who show certificates.
    authorization: Option<HeaderValue>,
}

/// How much is done to get an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Each pacemaker once: whoever asks has a loop of its own.
    OneRound,
    /// Rounds until [`SETTLING_PATIENCE`] has passed, as long as one says that it will answer later.
    UntilSettled,
}

impl Transport {
    /// With a bearer token.
    pub(crate) fn with_token(
        endpoints: &[String],
        token: &str,
        authority: Option<&str>,
    ) -> Result<Self, Error> {
        let route = Route::new(endpoints)?;
        // The error of a token says nothing of what is in it.
        let mut authorization = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|error| configuration("the token", error))?;
        authorization.set_sensitive(true);
        let http = match authority {
            Some(authority) => Http::pinned(authority)?,
            None => Http::plain(endpoints)?,
        };
        Ok(Self {
            http,
            route,
            authorization: Some(authorization),
        })
    }

    /// With the certificate of a node.
    pub(crate) fn with_tls(endpoints: &[String], tls: &Tls) -> Result<Self, Error> {
        Ok(Self {
            route: Route::new(endpoints)?,
            http: Http::of_node(tls)?,
            authorization: None,
        })
    }

    /// With nothing but the knowledge of the authority: to join.
    pub(crate) fn of_stranger(endpoints: &[String], authority: &str) -> Result<Self, Error> {
        Ok(Self {
            route: Route::new(endpoints)?,
            http: Http::pinned(authority)?,
            authorization: None,
        })
    }

    pub(crate) fn set_endpoints(&self, endpoints: &[String]) {
        self.route.replace(endpoints);
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.route.endpoints()
    }

    /// Sends to the endpoint that answered last, then to the others, until one answers.
    ///
    /// `build` is called once for each attempt. The answer may be a refusal, also 503 when all are.
    pub(crate) async fn send(
        &self,
        action: &'static str,
        method: Method,
        path: &str,
        effort: Effort,
        build: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, Error> {
        let until = Instant::now() + SETTLING_PATIENCE;
        let mut pause = FIRST_PAUSE;
        loop {
            let answered = self.round(action, &method, path, &build).await;
            let is_settling = match &answered {
                Ok(response) => response.status() == StatusCode::SERVICE_UNAVAILABLE,
                // One that is alone and away may stay away; of several, another will lead.
                Err(_) => self.route.is_several(),
            };
            let is_over = effort == Effort::OneRound || Instant::now() + pause > until;
            if !is_settling || is_over {
                return answered;
            }
            tokio::time::sleep_until(Instant::now() + pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Asks each endpoint once at most.
    async fn round(
        &self,
        action: &'static str,
        method: &Method,
        path: &str,
        build: &impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, Error> {
        let http = self.http.current()?;
        let mut busy = None;
        let mut unknown = None;
        let mut failed = None;
        for stop in self.route.stops() {
            match self.ask(&http, &stop, action, method, path, build).await {
                Ok(response) if response.status() == StatusCode::SERVICE_UNAVAILABLE => {
                    busy = Some(response);
                }
                // Whom one pacemaker does not know, another may: its clock or its state may be wrong.
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED => {
                    unknown = Some(response);
                }
                Ok(response) => {
                    self.route.keep_to(&stop);
                    return Ok(response);
                }
                Err(error) => failed = Some(error),
            }
        }
        match (unknown.or(busy), failed) {
            (Some(response), _) => Ok(response),
            (None, Some(error)) => Err(error),
            (None, None) => unreachable!("a route has at least one endpoint"),
        }
    }

    async fn ask(
        &self,
        http: &reqwest::Client,
        stop: &Stop,
        action: &'static str,
        method: &Method,
        path: &str,
        build: &impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, Error> {
        let endpoint = &stop.endpoint;
        let mut request = http.request(method.clone(), format!("{endpoint}{path}"));
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        build(request)
            .send()
            .await
            .map_err(|source| Error::Unreachable {
                endpoint: endpoint.clone(),
                action,
                source,
            })
    }

    /// GET of a JSON document.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        action: &'static str,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<T, Error> {
        let effort = Effort::UntilSettled;
        let response = self
            .send(action, Method::GET, path, effort, |request| {
                request.query(query).timeout(ANSWER_TIMEOUT)
            })
            .await?;
        read_json(action, accept(action, response).await?).await
    }

    /// GET that blocks until there is something newer; `None` when there was not.
    ///
    /// When other requests move on to another pacemaker meanwhile, it is asked there anew: the one
    /// that it waits for may be cut off or paused.
    pub(crate) async fn watch<T: DeserializeOwned>(
        &self,
        action: &'static str,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Option<T>, Error> {
        loop {
            let mut moves = self.route.moves();
            let answer = self.watch_once(action, path, query);
            tokio::select! {
                answer = answer => return answer,
                () = moves.moved() => {}
            }
        }
    }

    async fn watch_once<T: DeserializeOwned>(
        &self,
        action: &'static str,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Option<T>, Error> {
        let effort = Effort::OneRound;
        let response = self
            .send(action, Method::GET, path, effort, |request| {
                request.query(query).timeout(WATCH_TIMEOUT)
            })
            .await?;
        let response = accept(action, response).await?;
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        read_json(action, response).await.map(Some)
    }

    /// A JSON body that changes something; `key` makes repeating it harmless.
    pub(crate) async fn change(
        &self,
        action: &'static str,
        method: Method,
        path: &str,
        body: &(impl Serialize + Sync),
        key: Option<&str>,
    ) -> Result<Response, Error> {
        let effort = Effort::UntilSettled;
        let response = self
            .send(action, method, path, effort, |request| {
                let request = request.json(body).timeout(ANSWER_TIMEOUT);
                match key {
                    Some(key) => request.header(IDEMPOTENCY_KEY, key),
                    None => request,
                }
            })
            .await?;
        accept(action, response).await
    }

    /// A JSON body that is soon followed by a newer one.
    pub(crate) async fn report(
        &self,
        action: &'static str,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<(), Error> {
        let effort = Effort::OneRound;
        let patience = if self.route.is_several() {
            REPORT_TIMEOUT
        } else {
            ANSWER_TIMEOUT
        };
        let response = self
            .send(action, Method::POST, path, effort, |request| {
                request.json(body).timeout(patience)
            })
            .await?;
        accept(action, response).await.map(|_| ())
    }
}

/// Turns an answer that is not a success into an error.
pub(crate) async fn accept(action: &'static str, response: Response) -> Result<Response, Error> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let text = response
        .text()
        .await
        .map_err(|source| Error::Answer { action, source })?;
    let problem = serde_json::from_str::<Problem>(&text).unwrap_or_else(|_| Problem {
        status: status.as_u16(),
        code: "unexpected_answer".to_owned(),
        title: format!("The answer was {status}."),
        detail: text.chars().take(ERROR_TEXT_MAX_CHARACTERS).collect(),
        faults: Vec::new(),
    });
    Err(Error::Refused {
        action,
        problem: Box::new(problem),
    })
}

/// Reads a JSON answer.
pub(crate) async fn read_json<T: DeserializeOwned>(
    action: &'static str,
    response: Response,
) -> Result<T, Error> {
    response
        .json()
        .await
        .map_err(|source| Error::Answer { action, source })
}

fn configuration(what: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Configuration {
        endpoint: what.to_owned(),
        source: source.into(),
    }
}

#[cfg(test)]
mod tests;
