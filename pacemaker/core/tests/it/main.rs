//! The core's tests: stories, properties and the simulation, in one binary.

#[cfg(test)]
mod crons;
#[cfg(test)]
mod generators;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod machine;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod random;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod stories;
#[cfg(test)]
mod world;
