//! The router against real sockets: backends, clients and a pacemaker of the tests' own.

#[cfg(test)]
mod descriptors;
#[cfg(test)]
mod drain;
#[cfg(test)]
mod ejection;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod forwarding;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod lookup;
#[cfg(test)]
mod observation;
#[cfg(test)]
mod several;
#[cfg(test)]
mod smuggling;
#[cfg(test)]
mod tables;
#[cfg(test)]
mod vanished;
#[cfg(test)]
mod websocket;
