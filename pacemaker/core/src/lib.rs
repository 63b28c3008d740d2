//! The functional core: everything that decides, as plain synchronous functions over plain data.
//!
//! ```text
//! Command ──apply──► State ──plan(sightings, now)──► Vec<Action> ──► Command::Act ──► the log
//!                      │
//!                      ├──routes()──────► RoutingTable   (routers)
//!                      └──assignment()──► Assignment     (hearts)
//! ```
//!
//! The crate is pure: no clock, no randomness, no IO, no async, no map without an order. The
//! shell (crate `pacemaker`) writes commands to the log, applies them here, wakes who watches,
//! and asks [`plan()`] again after every applied command, every report that says something new,
//! and at [`next_deadline`]; it goes on until the plan is empty.
//!
//! # Web crons
//!
//! Crons have a planner of their own, [`crons::CronPlanner`], because their time is another one: the
//! leader's wall clock, which may be set forward and back, and not the log's, which only grows.
//!
//! ```text
//! State ──CronPlanner::plan(wall)──► DecideCrons ──► the log ──► granted runs ──► requests
//!   ▲                                                                              │
//!   └───────────────────────────── ReportCronRuns ◄────────────────────────────────┘
//! ```
//! - A slot is decided once. [`Command::DecideCrons`](command::Command::DecideCrons) is committed
//!   before a request is sent, and each decision names up to where the cron's slots were decided:
//!   elsewhere it is stale. So two leaders cannot both fire a slot, and a deposed one fires nothing.
//! - Of slots that are due together only the newest may run; those before it were missed, and are one
//!   record. So no pause and no step of the clock makes more than one request of a cron.
//! - What was fired is kept as spans of slots ([`state::crons::CronRecord::fired`]). When the clock is
//!   set back, slots that lie ahead again are open, but for those in a span: the schedule goes on,
//!   and no slot is fired twice.
//! - An attempt ends by the report of whoever made it, deposed or not. It counts as lost when its
//!   pacemaker is gone or has started again, or when this leader has seen it overdue for as long as
//!   it may take; a late report corrects that. `overlap: forbid` holds until a lost request cannot go
//!   on any more.
//! - `apply` asks no schedule: two releases may know different time zones, and must not disagree.
//! - A run changes nothing that the planner of instances, routers or hearts look at.
#![warn(
    clippy::wildcard_enum_match_arm,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

pub mod action;
mod apply;
mod assignment;
mod claims;
pub mod command;
pub mod crons;
mod desire;
mod explain;
pub mod membership;
mod offers;
pub mod plan;
mod routes;
pub mod sightings;
pub mod state;
mod transition;
mod view;

pub use crate::plan::{Planner, next_deadline, plan};
pub use crate::state::State;
