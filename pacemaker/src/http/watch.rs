//! Long polls: answer when there is something newer, or after a while that there is not.

use std::time::Duration;

use axum::response::{IntoResponse as _, Response};
use common::api::WATCH_SECONDS;
use common::id::Generation;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::http::Api;
use crate::http::error::Answer;

/// `?after=G&wait=false` of a watch.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct WatchQuery {
    /// What the client has.
    #[serde(default)]
    pub(crate) after: Generation,
    /// `false`: answer at once.
    #[serde(default)]
    pub(crate) wait: Option<bool>,
}

/// Answers 200 with what `look` finds when it is newer than asked for, else 204 in the end.
///
/// `look` runs after every change of the state; it answers the generation and, when that is newer
/// than `after`, the thing.
pub(crate) async fn watch<T: Serialize>(
    api: &Api,
    query: &WatchQuery,
    mut look: impl FnMut(&Api, Generation) -> Answer<Option<T>>,
) -> Answer<Response> {
    let until = Instant::now() + Duration::from_secs(WATCH_SECONDS);
    let mut changes = api.replica.changes();
    loop {
        changes.mark_unchanged();
        if let Some(found) = look(api, query.after)? {
            return Ok(axum::Json(found).into_response());
        }
        if query.wait == Some(false) {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        let is_over = tokio::select! {
            changed = changes.changed() => changed.is_err(),
            () = tokio::time::sleep_until(until) => true,
            () = api.shutdown.cancelled() => true,
        };
        if is_over {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
    }
}
