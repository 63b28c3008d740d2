//! One request: look its route up, choose a backend, forward, answer.
//!
//! A request is sent again only when that cannot do anything twice: nothing of it was sent, or, once,
//! when its method is idempotent, it has no body and no response came. It is sent to another backend
//! when there is one. A connection that was idle may have been closed by the backend at the same moment:
//! that is tried again on a fresh connection; a `POST` only when hyper still holds it whole. A backend
//! whose machine has vanished never closes anything: once it has left the table or refuses connections,
//! a request that could be sent again is, as soon as nobody answers at its address.

mod backends;
mod tunnel;

use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;

use crate::answer::{self, Refusal};
use crate::backend::Backend;
use crate::body::{RequestBody, ResponseBody, Upload};
use crate::client::Client;
use crate::exchange::{BackendConnection, SendFailure, Sent, Waited};
use crate::headers::{self, Origin};
use crate::host::HostName;
use crate::lent::ClientBody;
use crate::record::Record;
use crate::target;
use crate::worker::Worker;
use backends::Chosen;
use tunnel::Tunnel;

/// Attempts beyond the first. Two, so that one dead backend and one stale connection, or two
/// backends that died together, do not yet show.
const RETRIES_MAX: u32 = 2;

/// Serves one request of `client`; a failure is an answer too.
///
/// What needs no waiting is done before the future exists, and the future keeps one copy of what it
/// needs: it is moved for each request, and every connection keeps room for it.
pub(crate) fn serve(
    worker: Rc<Worker>,
    client: Rc<Client>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<ClientBody>, Infallible>> {
    let is_multiplexed = request.version() == Version::HTTP_2;
    let mut record = Record::begin(&worker, &client, &request);
    let is_health_question = answer::is_health_question(request.method(), request.uri());
    let mut prepared = Prepared::new(&worker, &client, &mut record, request);
    async move {
        let answer = match &mut prepared {
            Ok(prepared) => exchange(&worker, &mut record, prepared).await,
            Err(refusal) => Err(*refusal),
        };
        let settled = answer.and_then(|answer| settle(answer, &mut prepared));
        let response = match settled {
            Ok((response, None)) => response,
            Ok((response, Some(tunnel))) => {
                tunnel.spawn(worker, client, record);
                return Ok(response.map(ClientBody::Given));
            }
            Err(Refusal::NoRoute | Refusal::Removed) if is_health_question => {
                let response = answer::health(worker.is_serving());
                record.asked_for_health(response.status());
                response
            }
            Err(refusal) => {
                record.refused(refusal);
                refusal.response()
            }
        };
        Ok(response.map(|body| {
            let body = body.with_record(record);
            match is_multiplexed {
                true => ClientBody::lend(worker, Arc::clone(&client.activity), body),
                false => ClientBody::Given(body),
            }
        }))
    }
}

/// A request that may be forwarded, and by what its route is found.
struct Prepared {
    name: HostName,
    outgoing: Outgoing,
    /// The client's half of the tunnel to come.
    upgrade: Option<OnUpgrade>,
}

impl Prepared {
    fn new(
        worker: &Worker,
        client: &Client,
        record: &mut Record,
        mut request: Request<Incoming>,
    ) -> Result<Self, Refusal> {
        let upgrade = headers::websocket(request.headers())
            .filter(|_| request.version() == Version::HTTP_11 && request.body().is_end_stream())
            .map(|protocol| (protocol, hyper::upgrade::on(&mut request)));
        let (mut parts, body) = request.into_parts();
        let host = target::settle(&mut parts)?;
        let name = HostName::parse(host.as_bytes()).ok_or(Refusal::NoRoute)?;
        record.take_place()?;
        let origin = Origin {
            client: &client.address,
            host: &host,
            port: &worker.shared.port,
            scheme: "http",
            is_trusted: client.is_trusted,
        };
        let headers = &mut parts.headers;
        let id = headers::forward_request(headers, &origin, || worker.random.request_id());
        record.set_request_id(id);
        let upgrade = upgrade.map(|(protocol, client_side)| {
            headers::ask_for_upgrade(headers, protocol);
            client_side
        });
        let outgoing = Outgoing::new(parts, body, client, record);
        Ok(Self {
            name,
            outgoing,
            upgrade,
        })
    }

    fn purpose(&self) -> Purpose {
        match self.upgrade {
            None => Purpose::Request,
            Some(_) => Purpose::Upgrade,
        }
    }
}

/// The response to a client, and what follows it when it is a 101.
type Settled = (Response<ResponseBody>, Option<Tunnel>);

fn settle(answer: Answer, prepared: &mut Result<Prepared, Refusal>) -> Result<Settled, Refusal> {
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(refusal) => return Err(*refusal),
    };
    match prepared.upgrade.take() {
        Some(client_side) if answer.response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            let (response, tunnel) = tunnel::accept(answer, client_side)?;
            Ok((response, Some(tunnel)))
        }
        Some(_) | None => Ok((respond(answer, &prepared.outgoing)?, None)),
    }
}

