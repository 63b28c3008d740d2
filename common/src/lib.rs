//! The vocabulary: the plain data that every Paasmaker crate speaks.
//!
//! A [`workspace`] holds applications; an [`application`] has versions, each with instance types;
//! an [`instance`] is a running copy of one on a [`node`]. A [`job`] moves a version along. The
//! pacemaker tells a node what to run in an [`assignment`], the node answers with a report, and
//! routers follow the [`routing_table`]. A machine becomes a node with a [`join_token`]. [`api`] has the bodies of the HTTP API.
//!
//! This crate is pure: no clock, no randomness, no IO, no async, and no map whose order is not
//! defined. What it parses it bounds first.
#![warn(
    clippy::wildcard_enum_match_arm,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

pub mod api;
pub mod application;
pub mod assignment;
pub mod cron;
pub mod digest;
pub mod id;
pub mod instance;
pub mod job;
pub mod join_token;
pub mod launch;
pub mod manifest;
pub mod node;
pub mod routing_table;
pub mod secret;
pub mod time;
pub mod workspace;
