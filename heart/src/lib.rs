//! The node agent: fetches packages, lays out instances, runs and supervises their processes.
//!
//! ```text
//!              assignment                            Report
//!  pacemaker ─────────────► follow ─► sync ─► report ────────► pacemaker
//!                                     │  ▲
//!                             actions ▼  │ events
//!                                   execute, build ─► shim ─► application
//! ```
//!
//! | task | reads | tells |
//! |---|---|---|
//! | `follow` | the pacemaker's assignment | the newest one, kept on disk |
//! | `sync` | assignments, events, deadlines | actions, the journal, a snapshot |
//! | tasks of `execute` and `build` | one action | events |
//! | `report` | the snapshot | the pacemaker |
//! | the journal's thread | changed entries | who waits for the disk |
//!
//! Decisions are in [`plan`] and [`local`], which are pure. Applications run under [`shim`]s and do
//! not notice when the heart ends: the next one adopts them (`adopt`). The heart never decides
//! where an instance belongs, and it goes on with the last assignment while no pacemaker answers.

pub mod config;
pub mod crash_point;
pub mod local;
pub mod package;
pub mod plan;
pub mod ports;
pub mod shim;
pub mod static_site;

mod adopt;
mod build;
mod clock;
mod contact;
mod directories;
mod environment;
mod execute;
mod failure;
mod fetch;
mod follow;
mod health;
mod http;
mod keep_lease;
mod listening;
mod metrics;
mod removal;
mod report;
mod runs;
mod script;
mod start;
mod sync;

#[cfg(test)]
mod samples;

pub use clock::Moment;
pub use config::Config;
pub use crash_point::CrashPoint;
pub use directories::run_directories;
pub use start::{Error, Running, run, start};
