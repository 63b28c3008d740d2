//! One attempt of a run: an instance is chosen and asked, redirects on it are followed, and what
//! came of it is put into words.
//!
//! Nothing is sent once the pacemaker may have been deposed, or later than the record allows: the
//! question is asked after the connection stands, right before the first byte.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::application::CronMethod;
use common::id::InstanceId;
use common::time::Span;
use http::Method;
use pacemaker_core::command::CronResult;
use pacemaker_core::crons::{CronCall, CronTarget};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::crash_point::{Crash, CrashPoint};
use crate::crons::choice::{Choice, Taken};
use crate::crons::exchange::{self, Answered, BODY_READ_BYTES, BodyEnd};
use crate::crons::log::{CronLogs, LogWriter};
use crate::crons::redirect::{self, Asked, Next};
use crate::crons::request::{self, Origin};
use crate::crons::send_by::SendBy;
use crate::wall_clock::WallClock;

/// How long one instance may take to accept a connection: a node that is there does in milliseconds,
/// and another instance can still be asked within the time to send.
const CONNECT_PATIENCE: Duration = Duration::from_millis(800);
/// Of an attempt that is too late, or not this pacemaker's any more, before its first byte.
const NOT_SENT: &str =
    "not sent: the pacemaker was stopped or deposed after it had recorded the run";
/// The most redirects of an attempt: a path that gains a slash, a session that is looked up.
const REDIRECTS_MAX: usize = 5;

/// What an attempt needs, besides its target; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) wall: WallClock,
    pub(super) choice: Choice,
    pub(super) logs: CronLogs,
    pub(super) crash: Crash,
}

/// An attempt that has been recorded.
pub(super) struct Attempt {
    pub(super) call: CronCall,
    pub(super) targets: Vec<CronTarget>,
    /// Nothing is sent later.
    pub(super) send_by: SendBy,
    /// False once this pacemaker may have been deposed.
    pub(super) may_send: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Told right before the first byte is sent.
    pub(super) sending: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt")
            .field("run", &self.call.run)
            .field("attempt", &self.call.attempt)
            .finish_non_exhaustive()
    }
}

/// Ends an attempt; it is dropped once the connection is closed.
#[derive(Debug)]
pub(super) struct Stop {
    pub(super) why: Stopped,
    pub(super) closed: oneshot::Sender<()>,
}

/// Why an attempt was ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// A newer run took its place.
    Replaced,
    /// It counts as lost, and the next attempt goes on, perhaps elsewhere.
    Superseded,
    /// The pacemaker stops.
    Shutdown,
}

impl Stopped {
    /// One sentence for people, without a full stop.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Replaced => "dropped: the next run took its place before it had ended",
            Self::Superseded => "dropped: it counts as lost, and the run goes on without it",
            Self::Shutdown => {
                "nobody knows what became of it: the pacemaker that made the request was stopped"
            }
        }
    }
}

/// What came of an attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) result: CronResult,
    /// One sentence for people, without a full stop.
    pub(super) words: String,
    /// The instance that was asked last.
    pub(super) instance: Option<InstanceId>,
    /// The status of the last answer.
    pub(super) status: Option<u16>,
    /// Set when it was ended from outside.
    pub(super) stopped: Option<Stopped>,
}

/// What is known of an attempt while it goes on.
#[derive(Debug)]
struct Seen {
    instance: Option<InstanceId>,
    status: Option<u16>,
    log: LogWriter,
}

/// Result and words.
type Said = (CronResult, String);

impl Caller {
    /// Makes the attempt; it ends by its timeout at the latest, and when `stop` says so.
    pub(super) async fn make(&self, attempt: &Attempt, stop: oneshot::Receiver<Stop>) -> Ended {
        let call = &attempt.call;
        let mut seen = Seen {
            instance: None,
            status: None,
            log: self.logs.begin(call.run, call.attempt).await,
        };
        let limit = self.wall.real(call.timeout);
        let performed = tokio::select! {
            biased;
            Ok(stop) = stop => Err(stop),
            performed = tokio::time::timeout(limit, self.perform(attempt, &mut seen)) => Ok(performed),
        };
        let mut stopped = None;
        let (result, words) = match performed {
            Ok(Ok(said)) => said,
            Ok(Err(_)) => {
                let words = late(seen.status, seen.instance, call.timeout);
                (CronResult::TimedOut, words)
            }
            Err(Stop { why, closed }) => {
                // The log is written after whoever waits has gone on.
                drop(closed);
                stopped = Some(why);
                (CronResult::Lost, why.words().to_owned())
            }
        };
        let line = format!("\n[attempt {} of run {}: {words}]", call.attempt, call.run);
        seen.log.line(line.as_bytes()).await;
        seen.log.finish().await;
        Ended {
            result,
            words,
            instance: seen.instance,
            status: seen.status,
            stopped,
        }
    }