/// What a connection is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// A request like any other.
    Request,
    /// To become a tunnel when the backend agrees.
    Upgrade,
}

/// A response's head and the connection that its body comes over.
struct Answer {
    response: Response<Incoming>,
    connection: BackendConnection,
}

/// A request that may have to be sent again.
struct Outgoing {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    /// `None` while it is being sent.
    body: Option<RequestBody>,
    upload: Option<Rc<Upload>>,
    /// Sending it twice is the same as sending it once, and it can be made again.
    is_replayable: bool,
}

impl Outgoing {
    fn new(parts: Parts, body: Incoming, client: &Client, record: &mut Record) -> Self {
        let (body, upload) = if body.is_end_stream() {
            (RequestBody::Empty, None)
        } else {
            let upload = Rc::new(Upload::default());
            record.set_upload(Rc::clone(&upload));
            let stream = RequestBody::Stream {
                incoming: body,
                upload: Rc::clone(&upload),
                activity: Arc::clone(&client.activity),
            };
            (stream, Some(upload))
        };
        Self {
            is_replayable: target::is_idempotent(&parts.method) && body.is_empty(),
            method: parts.method,
            uri: parts.uri,
            headers: parts.headers,
            body: Some(body),
            upload,
        }
    }

    /// The request to send; what could be needed again stays here.
    fn take(&mut self) -> Request<RequestBody> {
        let mut request = if self.is_replayable {
            let mut request = Request::new(RequestBody::Empty);
            *request.headers_mut() = self.headers.clone();
            request
        } else {
            let body = self.body.take().unwrap_or(RequestBody::Empty);
            let mut request = Request::new(body);
            *request.headers_mut() = std::mem::take(&mut self.headers);
            request
        };
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        request
    }

    /// Takes back a request that was not sent; true when it can be sent again.
    fn give_back(&mut self, unsent: Option<Request<RequestBody>>) -> bool {
        let Some(request) = unsent else {
            return self.is_replayable;
        };
        if !self.is_replayable {
            let (parts, body) = request.into_parts();
            self.headers = parts.headers;
            self.body = Some(body);
        }
        true
    }
}

/// Sends a request to a backend of its route, to another when that is safe.
async fn exchange(
    worker: &Rc<Worker>,
    record: &mut Record,
    prepared: &mut Prepared,
) -> Result<Answer, Refusal> {
    let mut failed = Failed::default();
    let mut last = None;
    for retries in 0..=RETRIES_MAX {
        if retries > 0 {
            record.retry();
            failed.attempts = retries;
        }
        let chosen = match backends::choose(worker, record, &prepared.name, &failed).await {
            Ok(chosen) => chosen,
            // With no other backend to try, what the tried one did is the answer.
            Err(refusal) => return Err(last.unwrap_or(refusal)),
        };
        match attempt(worker, record, &chosen, prepared, &mut failed).await {
            Ok(answer) => return Ok(answer),
            Err(Attempt::Final(refusal)) => return Err(refusal),
            Err(Attempt::Again(refusal)) => last = Some(refusal),
        }
    }
    Err(last.unwrap_or(Refusal::BackendRefused))
}

/// What earlier attempts of the same request have learnt.
#[derive(Debug, Default)]
struct Failed {
    /// Backends not to be asked again.
    backends: [Option<u64>; 1 + RETRIES_MAX as usize],
    /// An idle connection turned out to be closed: only fresh ones from here on.
    needs_fresh: bool,
    /// The backend of that connection. It may be well and have ended an idle connection, or be dying
    /// while its port still takes connections: another is asked first, if there is one.
    doubtful: Option<u64>,
    /// How many there were.
    attempts: u32,
    /// It was written to a backend that did not answer; that may happen once, so that a request
    /// that crashes an application does not go round all of its instances.
    was_sent: bool,
}

impl Failed {
    fn exclude(&mut self, backend: &Backend) {
        if let Some(free) = self.backends.iter_mut().find(|entry| entry.is_none()) {
            *free = Some(backend.number);
        }
    }

    fn doubts(&self, backend: &Backend) -> bool {
        self.doubtful == Some(backend.number)
    }

    fn excludes(&self, backend: &Backend) -> bool {
        self.backends.contains(&Some(backend.number))
    }
}

/// How one attempt failed.
enum Attempt {
    /// Another may be made; this is the answer when none is left.
    Again(Refusal),
    /// The request must not be sent again.
    Final(Refusal),
}

