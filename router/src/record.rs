//! What is known of one request: counted and logged when it ends, however it ends.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderValue, Method, Request, StatusCode, Uri, header};

use crate::access_log::Line;
use crate::answer::Refusal;
use crate::backend::InFlight;
use crate::body::Upload;
use crate::client::Client;
use crate::exchange::BackendConnection;
use crate::statistics::RouteStatistics;
use crate::worker::Worker;

/// The status that stands for "the client went away first" in the log, as nginx writes it.
const CLIENT_CLOSED: StatusCode = match StatusCode::from_u16(499) {
    Ok(status) => status,
    Err(_) => StatusCode::BAD_REQUEST,
};

/// One request, from its head to the end of its response.
#[derive(Debug)]
pub(crate) struct Record {
    worker: Rc<Worker>,
    client: Rc<Client>,
    started: Instant,
    status: Option<StatusCode>,
    refusal: Option<Refusal>,
    is_whole: bool,
    /// It counts in [`Worker::requests`].
    has_place: bool,
    /// The client reads a body without a length up to the connection's end.
    ends_with_connection: bool,
    bytes_out: u64,
    upload: Option<Rc<Upload>>,
    retries: u32,
    upstream: Option<Duration>,
    in_flight: Option<InFlight>,
    /// Set when the route is known but no backend was chosen.
    statistics: Option<Arc<RouteStatistics>>,
    /// Goes back to the pool when the response is whole.
    connection: Option<BackendConnection>,
    head: Option<Box<Head>>,
}

/// What only the log needs of a request's head.
#[derive(Debug)]
struct Head {
    method: Method,
    uri: Uri,
    host: Option<HeaderValue>,
    request_id: Option<HeaderValue>,
}

impl Record {
    pub(crate) fn begin<B>(worker: &Rc<Worker>, client: &Rc<Client>, request: &Request<B>) -> Self {
        let is_multiplexed = request.version() == http::Version::HTTP_2;
        client.activity.request_begins(is_multiplexed);
        let head = worker.log.is_some().then(|| {
            Box::new(Head {
                method: request.method().clone(),
                uri: request.uri().clone(),
                host: host(request),
                request_id: None,
            })
        });
        Self {
            worker: Rc::clone(worker),
            client: Rc::clone(client),
            started: Instant::now(),
            status: None,
            refusal: None,
            is_whole: false,
            has_place: false,
            ends_with_connection: request.version() < http::Version::HTTP_11,
            bytes_out: 0,
            upload: None,
            retries: 0,
            upstream: None,
            in_flight: None,
            statistics: None,
            connection: None,
            head,
        }
    }

    /// Takes one of the worker's places for requests; it is kept until the request ends.
    pub(crate) fn take_place(&mut self) -> Result<(), Refusal> {
        let taken = self.worker.requests.get();
        if taken >= self.worker.shared.limits.requests {
            return Err(Refusal::Overloaded);
        }
        self.worker.requests.set(taken + 1);
        self.has_place = true;
        Ok(())
    }

    fn free_place(&mut self) {
        if std::mem::take(&mut self.has_place) {
            let taken = self.worker.requests.get();
            self.worker.requests.set(taken.saturating_sub(1));
        }
    }

    pub(crate) fn set_request_id(&mut self, id: HeaderValue) {
        if let Some(head) = &mut self.head {
            head.request_id = Some(id);
        }
    }

    pub(crate) fn set_upload(&mut self, upload: Rc<Upload>) {
        self.upload = Some(upload);
    }

    /// A backend was chosen, or chosen anew; the request counts there from here on.
    pub(crate) fn set_in_flight(&mut self, in_flight: InFlight) {
        self.in_flight = Some(in_flight);
    }

    /// The attempt with the chosen backend has failed and another follows.
    pub(crate) fn retry(&mut self) {
        self.retries += 1;
        self.worker.statistics().retries.add(1);
    }

    /// The route is known, though it may have no backend.
    pub(crate) fn set_statistics(&mut self, statistics: &Arc<RouteStatistics>) {
        self.statistics = Some(Arc::clone(statistics));
    }

