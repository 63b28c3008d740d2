//! The Raft group of the real core, simulated: the real store, state machine and openraft, with
//! every disk, link, clock and chance in the hands of a seed.
//!
//! A run is one process: it tells one [`Story`](stories::Story) with one seed, and the same seed
//! gives the same trace. The tests start many such processes; one that fails prints the command
//! that tells its story again.

mod client;
mod disk;
mod history;
mod machine;
mod network;
mod random;
pub(in crate::raft) mod runtime;
pub(in crate::raft) mod shelf;
mod stories;
mod watched;
mod witness;
mod world;

#[cfg(test)]
mod tests;
