//! The format as a JSON Schema (draft 2020-12), for editors and `pm validate --schema`.
//!
//! Made from the same tables as the checks. It is as strict as they are about keys; rules that a
//! schema cannot say, such as unique names, are the checks' alone.

use serde_json::{Map, Value, json};

use super::format::ROOT;
use super::limits::VARIABLES_MAX;
use super::rule::Rule;
use super::shape::{Key, List, Others, Parameters, Plugin, Shape, Table};

/// The schema of a manifest.
#[must_use]
pub fn schema() -> Value {
    let mut schema = table(&ROOT);
    schema.insert(
        "$schema".to_owned(),
        json!("https://json-schema.org/draft/2020-12/schema"),
    );
    schema.insert("title".to_owned(), json!("Paasmaker manifest, format 1"));
    Value::Object(schema)
}

fn table(table: &Table) -> Map<String, Value> {
    let properties: Map<String, Value> = table
        .keys
        .iter()
        .map(|key| (key.name.to_owned(), property(key)))
        .collect();
    let mut schema = Map::new();
    schema.insert("type".to_owned(), json!("object"));
    schema.insert("additionalProperties".to_owned(), json!(false));
    schema.insert("required".to_owned(), required(table));
    schema.insert("properties".to_owned(), Value::Object(properties));
    schema
}

fn required(table: &Table) -> Value {
    table
        .keys
        .iter()
        .filter(|key| key.required)
        .map(|key| json!(key.name))
        .collect()
}

fn property(key: &Key) -> Value {
    let mut schema = shape(&key.shape);
    let description = match key.without_effect {
        Some(reason) => format!("{} (No effect yet: {reason}.)", key.summary),
        None => key.summary.to_owned(),
    };
    schema.insert("description".to_owned(), json!(description));
    Value::Object(schema)
}

fn shape(shape: &Shape) -> Map<String, Value> {
    match shape {
        Shape::Map(inner) => table(inner),
        Shape::List(inner) => list(inner),
        Shape::Plugin(inner) => plugin(inner),
        Shape::Free | Shape::Parameters => object(json!({"type": "object"})),
        Shape::Text(rule) => text(rule, &[]),
        Shape::OptionalText(rule) => text(rule, &["null"]),
        Shape::Whole { least, most } => object(json!({
            "type": "integer", "minimum": least, "maximum": most,
        })),
        Shape::Boolean => object(json!({"type": "boolean"})),
        Shape::Word(words) => object(json!({"enum": words})),
        Shape::Variables => object(json!({
            "type": "object",
            "maxProperties": VARIABLES_MAX,
            "propertyNames": {"pattern": "^(?!PM_)(?!PORT$)[A-Za-z_][A-Za-z0-9_]*$"},
            "additionalProperties": {"type": ["string", "number", "boolean"]},
        })),
    }
}

/// A number or a boolean is read as the text that was written; it is allowed where such a text is.
fn text(rule: &Rule, others: &[&str]) -> Map<String, Value> {
    let mut types = vec!["string"];
    if (rule.check)("1").is_ok() || (rule.check)("5.4").is_ok() {
        types.push("number");
    }
    if (rule.check)("true").is_ok() {
        types.push("boolean");
    }
    types.extend(others);
    let mut schema = object(json!({"type": types}));
    if let Some(pattern) = rule.pattern {
        schema.insert("pattern".to_owned(), json!(pattern));
    }
    schema
}

fn list(list: &List) -> Map<String, Value> {
    object(json!({
        "type": "array",
        "minItems": list.least,
        "maxItems": list.most,
        "items": shape(&list.of),
    }))
}

/// The keys of a plugin, and what its parameters are once it is named.
fn plugin(plugin: &Plugin) -> Map<String, Value> {
    let mut schema = table(plugin.table);
    let names: Vec<&str> = plugin.known.iter().map(|known| known.name).collect();
    let name = match plugin.others {
        Others::Refused => Some(json!({"enum": names})),
        Others::Kept if names.is_empty() => None,
        // The names first, so that editors offer them.
        Others::Kept => Some(json!({"anyOf": [{"enum": names}, {"type": "string"}]})),
        Others::KeptOrNone => Some(json!({"type": ["string", "null"]})),
    };
    if let Some(name) = name
        && let Some(Value::Object(property)) = schema
            .get_mut("properties")
            .and_then(|properties| properties.get_mut("plugin"))
    {
        property.remove("type");
        property.remove("pattern");
        property.extend(object(name));
    }
    if plugin.others == Others::KeptOrNone {
        schema.insert("required".to_owned(), json!(["plugin"]));
    }
    let cases: Vec<Value> = plugin
        .known
        .iter()
        .filter_map(|known| match &known.parameters {
            Parameters::Table(parameters) => Some(case(known.name, parameters)),
            Parameters::Free => None,
        })
        .collect();
    if !cases.is_empty() {
        schema.insert("allOf".to_owned(), Value::Array(cases));
    }
    schema
}

fn case(name: &str, parameters: &Table) -> Value {
    let needs_parameters = parameters.keys.iter().any(|key| key.required);
    json!({
        "if": {"properties": {"plugin": {"const": name}}, "required": ["plugin"]},
        "then": {
            "properties": {"parameters": table(parameters)},
            "required": if needs_parameters { json!(["parameters"]) } else { json!([]) },
        },
    })
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Map::new()
        }
    }
}
