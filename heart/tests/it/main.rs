//! Component tests of the heart: real processes, real sockets, a pacemaker played by the test.

#[cfg(test)]
mod archives;
#[cfg(test)]
mod builds;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod fence;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod node;
#[cfg(test)]
mod pacemaker;
#[cfg(test)]
mod recovery;
#[cfg(test)]
mod several;
#[cfg(test)]
mod shim;
#[cfg(test)]
mod static_site;
