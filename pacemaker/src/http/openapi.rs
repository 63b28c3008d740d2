//! The OpenAPI 3.1 document, made from the table of endpoints and the schemas of the bodies.

use std::sync::LazyLock;

use axum::Json;
use common::api::{IDEMPOTENCY_KEY, PROBLEM_CONTENT_TYPE, Problem};
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::http::authentication::Access;
use crate::http::table::{Endpoint, Shape, endpoints};

static DOCUMENT: LazyLock<Value> = LazyLock::new(build);

/// GET [`paths::OPENAPI`](common::api::paths::OPENAPI).
pub(crate) async fn document() -> Json<&'static Value> {
    Json(&DOCUMENT)
}

fn build() -> Value {
    let settings = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into());
    let mut generator = settings.into_generator();
    let problem = generator.subschema_for::<Problem>();
    let mut paths = Map::new();
    for endpoint in endpoints() {
        let operation = operation(&endpoint, &mut generator);
        let methods = paths
            .entry(endpoint.path)
            .or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(methods) = methods {
            methods.insert(endpoint.method.to_ascii_lowercase(), operation);
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Paasmaker",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The API of a Paasmaker cluster. Every error is a problem document with a stable `code`.",
        },
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "responses": {
                "Problem": {
                    "description": "An error, RFC 9457.",
                    "content": { PROBLEM_CONTENT_TYPE: { "schema": problem } },
                },
            },
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer" },
                "certificate": { "type": "mutualTLS" },
            },
        },
    })
}

fn operation(endpoint: &Endpoint, generator: &mut SchemaGenerator) -> Value {
    let mut responses = Map::new();
    for (status, shape) in &endpoint.answers {
        let mut answer = json!({ "description": describe(*status) });
        if let Some(content) = content(*shape, generator) {
            answer["content"] = content;
        }
        responses.insert(status.to_string(), answer);
    }
    responses.insert(
        "default".to_owned(),
        json!({ "$ref": "#/components/responses/Problem" }),
    );
    let (security, access) = match endpoint.access {
        Access::Public => (json!([]), "Anyone."),
        Access::Peer => (json!([{ "certificate": [] }]), "Pacemakers."),
        Access::Renewal => (json!([{ "certificate": [] }]), "Nodes."),
        Access::Node | Access::Roles(_) => (
            json!([{ "bearer": [] }, { "certificate": [] }]),
            "Nodes and administrators.",
        ),
        Access::Administrator => (json!([{ "bearer": [] }]), "Administrators."),
    };
    let mut operation = json!({
        "summary": endpoint.summary,
        "description": format!("May be used by: {access}"),
        "parameters": parameters(endpoint),
        "responses": responses,
        "security": security,
    });
    if let Some(content) = content(endpoint.body, generator) {
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    operation
}

fn parameters(endpoint: &Endpoint) -> Vec<Value> {
    let mut parameters: Vec<Value> = endpoint
        .path
        .split('/')
        .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| {
            let schema = match name {
                "digest" | "action" => json!({ "type": "string" }),
                _ => json!({ "type": "integer", "minimum": 0 }),
            };
            json!({ "name": name, "in": "path", "required": true, "schema": schema })
        })
        .collect();
    for (name, meaning) in &endpoint.query {
        parameters.push(json!({
            "name": name,
            "in": "query",
            "description": meaning,
            "schema": { "type": "string" },
        }));
    }
    let is_change = matches!(endpoint.method, "POST" | "PUT");
    if is_change && endpoint.access == Access::Administrator {
        parameters.push(json!({
            "name": IDEMPOTENCY_KEY,
            "in": "header",
            "description": "The same key has one effect.",
            "schema": { "type": "string", "maxLength": 128 },
        }));
    }
    parameters
}

fn content(shape: Shape, generator: &mut SchemaGenerator) -> Option<Value> {
    match shape {
        Shape::Nothing => None,
        Shape::Json(schema) => {
            let schema = schema(generator);
            Some(json!({ "application/json": { "schema": schema } }))
        }
        Shape::AnyJson => Some(json!({ "application/json": {} })),
        Shape::Bytes => Some(json!({ "application/octet-stream": {} })),
        Shape::Text => Some(json!({ "text/plain": { "schema": { "type": "string" } } })),
    }
}

fn describe(status: u16) -> &'static str {
    match status {
        200 => "Done.",
        201 => "Made.",
        202 => "Accepted; it goes on.",
        204 => "Nothing to tell.",
        206 => "A part.",
        _ => "See the status.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_of_the_document_leads_somewhere() {
        let text = DOCUMENT.to_string();
        for part in text.split("\"#/").skip(1) {
            let (pointer, _) = part.split_once('"').unwrap();
            assert!(
                DOCUMENT.pointer(&format!("/{pointer}")).is_some(),
                "{pointer}"
            );
        }
    }

    #[test]
    fn document_names_every_path_of_the_vocabulary() {
        let source = include_str!("../../../common/src/api.rs");
        let documented = DOCUMENT["paths"].as_object().unwrap();
        for line in source
            .lines()
            .filter(|line| line.contains("pub const") && line.contains("\"/v1/"))
        {
            let path = line.split('"').nth(1).unwrap();
            // Served by hearts, not by pacemakers.
            if !path.starts_with("/v1/heart/") {
                assert!(documented.contains_key(path), "{path}");
            }
        }
    }
}
