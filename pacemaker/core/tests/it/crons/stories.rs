//! What a user would tell of crons, one story per test.

mod by_hand;
mod leaders;
mod lost;
mod overlap;
mod retries;
mod room;
mod slots;
mod versions;