    async fn perform(&self, attempt: &Attempt, seen: &mut Seen) -> Said {
        let call = &attempt.call;
        let (target, _taken, stream) = match self.connect(attempt, seen).await {
            Ok(connected) => connected,
            Err(said) => return said,
        };
        let (origin, mut next) = prepare(call);
        let mut stream = Some(stream);
        for _ in 0..=REDIRECTS_MAX {
            let now = self.wall.now();
            let request = match request::build(&origin, &next.method, &next.uri, now) {
                Ok(request) => request,
                Err(error) => {
                    return (
                        CronResult::Failed,
                        format!("HTTP cannot carry the request: {error}"),
                    );
                }
            };
            let stream = match stream.take() {
                Some(first) => {
                    if let Err(said) = self.begin(attempt) {
                        return said;
                    }
                    first
                }
                None => match exchange::connect(target.address, CONNECT_PATIENCE).await {
                    Ok(stream) => stream,
                    Err(error) => {
                        let words = format!("after a redirect the instance was gone: {error}");
                        return (CronResult::Failed, words);
                    }
                },
            };
            let answered = match exchange::exchange(stream, request, &mut seen.log).await {
                Ok(answered) => answered,
                Err(error) => return (CronResult::Failed, error.to_string()),
            };
            self.crash.at(CrashPoint::AfterCronAnswer);
            seen.status = Some(answered.status.as_u16());
            let address = target.address.to_string();
            let asked = Asked {
                method: &next.method,
                uri: &next.uri,
                host: &origin.host,
                address: &address,
            };
            match redirect::next(&asked, answered.status, &answered.headers) {
                Ok(None) => return judge(&answered),
                Ok(Some(further)) => next = further,
                Err(words) => {
                    return (CronResult::Failed, format!("{}: {words}", answered.status));
                }
            }
        }
        let words = format!("it redirects more than {REDIRECTS_MAX} times");
        (CronResult::Failed, words)
    }

    /// Connects to an instance; to another when one does not take the connection.
    async fn connect(
        &self,
        attempt: &Attempt,
        seen: &mut Seen,
    ) -> Result<(CronTarget, Taken, TcpStream), Said> {
        let mut tried = Vec::new();
        let mut refusals = String::new();
        while let Some((target, taken)) = self.choice.take(&attempt.targets, &tried) {
            let left = attempt.send_by.left();
            if left.is_zero() {
                break;
            }
            seen.instance = Some(target.instance);
            match exchange::connect(target.address, left.min(CONNECT_PATIENCE)).await {
                Ok(stream) => return Ok((target, taken, stream)),
                // It had not the time that an instance has.
                Err(_) if left < CONNECT_PATIENCE && attempt.send_by.is_past() => break,
                Err(error) => {
                    let line = describe(target.instance, target.address, &error);
                    seen.log.line(line.as_bytes()).await;
                    if refusals.is_empty() {
                        refusals = line;
                    }
                    tried.push(target.instance);
                }
            }
        }
        if tried.is_empty() && attempt.send_by.is_past() {
            seen.instance = None;
            return Err((CronResult::Lost, NOT_SENT.to_owned()));
        }
        let words = match tried.len() {
            0 => "no instance runs".to_owned(),
            1 => refusals,
            count => format!("none of {count} instances takes a connection: {refusals}"),
        };
        Err((CronResult::Failed, words))
    }

    /// The last moment before the first byte.
    fn begin(&self, attempt: &Attempt) -> Result<(), Said> {
        self.crash.at(CrashPoint::BeforeCronRequest);
        if attempt.send_by.is_past() || !(attempt.may_send)() {
            return Err((CronResult::Lost, NOT_SENT.to_owned()));
        }
        (attempt.sending)();
        Ok(())
    }
}

fn prepare(call: &CronCall) -> (Origin, Next) {
    let origin = Origin {
        run: call.run,
        attempt: call.attempt,
        scheduled: call.scheduled,
        host: call.host.clone(),
        credentials: call.credentials.clone(),
        key: call.key.clone(),
    };
    let next = Next {
        method: method_of(call.method),
        uri: call.uri.clone(),
    };
    (origin, next)
}

fn method_of(method: CronMethod) -> Method {
    match method {
        CronMethod::Get => Method::GET,
        CronMethod::Head => Method::HEAD,
        CronMethod::Post => Method::POST,
        CronMethod::Put => Method::PUT,
        CronMethod::Patch => Method::PATCH,
        CronMethod::Delete => Method::DELETE,
    }
}

fn judge(answered: &Answered) -> Said {
    let status = answered.status;
    match (&answered.body, status.is_success()) {
        (BodyEnd::BrokenOff(length), _) => (
            CronResult::Failed,
            format!("{status}, but the answer broke off after {length} bytes of its body"),
        ),
        (BodyEnd::TooLong, true) => (
            CronResult::Succeeded,
            format!(
                "{status}; its body goes on past {BODY_READ_BYTES} bytes and was not read further"
            ),
        ),
        (BodyEnd::Complete, true) => (CronResult::Succeeded, status.to_string()),
        (BodyEnd::Complete | BodyEnd::TooLong, false) => (CronResult::Failed, status.to_string()),
    }
}

fn late(status: Option<u16>, instance: Option<InstanceId>, timeout: Span) -> String {
    match (status, instance) {
        (Some(status), _) => format!("after an answer of {status}, nothing final within {timeout}"),
        (None, Some(instance)) => {
            format!("instance {instance} gave no full answer within {timeout}")
        }
        (None, None) => format!("no instance took the request within {timeout}"),
    }
}

fn describe(instance: InstanceId, address: SocketAddr, error: &io::Error) -> String {
    let what = match error.kind() {
        io::ErrorKind::ConnectionRefused => "refuses the connection".to_owned(),
        io::ErrorKind::TimedOut => "does not take the connection".to_owned(),
        _ => format!("cannot be connected to: {error}"),
    };
    format!("instance {instance} at {address} {what}")
}
