//! What a node costs: the measure by which alias bombs are refused.

/// What a node costs when every alias below it is expanded.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    pub(super) nodes: usize,
    pub(super) bytes: usize,
    pub(super) height: usize,
}

impl Cost {
    /// What both cost side by side.
    pub(super) fn beside(self, other: Self) -> Self {
        Self {
            nodes: self.nodes.saturating_add(other.nodes),
            bytes: self.bytes.saturating_add(other.bytes),
            height: self.height.max(other.height),
        }
    }

    /// What this costs with `inner` in it.
    pub(super) fn around(self, inner: Self) -> Self {
        self.beside(Self {
            height: inner.height.saturating_add(1),
            ..inner
        })
    }
}
