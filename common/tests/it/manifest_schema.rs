//! The JSON Schema agrees with the parser about what may be written.

use common::manifest::{parse, schema};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::generators::valid;
use crate::samples::{INVALID, VALID};

fn from_yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

/// What `value` breaks in `schema`: the keywords that the schema uses, but for `pattern`.
fn violations(schema: &Value, value: &Value, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut expect = |kept: bool, keyword: &str| {
        if !kept {
            found.push(format!("{path}: {keyword}"));
        }
    };
    for (keyword, rule) in schema.as_object().unwrap() {
        match keyword.as_str() {
            "type" => expect(is_of_type(value, rule), keyword),
            "enum" => expect(rule.as_array().unwrap().contains(value), keyword),
            "const" => expect(rule == value, keyword),
            "minimum" => expect(
                value
                    .as_f64()
                    .is_none_or(|number| number >= rule.as_f64().unwrap()),
                keyword,
            ),
            "maximum" => expect(
                value
                    .as_f64()
                    .is_none_or(|number| number <= rule.as_f64().unwrap()),
                keyword,
            ),
            "minItems" => expect(
                length(value).is_none_or(|length| length >= rule.as_u64().unwrap()),
                keyword,
            ),
            "maxItems" => expect(
                length(value).is_none_or(|length| length <= rule.as_u64().unwrap()),
                keyword,
            ),
            "anyOf" => expect(
                rule.as_array()
                    .unwrap()
                    .iter()
                    .any(|schema| violations(schema, value, path).is_empty()),
                keyword,
            ),
            "required" => expect(has_all(value, rule), keyword),
            _ => {}
        }
    }
    found.extend(inner_violations(schema, value, path));
    found
}

fn inner_violations(schema: &Value, value: &Value, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        for (index, value) in values.iter().enumerate() {
            found.extend(violations(items, value, &format!("{path}[{index}]")));
        }
    }
    if let Some(map) = value.as_object() {
        found.extend(property_violations(schema, map, path));
    }
    for case in schema
        .get("allOf")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        if violations(&case["if"], value, path).is_empty() {
            found.extend(violations(&case["then"], value, path));
        }
    }
    found
}

fn property_violations(schema: &Value, map: &Map<String, Value>, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    let properties = schema.get("properties").and_then(Value::as_object);
    for (key, value) in map {
        let path = format!("{path}.{key}");
        match (
            properties.and_then(|properties| properties.get(key)),
            schema.get("additionalProperties"),
        ) {
            (Some(schema), _) => found.extend(violations(schema, value, &path)),
            (None, Some(Value::Bool(false))) => found.push(format!("{path}: additionalProperties")),
            (None, Some(schema @ Value::Object(_))) => {
                found.extend(violations(schema, value, &path));
            }
            (None, _) => {}
        }
    }
    found
}

fn is_of_type(value: &Value, rule: &Value) -> bool {
    let is = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_u64() || value.is_i64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("{other}"),
    };
    match rule {
        Value::Array(names) => names.iter().any(|name| is(name.as_str().unwrap())),
        name => is(name.as_str().unwrap()),
    }
}

fn has_all(value: &Value, keys: &Value) -> bool {
    let Some(map) = value.as_object() else {
        return true;
    };
    keys.as_array()
        .unwrap()
        .iter()
        .all(|key| map.contains_key(key.as_str().unwrap()))
}

fn length(value: &Value) -> Option<u64> {
    value.as_array().map(|items| items.len() as u64)
}

#[test]
fn schema_accepts_every_sample() {
    for (name, text) in VALID {
        assert_eq!(
            violations(&schema(), &from_yaml(text), name),
            Vec::<String>::new()
        );
    }
}

#[test]
fn schema_refuses_the_invalid_sample() {
    let found = violations(&schema(), &from_yaml(INVALID), "");

    for expected in [
        ".manifest.format: maximum",
        ".application.prepare.commands[0].plugin: enum",
        ".instances[0].qantity: additionalProperties",
        ".instances[0].runtime.parameters.start_timout: additionalProperties",
        ".instances[1].quantity: minimum",
        ".instances[2].runtime: required",
        ".services[0].plugin: enum",
    ] {
        assert!(
            found.iter().any(|found| found == expected),
            "{expected}: {found:#?}"
        );
    }
}

#[test]
fn every_key_is_described() {
    fn check(schema: &Value, path: &str) {
        for (key, property) in schema
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let path = format!("{path}.{key}");
            let is_case = path.contains("then") || key == "plugin" || key == "parameters";
            assert!(is_case || property.get("description").is_some(), "{path}");
            check(property, &path);
            if let Some(items) = property.get("items") {
                check(items, &path);
            }
        }
    }
    let schema = schema();

    check(&schema, "");
    assert_eq!(
        schema["$schema"],
        json!("https://json-schema.org/draft/2020-12/schema")
    );
}

#[test]
fn schema_is_as_strict_as_the_parser_about_keys() {
    let document = |application: Value, instance: Value| json!({"manifest": {"format": 1}, "application": application, "instances": [instance]});
    let runtime = json!({"plugin": "paasmaker.runtime.shell", "version": 1, "parameters": {"launch_command": "a"}});
    for (manifest, is_valid) in [
        (
            document(
                json!({"name": "a"}),
                json!({"name": "w", "runtime": runtime}),
            ),
            true,
        ),
        (document(json!({"name": "a"}), json!({"name": "w"})), false),
        (
            document(
                json!({"name": "a", "tag": {}}),
                json!({"name": "w", "runtime": runtime}),
            ),
            false,
        ),
        (
            document(
                json!({"name": "a"}),
                json!({"name": "w", "runtime": {"plugin": "paasmaker.runtime.shell", "version": 1}}),
            ),
            false,
        ),
        (
            document(
                json!({"name": "a"}),
                json!({"name": "w", "runtime": {"plugin": "paasmaker.runtime.static", "version": 1, "parameters": {"launch_command": "a"}}}),
            ),
            false,
        ),
        (
            document(
                json!({"name": "a", "prepare": {"runtime": {"plugin": null}}}),
                json!({"name": "w", "runtime": runtime}),
            ),
            true,
        ),
        (
            document(
                json!({"name": "a"}),
                json!({"name": "w", "runtime": runtime, "health": {"interval": 1}}),
            ),
            false,
        ),
    ] {
        assert_eq!(parse(&manifest.to_string()).is_ok(), is_valid, "{manifest}");
        assert_eq!(
            violations(&schema(), &manifest, "").is_empty(),
            is_valid,
            "{manifest}"
        );
    }
}

proptest! {
    #[test]
    fn schema_accepts_what_the_parser_accepts(manifest in valid()) {
        prop_assert!(parse(&manifest.to_string()).is_ok());

        prop_assert_eq!(violations(&schema(), &manifest, ""), Vec::<String>::new());
    }
}
