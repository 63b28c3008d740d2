//! Placeholder: what the planner wishes for.

use serde::{Deserialize, Serialize};

/// One wish of the planner; it becomes true only through the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Action {}
