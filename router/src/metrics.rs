//! The role's metrics.
use crate::worker::Shared;
use std::sync::Arc;
pub(crate) fn scraper(_shared: Arc<Shared>) -> Arc<dyn Fn() -> String + Send + Sync> {
    Arc::new(String::new)
}
