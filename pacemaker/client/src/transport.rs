//! One request to whichever pacemaker answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::api::{IDEMPOTENCY_KEY, Problem, WATCH_SECONDS};
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;

/// How long a connection may take; nodes of one cluster are near each other.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an answer may take, beyond what a watch blocks on purpose.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a watch may take in all.
pub(crate) const WATCH_TIMEOUT: Duration = Duration::from_secs(WATCH_SECONDS + 10);
/// The longest text of an error answer that is not a problem document.
const ERROR_TEXT_MAX_CHARACTERS: usize = 400;

/// Endpoints, credentials and the connection pool; shared by all clones of a client.
#[derive(Clone, Debug)]
pub(crate) struct Transport {
    http: reqwest::Client,
    endpoints: Arc<[String]>,
    /// The endpoint that answered last.
    preferred: Arc<AtomicUsize>,
    /// Marked as sensitive, so that nothing prints it.
    authorization: HeaderValue,
}

impl Transport {
    pub(crate) fn new(endpoints: &[String], token: &str) -> Result<Self, Error> {
        let configuration = |endpoint: &str, source: Box<dyn std::error::Error + Send + Sync>| {
            Error::Configuration {
                endpoint: endpoint.to_owned(),
                source,
            }
        };
        if endpoints.is_empty() {
            return Err(configuration(
                "no endpoint",
                "at least one endpoint is needed".into(),
            ));
        }
        for endpoint in endpoints {
            reqwest::Url::parse(endpoint).map_err(|error| configuration(endpoint, error.into()))?;
        }
        // The error of a token says nothing of what is in it.
        let mut authorization = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|error| configuration("the token", error.into()))?;
        authorization.set_sensitive(true);
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true)
            .build()
            .map_err(|error| configuration("the HTTP client", error.into()))?;
        let endpoints: Vec<String> = endpoints
            .iter()
            .map(|endpoint| endpoint.trim_end_matches('/').to_owned())
            .collect();
        Ok(Self {
            http,
            endpoints: endpoints.into(),
            preferred: Arc::default(),
            authorization,
        })
    }

    /// Sends to the endpoint that answered last, then to the others, until one can be reached.
    ///
    /// `build` may be called once for each endpoint.
    pub(crate) async fn send(
        &self,
        action: &'static str,
        method: Method,
        path: &str,
        build: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, Error> {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut attempt = 0;
        loop {
            let index = (first + attempt) % self.endpoints.len();
            let endpoint = &self.endpoints[index];
            let request = self
                .http
                .request(method.clone(), format!("{endpoint}{path}"))
                .header(AUTHORIZATION, &self.authorization);
            match build(request).send().await {
                Ok(response) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(response);
                }
                Err(source) => {
                    attempt += 1;
                    if attempt >= self.endpoints.len() {
                        return Err(Error::Unreachable {
                            endpoint: endpoint.clone(),
                            action,
                            source,
                        });
                    }
                }
            }
        }
    }

    /// GET of a JSON document.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        action: &'static str,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<T, Error> {
        let response = self
            .send(action, Method::GET, path, |request| {
                request.query(query).timeout(ANSWER_TIMEOUT)
            })
            .await?;
        read_json(action, accept(action, response).await?).await
    }

    /// GET that blocks until there is something newer; `None` when there was not.
    pub(crate) async fn watch<T: DeserializeOwned>(
        &self,
        action: &'static str,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Option<T>, Error> {
        let response = self
            .send(action, Method::GET, path, |request| {
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
        let response = self
            .send(action, method, path, |request| {
                let request = request.json(body).timeout(ANSWER_TIMEOUT);
                match key {
                    Some(key) => request.header(IDEMPOTENCY_KEY, key),
                    None => request,
                }
            })
            .await?;
        accept(action, response).await
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
