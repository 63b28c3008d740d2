//! Component tests of the pacemaker: real sockets, real files, no other role.

#[cfg(test)]
mod api;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod crons;
#[cfg(test)]
mod deploy;
#[cfg(test)]
mod durability;
#[cfg(test)]
mod failover;
#[cfg(test)]
mod group;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod job_logs;
#[cfg(test)]
mod job_logs_shared;
#[cfg(test)]
mod membership;
#[cfg(test)]
mod node;
#[cfg(test)]
mod packages;
#[cfg(test)]
mod packages_shared;
#[cfg(test)]
mod secure;
#[cfg(test)]
mod security;
#[cfg(test)]
mod small_disk;
#[cfg(test)]
mod upload;