    /// The response's head has come from the backend.
    pub(crate) fn answered(&mut self, status: StatusCode, upstream: Duration) {
        self.status = Some(status);
        self.upstream = Some(upstream);
    }

    /// When the request's head was read.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// The router answers itself.
    pub(crate) fn refused(&mut self, refusal: Refusal) {
        self.status = Some(refusal.status());
        self.refusal = Some(refusal);
        self.worker.statistics().refusals[refusal.index()].add(1);
        self.free_place();
        if let Some(in_flight) = self.in_flight.take() {
            self.statistics = Some(Arc::clone(&in_flight.route().statistics));
        }
    }

    /// The router answers a load balancer's question.
    pub(crate) fn asked_for_health(&mut self, status: StatusCode) {
        self.status = Some(status);
        self.free_place();
    }

    pub(crate) fn bytes_went(&mut self, length: usize) {
        self.bytes_out += u64::try_from(length).unwrap_or(0);
    }

    /// A tunnel has ended after so many bytes each way.
    pub(crate) fn carried(&mut self, from_client: u64, from_backend: u64) {
        let upload = Upload::default();
        upload.bytes.set(from_client);
        self.upload = Some(Rc::new(upload));
        self.bytes_out = from_backend;
    }

    /// The response was whole.
    pub(crate) fn is_whole(&mut self) {
        self.is_whole = true;
    }

    /// Keeps the connection for the next request to the same backend.
    pub(crate) fn give_back(&mut self, connection: BackendConnection) {
        self.connection = Some(connection);
    }

    fn count(&self, status: StatusCode, duration: Duration, bytes_in: u64) {
        let statistics = match (&self.in_flight, &self.statistics) {
            (Some(in_flight), _) => &in_flight.route().statistics,
            (None, Some(statistics)) => statistics,
            (None, None) => return,
        };
        let counters = statistics.of_worker(self.worker.index);
        counters.record(status, duration);
        counters.bytes_out.add(self.bytes_out);
        counters.bytes_in.add(bytes_in);
        if !self.is_whole {
            counters.aborted.add(1);
        }
    }

    fn line(&mut self, status: StatusCode, duration: Duration, bytes_in: u64) -> Option<Line> {
        let head = self.head.take()?;
        let labels = match (&self.in_flight, &self.statistics) {
            (Some(in_flight), _) => Some(&in_flight.route().statistics),
            (None, statistics) => statistics.as_ref(),
        };
        Some(Line {
            time: SystemTime::now(),
            remote: self.client.remote,
            method: head.method,
            uri: head.uri,
            host: head.host,
            request_id: head.request_id,
            status: status.as_u16(),
            route: labels.map(Arc::clone),
            backend: self
                .in_flight
                .as_ref()
                .map(|in_flight| (in_flight.backend().instance, in_flight.backend().version)),
            bytes_in,
            bytes_out: self.bytes_out,
            duration,
            upstream: self.upstream,
            retries: self.retries,
            refusal: self.refusal,
            is_whole: self.is_whole,
        })
    }
}

/// The host as the client wrote it; HTTP/2 has it in the target.
fn host<B>(request: &Request<B>) -> Option<HeaderValue> {
    match request.headers().get(header::HOST) {
        Some(host) => Some(host.clone()),
        None => HeaderValue::try_from(request.uri().authority()?.as_str()).ok(),
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let status = self.status.unwrap_or(CLIENT_CLOSED);
        let now = Instant::now();
        let duration = now.saturating_duration_since(self.started);
        if let (Some(connection), Some(in_flight)) = (self.connection.take(), &self.in_flight) {
            self.worker.pool.put(in_flight.backend(), connection, now);
        }
        self.free_place();
        let bytes_in = self.upload.as_ref().map_or(0, |upload| upload.bytes.get());
        self.count(status, duration, bytes_in);
        if let Some(line) = self.line(status, duration, bytes_in)
            && let Some(log) = &self.worker.log
        {
            log.write(line);
        }
        if !self.is_whole && self.ends_with_connection {
            self.client.activity.cut_off();
        }
        self.client.activity.request_ends();
    }
}
