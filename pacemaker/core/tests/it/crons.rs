//! Web crons: stories, clocks, properties, and a year of ten thousand of them.

mod clocks;
mod properties;
mod stories;
mod unread;
pub(crate) mod world;
mod year;
