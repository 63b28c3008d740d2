//! What `pm` does before and without a cluster: usage, exit codes, validation, errors.

#[cfg(test)]
mod login;
#[cfg(test)]
mod support;
#[cfg(test)]
mod usage;
#[cfg(test)]
mod validate;
