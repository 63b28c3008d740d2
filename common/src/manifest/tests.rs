//! The parser as a whole.

use super::*;

#[test]
fn samples_parse() {
    for (name, text) in [
        (
            "hello",
            include_str!("../../../manifests/hello/manifest.yml"),
        ),
        (
            "guestbook",
            include_str!("../../../manifests/guestbook/manifest.yml"),
        ),
        (
            "worker",
            include_str!("../../../manifests/worker/manifest.yml"),
        ),
    ] {
        let checked = parse(text)
            .map_err(|faults| render_faults(name, text, &faults))
            .unwrap();
        assert_eq!(checked.spec.application.as_str(), name);
        assert_eq!(checked.notices, []);
    }
}
