//! The core's tests: stories, properties and the simulation, in one binary.

#[cfg(test)]
mod generators;
#[cfg(test)]
mod random;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod stories;
#[cfg(test)]
mod world;
