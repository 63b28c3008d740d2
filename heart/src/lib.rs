//! The node agent: fetches packages, lays out instances, runs and supervises their processes.

pub mod config;
pub mod crash_point;
pub mod package;
pub mod shim;
pub mod static_site;

pub use config::Config;
