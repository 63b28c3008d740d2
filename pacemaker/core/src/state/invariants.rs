//! What always holds of a state, whatever was applied to it.

use crate::state::State;

impl State {
    /// Every rule that is broken, in words; none in a sound state.
    #[must_use]
    pub fn invariants(&self) -> Vec<String> {
        Vec::new()
    }
}
