//! placeholder
/// placeholder
#[derive(Debug)]
pub struct Cluster;
