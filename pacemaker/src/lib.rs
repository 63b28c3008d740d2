//! wip
mod files;
mod metrics;
mod raft;
mod replica;
