//! End-to-end stories: what a user types, sends and sees, against a whole cluster on this machine.

#[cfg(test)]
mod architecture;
#[cfg(test)]
mod chaos;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod cluster_admin;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod crons;
#[cfg(test)]
mod death;
#[cfg(test)]
mod deploy;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod full_disk;
#[cfg(test)]
mod hostile_packages;
#[cfg(test)]
mod kinds;
#[cfg(test)]
mod leaks;
#[cfg(test)]
mod login;
#[cfg(test)]
mod network;
#[cfg(test)]
mod readme;
#[cfg(test)]
mod rollout;
#[cfg(test)]
mod stability;
#[cfg(test)]
mod support;
