//! WebSocket tunnels: after the backend's 101 the bytes go both ways, untouched.
//!
//! Nothing of what a client sends after its request reaches the backend before the 101. A tunnel
//! counts as a request in flight until it ends; it ends with either side, when no byte has passed
//! for [`IDLE_LIMIT_SECONDS`], or when its worker has drained for long enough.

use std::rc::Rc;
use std::time::Duration;

use http::{Response, Version};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional_with_sizes;

use super::Answer;
use crate::answer::Refusal;
use crate::body::ResponseBody;
use crate::client::Client;
use crate::headers;
use crate::record::Record;
use crate::worker::Worker;

/// A tunnel through which nothing passes for so long holds two descriptors for nobody.
const IDLE_LIMIT_SECONDS: u32 = 60 * 60;
/// How often a tunnel looks whether it is idle.
const IDLE_CHECK: Duration = Duration::from_secs(60);
/// Bytes that are copied at a time, each way; a tunnel costs two such buffers.
const BUFFER_BYTES: usize = 8 * 1024;

/// Both halves of a tunnel that the backend has agreed to.
pub(super) struct Tunnel {
    client_side: OnUpgrade,
    backend_side: OnUpgrade,
}

/// Prepares the tunnel and the 101 for the client.
pub(super) fn accept(
    answer: Answer,
    client_side: OnUpgrade,
) -> Result<(Response<ResponseBody>, Tunnel), Refusal> {
    let mut response = answer.response;
    let Some(protocol) = headers::websocket(response.headers()) else {
        return Err(Refusal::BackendProtocol);
    };
    let backend_side = hyper::upgrade::on(&mut response);
    let (mut parts, _no_body) = response.into_parts();
    headers::forward_response(&mut parts.headers);
    headers::ask_for_upgrade(&mut parts.headers, protocol);
    parts.version = Version::HTTP_11;
    let tunnel = Tunnel {
        client_side,
        backend_side,
    };
    Ok((Response::from_parts(parts, ResponseBody::text("")), tunnel))
}

impl Tunnel {
    /// Starts the task that carries the bytes; `record` ends with it.
    pub(super) fn spawn(self, worker: Rc<Worker>, client: Rc<Client>, record: Record) {
        tokio::task::spawn_local(self.run(worker, client, record));
    }

    async fn run(self, worker: Rc<Worker>, client: Rc<Client>, mut record: Record) {
        let _registration = worker.connections.register_tunnel(&worker);
        worker.statistics().tunnels_opened.add(1);
        let both = async {
            let client_side = self.client_side.await?;
            let backend_side = self.backend_side.await?;
            Ok::<_, hyper::Error>((client_side, backend_side))
        };
        match both.await {
            Ok((client_side, backend_side)) => {
                carry(&worker, &client, &mut record, client_side, backend_side).await;
            }
            Err(error) => tracing::debug!(%error, "a tunnel was not opened"),
        }
        worker.statistics().tunnels_closed.add(1);
    }
}

async fn carry(
    worker: &Worker,
    client: &Client,
    record: &mut Record,
    client_side: Upgraded,
    backend_side: Upgraded,
) {
    let mut client_side = TokioIo::new(client_side);
    let mut backend_side = TokioIo::new(backend_side);
    let copy = copy_bidirectional_with_sizes(
        &mut client_side,
        &mut backend_side,
        BUFFER_BYTES,
        BUFFER_BYTES,
    );
    let idle = async {
        let mut interval = tokio::time::interval(IDLE_CHECK);
        while client.activity.seconds_since_bytes() < IDLE_LIMIT_SECONDS {
            interval.tick().await;
        }
    };
    tokio::select! {
        copied = copy => match copied {
            Ok((from_client, from_backend)) => {
                record.carried(from_client, from_backend);
                record.is_whole();
            }
            Err(error) => tracing::debug!(%error, "a tunnel broke"),
        },
        () = idle => tracing::debug!(remote = %client.remote, "closed an idle tunnel"),
        () = worker.ending.cancelled() => {}
    }
}
