//! Web crons: what the leader decides about them, whom it calls, and how they are shown.
//!
//! ```text
//! State ──CronPlanner::plan(wall)──► DecideCrons ──► the log ──► granted runs
//!   ▲                                                              │ cron_call, cron_targets
//!   └──────────── ReportCronRuns ◄── the request ◄─────────────────┘
//! ```
//! A slot is committed before its request is sent, and its outcome after. So a slot is fired at most
//! once, whoever leads: a second decision about it is stale, and what nobody reports is lost.

mod calls;
mod explain;
mod planner;
mod slots;
mod views;

pub use self::calls::{BasicCredentials, CronCall, CronTarget};
pub use self::planner::CronPlanner;
