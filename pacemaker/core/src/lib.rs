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
