//! What holds for every text and every manifest.

use common::manifest::{Fault, parse, render_faults};
use proptest::prelude::*;
use serde_json::Value;

use crate::generators::{mutated, valid};

/// Faults are what they are promised to be, and can be shown.
fn check_faults(text: &str, faults: &[Fault]) {
    assert!(!faults.is_empty());
    let places: Vec<_> = faults
        .iter()
        .map(|fault| (fault.line, fault.column))
        .collect();
    assert!(places.is_sorted(), "{places:?}");
    assert!(
        faults
            .iter()
            .all(|fault| fault.line >= 1 && fault.column >= 1 && !fault.message.is_empty())
    );
    assert!(render_faults("manifest.yml", text, faults).len() >= faults.len());
}

fn parse_and_check(text: &str) {
    if let Err(faults) = parse(text) {
        check_faults(text, &faults);
        // The gap between the checks and the reading; see `read`.
        assert!(
            faults
                .iter()
                .all(|fault| !fault.message.starts_with("expected ")),
            "{faults:?}"
        );
    }
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(text in any::<String>()) {
        parse_and_check(&text);
    }

    #[test]
    fn any_text_of_yaml_characters_is_parsed_or_refused(text in "[-\\[\\]{}:,#&*!|>'\"%@`?~ \n\ta-c0-1.<]{0,200}") {
        parse_and_check(&text);
    }

    #[test]
    fn changed_sample_is_parsed_or_refused(text in mutated()) {
        parse_and_check(&text);
    }

    #[test]
    fn valid_manifest_parses(manifest in valid()) {
        let text = manifest.to_string();

        let checked = parse(&text).map_err(|faults| TestCaseError::fail(render_faults("manifest.yml", &text, &faults)))?;

        let types = manifest.get("instances").and_then(Value::as_array).map(Vec::len);
        prop_assert_eq!(Some(checked.spec.instance_types.len()), types);
    }

    #[test]
    fn parsed_manifest_survives_json(manifest in valid()) {
        let spec = parse(&manifest.to_string()).unwrap().spec;

        let json = serde_json::to_string(&spec).unwrap();

        prop_assert_eq!(serde_json::from_str::<common::application::VersionSpec>(&json).unwrap(), spec);
    }

    #[test]
    fn layout_does_not_matter(manifest in valid()) {
        let flow = parse(&manifest.to_string()).unwrap().spec;

        let block = parse(&serde_json::to_string_pretty(&manifest).unwrap()).unwrap().spec;

        prop_assert_eq!(flow, block);
    }

    #[test]
    fn key_that_is_not_known_is_found_wherever_it_is(manifest in valid(), place in any::<prop::sample::Index>()) {
        let mut manifest = manifest;
        let mut count = count_strict(&manifest);
        count = place.index(count);
        put_unknown_key(&mut manifest, &mut count);

        let faults = parse(&manifest.to_string()).unwrap_err();

        prop_assert_eq!(faults.len(), 1);
        prop_assert!(faults.iter().all(|fault| fault.message.contains("unknown key `not_a_key`")));
    }
}

/// Mappings whose keys are known, in the order of [`put_unknown_key`].
fn count_strict(value: &Value) -> usize {
    match value {
        Value::Object(map) => {
            1 + strict(map)
                .map(|(_, inner)| count_strict(inner))
                .sum::<usize>()
        }
        Value::Array(items) => items.iter().map(count_strict).sum(),
        _ => 0,
    }
}

fn strict(map: &serde_json::Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    map.iter()
        .filter(|(key, _)| !matches!(key.as_str(), "env" | "tags" | "parameters"))
}

/// Puts a key into the mapping that `count` mappings come before.
fn put_unknown_key(value: &mut Value, count: &mut usize) -> bool {
    match value {
        Value::Object(map) => {
            if *count == 0 {
                map.insert("not_a_key".to_owned(), Value::Null);
                return true;
            }
            *count -= 1;
            map.iter_mut()
                .filter(|(key, _)| !matches!(key.as_str(), "env" | "tags" | "parameters"))
                .any(|(_, inner)| put_unknown_key(inner, count))
        }
        Value::Array(items) => items.iter_mut().any(|item| put_unknown_key(item, count)),
        _ => false,
    }
}