async fn attempt(
    worker: &Rc<Worker>,
    record: &mut Record,
    chosen: &Chosen,
    prepared: &mut Prepared,
    failed: &mut Failed,
) -> Result<Answer, Attempt> {
    let Chosen { backend, at } = chosen;
    let purpose = prepared.purpose();
    let outgoing = &mut prepared.outgoing;
    let idle = match purpose {
        Purpose::Request if !failed.needs_fresh => worker.pool.take(backend, *at),
        Purpose::Request | Purpose::Upgrade => None,
    };
    let was_idle = idle.is_some();
    let mut connection = match idle {
        Some(connection) => connection,
        None => match Box::pin(backends::connect(worker, backend, purpose)).await {
            Ok(connection) => connection,
            Err(refusal) => {
                failed.exclude(backend);
                return Err(Attempt::Again(refusal));
            }
        },
    };
    match send(worker, chosen, outgoing, &mut connection, failed).await? {
        Ok(response) => {
            record.answered(response.status(), at.elapsed());
            Ok(Answer {
                response,
                connection,
            })
        }
        Err(failure) => {
            if was_idle {
                failed.needs_fresh = true;
                failed.doubtful = Some(backend.number);
            } else {
                failed.exclude(backend);
            }
            Err(judge(outgoing, failure, failed))
        }
    }
}

/// Sends a request and waits for the head of its response, as long as somebody may be there.
async fn send(
    worker: &Rc<Worker>,
    Chosen { backend, at }: &Chosen,
    outgoing: &mut Outgoing,
    connection: &mut BackendConnection,
    failed: &mut Failed,
) -> Result<Sent, Attempt> {
    let limit = worker.shared.limits.response;
    let upload = outgoing.upload.clone();
    let moves = move || upload.as_ref().map_or(0, |upload| upload.bytes.get());
    let is_replayable = outgoing.is_replayable;
    let doubts = || is_replayable && (backend.is_leaving() || worker.pool.is_ejected(backend));
    let mut sending = pin!(connection.send(outgoing.take(), *at, limit, moves, doubts));
    let mut waited = sending.as_mut().await;
    loop {
        waited = match waited {
            Waited::Sent(sent) => return Ok(sent),
            Waited::Over => return Err(Attempt::Final(Refusal::BackendTimeout)),
            // Boxed, like every rare wait: each connection keeps room for this future.
            Waited::Doubted => tokio::select! {
                biased;
                waited = sending.as_mut() => waited,
                has_vanished = Box::pin(backends::has_vanished(backend)) => {
                    if has_vanished {
                        return Err(give_up(backend, failed));
                    }
                    sending.as_mut().await
                }
            },
        };
    }
}

/// A request that may be sent twice leaves a backend that is not there any more.
fn give_up(backend: &Backend, failed: &mut Failed) -> Attempt {
    tracing::debug!(instance = backend.instance.0, address = %backend.address, "a backend has vanished under a request");
    failed.exclude(backend);
    match std::mem::replace(&mut failed.was_sent, true) {
        false => Attempt::Again(Refusal::BackendTimeout),
        true => Attempt::Final(Refusal::BackendTimeout),
    }
}

/// Whether a request that got no response may be sent again.
fn judge(outgoing: &mut Outgoing, mut failure: SendFailure, failed: &mut Failed) -> Attempt {
    let unsent = failure.take_message();
    let was_sent_before = unsent.is_none() && std::mem::replace(&mut failed.was_sent, true);
    let error = failure.error();
    let client_failed = outgoing
        .upload
        .as_ref()
        .is_some_and(|upload| upload.has_failed.get());
    if client_failed {
        return Attempt::Final(Refusal::BadRequest);
    }
    if error.is_parse() || error.is_user() {
        return Attempt::Final(Refusal::BackendProtocol);
    }
    if outgoing.give_back(unsent) && !was_sent_before {
        Attempt::Again(Refusal::BackendClosed)
    } else {
        Attempt::Final(Refusal::BackendClosed)
    }
}

/// Turns a backend's response into the client's.
fn respond(answer: Answer, outgoing: &Outgoing) -> Result<Response<ResponseBody>, Refusal> {
    let Answer {
        response,
        mut connection,
    } = answer;
    let (mut parts, body) = response.into_parts();
    if parts.status.is_informational() {
        return Err(Refusal::BackendProtocol);
    }
    if let Some(upload) = &outgoing.upload
        && !upload.has_ended.get()
    {
        connection.detach();
    }
    headers::forward_response(&mut parts.headers);
    parts.version = Version::HTTP_11;
    Ok(Response::from_parts(
        parts,
        ResponseBody::backend(body, connection),
    ))
}
