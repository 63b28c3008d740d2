//! A text that must not be shown.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A password or a key.
///
/// Its `Debug` hides it and it has no `Display`, so that it gets into no log by accident. It is
/// serialised as it is: the replicated state keeps it, and no view of the API may have it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` from being shown.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself, for whoever needs it to do the work.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_is_not_in_its_debug_form() {
        let secret = Secret::new("open sesame".to_owned());

        assert!(!format!("{secret:?}").contains("sesame"));
        assert_eq!(secret.reveal(), "open sesame");
    }
}
