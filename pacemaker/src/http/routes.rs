//! The routing table.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;

use crate::http::Api;
use crate::http::error::Answer;
use crate::http::extract::Query;
use crate::http::watch::{WatchQuery, watch};

/// GET [`paths::ROUTES`](common::api::paths::ROUTES).
pub(crate) async fn table(
    State(api): State<Arc<Api>>,
    Query(query): Query<WatchQuery>,
) -> Answer<Response> {
    watch(&api, &query, |api, after| {
        Ok(api
            .replica
            .read(|state| (state.routes_generation() > after).then(|| state.routes())))
    })
    .await
}
