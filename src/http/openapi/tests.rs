//! The document as a whole: pinned word by word, and held to the router and to the readers of bodies.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use tower::ServiceExt;

use super::*;
use crate::http::tests::Bench;

fn document() -> Value {
    serde_json::from_str(&TEXT).unwrap()
}

/// Path, method and operation of everything that is documented.
fn described() -> Vec<(String, String, Value)> {
    let mut all = Vec::new();
    for (path, item) in document()["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            all.push((path.clone(), method.to_uppercase(), operation.clone()));
        }
    }
    all
}

/// `docs/openapi.json`. `BLESS=1 cargo test --lib openapi` writes it anew; then read the difference.
#[test]
fn the_document_is_the_one_that_is_kept() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, TEXT.as_str()).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == *TEXT, "docs/openapi.json is not what the code says of itself (BLESS=1 writes it anew)");
}

#[test]
fn operations_have_a_name_of_their_own_and_say_what_they_do() {
    let mut names = BTreeSet::new();
    for (path, method, operation) in described() {
        let name = operation["operationId"].as_str().unwrap_or_default().to_owned();
        assert!(names.insert(name.clone()) && !name.is_empty(), "{method} {path} is called {name:?}");
        let tags = operation["tags"].as_array().unwrap();
        assert!(
            tags.len() == 1 && TAGS.iter().any(|(tag, _)| tags[0] == *tag),
            "{method} {path} has the tags {tags:?}"
        );
        let summary = operation["summary"].as_str().unwrap_or_default();
        assert!(!summary.is_empty() && !summary.starts_with('`'), "{method} {path}: {summary:?}");
    }
    assert!(names.len() > 20, "only {} operations", names.len());
}

#[test]
fn what_is_referred_to_is_there_and_what_is_there_is_referred_to() {
    let document = document();
    let schemas: BTreeSet<String> = document["components"]["schemas"].as_object().unwrap().keys().cloned().collect();
    let mut used = BTreeSet::from(["Fault".to_owned()]);
    collect(&document["paths"], &document["components"]["schemas"], &mut used);
    assert_eq!(used, schemas);
}

/// Routes come in by `routes!` alone, which takes their description along; and what answers is what is described.
#[tokio::test]
async fn every_route_is_in_the_document() {
    let sources = ["src/http/mod.rs"].map(|path| Path::new(env!("CARGO_MANIFEST_DIR")).join(path));
    for source in sources {
        let text = fs::read_to_string(&source).unwrap();
        for way in [".route(", ".route_service(", ".nest(", ".nest_service(", ".merge("] {
            assert!(!text.contains(way), "{} adds a route by {way} without its description", source.display());
        }
    }
    let bench = Bench::new().await;
    let mut paths = described();
    paths.dedup_by(|one, other| one.0 == other.0);
    for (path, ..) in paths {
        let mut methods: BTreeSet<String> =
            described().into_iter().filter(|(other, ..)| *other == path).map(|(_, method, _)| method).collect();
        if methods.contains("GET") {
            methods.insert("HEAD".to_owned());
        }
        let place = path.replace("{id}", "7").replace("{key}", "invoices");
        let request = Request::builder().method("TRACE").uri(&place).body(Body::empty()).unwrap();
        let answer = crate::http::router(bench.api.clone()).oneshot(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        let allowed = answer.headers()[header::ALLOW].to_str().unwrap();
        assert_eq!(allowed.split(',').map(str::to_owned).collect::<BTreeSet<_>>(), methods, "{path}");
    }
}

#[test]
fn problems_are_problems_everywhere() {
    let document = document();
    for (path, method, operation) in described() {
        for (status, answer) in operation["responses"].as_object().unwrap() {
            let own = path == "/readyz" && status == "503";
            if status.starts_with(['4', '5']) && !own {
                let answer = match answer["$ref"].as_str() {
                    Some(named) => document.pointer(named.trim_start_matches('#')).unwrap(),
                    None => answer,
                };
                let content = &answer["content"][PROBLEM_TYPE]["schema"]["$ref"];
                assert_eq!(content, "#/components/schemas/Problem", "{method} {path} {status}");
            }
        }
    }
}
