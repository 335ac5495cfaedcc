//! The documentation page: the document that describes the API, as HTML. Made on the server, without a script and without anything from
//! elsewhere, so that it works offline and under the strictest content security policy.

use std::fmt::Write as _;
use std::sync::LazyLock;

use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::extract::Parameters;
use super::openapi::TEXT;
use super::problem::Problem;

const STYLE: &str = include_str!("docs.css");

static PAGE: LazyLock<String> = LazyLock::new(|| page(&serde_json::from_str(&TEXT).unwrap_or_default()));

/// `GET /api/docs`: this API as a page for people.
#[utoipa::path(get, path = "/api/docs", operation_id = "docs", tag = "daemon",
    responses((status = 200, description = "HTML that needs nothing else but `/api/docs.css`", body = String, content_type = "text/html")))]
pub(super) async fn docs(parameters: Parameters) -> Result<Response, Problem> {
    parameters.done()?;
    let policy = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    Ok(([(CONTENT_TYPE, "text/html; charset=utf-8"), (CONTENT_SECURITY_POLICY, policy)], PAGE.as_str()).into_response())
}

/// `GET /api/docs.css`: how the page looks.
#[utoipa::path(get, path = "/api/docs.css", operation_id = "docs_style", tag = "daemon",
    responses((status = 200, description = "A style sheet", body = String, content_type = "text/css")))]
pub(super) async fn style(parameters: Parameters) -> Result<Response, Problem> {
    parameters.done()?;
    Ok(([(CONTENT_TYPE, "text/css; charset=utf-8")], STYLE).into_response())
}

/// A method, its path and what is said of it.
type Operation<'d> = (&'d str, &'d str, &'d Value);

fn page(document: &Value) -> String {
    let operations: Vec<Operation<'_>> = members(&document["paths"])
        .flat_map(|(path, item)| members(item).map(move |(method, operation)| (method, path, operation)))
        .collect();
    let info = &document["info"];
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title} API</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><link rel=\"stylesheet\" href=\"docs.css\"></head><body>\
         <header><h1>{title} API</h1><p>Version {}. {} <a href=\"openapi.json\">openapi.json</a></p></header>",
        text(&info["version"]),
        prose(&info["description"]),
        title = text(&info["title"]),
    );
    let mut main = String::new();
    let tags = document["tags"].as_array().map_or(&[][..], Vec::as_slice);
    html.push_str("<nav>");
    for tag in tags {
        let name = text(&tag["name"]);
        let _ = write!(html, "<h2>{name}</h2><ul>");
        let _ = write!(main, "<section><h2>{name}</h2><p>{}</p>", prose(&tag["description"]));
        for (method, path, operation) in operations.iter().filter(|(.., operation)| operation["tags"][0] == tag["name"])
        {
            let id = text(&operation["operationId"]);
            let _ = write!(html, "<li><a href=\"#{id}\"><b>{}</b> {}</a></li>", method.to_uppercase(), escaped(path));
            describe(&mut main, document, (method, path, operation));
        }
        html.push_str("</ul>");
        main.push_str("</section>");
    }
    let _ = write!(html, "<h2>schemas</h2><ul>");
    main.push_str("<section><h2>schemas</h2>");
    for (name, schema) in members(&document["components"]["schemas"]) {
        let name = escaped(name);
        let _ = write!(html, "<li><a href=\"#schema-{name}\">{name}</a></li>");
        let _ = write!(main, "<article id=\"schema-{name}\"><h3>{name}</h3><p>{}</p>", prose(&schema["description"]));
        shape(&mut main, schema);
        main.push_str("</article>");
    }
    html.push_str("</ul></nav><main>");
    html + &main + "</section></main></body></html>\n"
}

fn describe(html: &mut String, document: &Value, (method, path, operation): Operation<'_>) {
    let _ = write!(
        html,
        "<article id=\"{}\"><h3><b>{}</b> {}</h3><p>{}</p>",
        text(&operation["operationId"]),
        method.to_uppercase(),
        escaped(path),
        prose(&operation["summary"]),
    );
    if let Some(more) = operation["description"].as_str() {
        let _ = write!(html, "<p>{}</p>", said(more));
    }
    let parameters = operation["parameters"].as_array().map_or(&[][..], Vec::as_slice);
    if !parameters.is_empty() {
        html.push_str("<table><tr><th>parameter</th><th>in</th><th>type</th><th></th></tr>");
        for parameter in parameters {
            let needed = if parameter["required"] == true { ", needed" } else { "" };
            let _ = write!(
                html,
                "<tr><td><code>{}</code></td><td>{}{needed}</td><td>{}</td><td>{}</td></tr>",
                text(&parameter["name"]),
                text(&parameter["in"]),
                kind(&parameter["schema"]),
                prose(&parameter["description"]),
            );
        }
        html.push_str("</table>");
    }
    for (media_type, content) in members(&operation["requestBody"]["content"]) {
        let _ = write!(html, "<p>Body: <code>{}</code> {}</p>", escaped(media_type), kind(&content["schema"]));
    }
    html.push_str("<table><tr><th>answer</th><th>type</th><th></th></tr>");
    for (status, answer) in members(&operation["responses"]) {
        // Answers that many share are told once.
        let answer =
            answer["$ref"].as_str().and_then(|at| document.pointer(at.trim_start_matches('#'))).unwrap_or(answer);
        let types: Vec<String> = members(&answer["content"]).map(|(_, content)| kind(&content["schema"])).collect();
        let _ = write!(
            html,
            "<tr><td><code>{}</code></td><td>{}</td><td>{}</td></tr>",
            escaped(status),
            types.join(" or "),
            prose(&answer["description"]),
        );
    }
    html.push_str("</table></article>");
}

/// What a schema of its own consists of.
fn shape(html: &mut String, schema: &Value) {
    if schema["properties"].is_object() {
        let needed = schema["required"].as_array().map_or(&[][..], Vec::as_slice);
        html.push_str("<table><tr><th>member</th><th>type</th><th></th></tr>");
        for (name, member) in members(&schema["properties"]) {
            let optional = if needed.iter().any(|needed| needed == name) { "" } else { ", optional" };
            let _ = write!(
                html,
                "<tr><td><code>{}</code></td><td>{}{optional}</td><td>{}</td></tr>",
                escaped(name),
                kind(member),
                prose(&member["description"]),
            );
        }
        html.push_str("</table>");
    } else if let Some(parts) = schema["allOf"].as_array() {
        for part in parts {
            match part["$ref"].as_str() {
                Some(_) => drop(write!(html, "<p>All of {}, and</p>", kind(part))),
                None => shape(html, part),
            }
        }
    } else {
        let _ = write!(html, "<p>{}</p>", kind(schema));
    }
}

/// A type in a few words, with links to schemas.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|at| at.rsplit('/').next()) {
        let name = escaped(name);
        return format!("<a href=\"#schema-{name}\">{name}</a>");
    }
    if let Some(words) = schema["enum"].as_array() {
        return words.iter().map(|word| format!("<code>{}</code>", text(word))).collect::<Vec<_>>().join(" ");
    }
    if let Some(of) = ["oneOf", "anyOf"].iter().find_map(|of| schema[*of].as_array()) {
        return of.iter().map(kind).collect::<Vec<_>>().join(" or ");
    }
    let mut types: Vec<&str> = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        Value::String(one) => vec![one],
        _ => return "anything".to_owned(),
    };
    if types == ["array"] {
        return format!("list of {}", kind(&schema["items"]));
    }
    if types.contains(&"object") && schema["additionalProperties"].is_object() {
        return format!("object of {}", kind(&schema["additionalProperties"]));
    }
    if let Some(format) = schema["format"].as_str().filter(|_| types.contains(&"string")) {
        types.insert(0, format);
    }
    escaped(&types.join(" "))
}

fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, member)| (name.as_str(), member))
}

fn text(value: &Value) -> String {
    escaped(value.as_str().unwrap_or_default())
}

fn prose(value: &Value) -> String {
    said(value.as_str().unwrap_or_default())
}

/// A sentence, what stands in backquotes as code.
fn said(sentence: &str) -> String {
    let parts = sentence.split('`').enumerate();
    parts
        .map(|(at, part)| if at % 2 == 1 { format!("<code>{}</code>", escaped(part)) } else { escaped(part) })
        .collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_and_every_schema_is_on_the_page_and_every_link_leads_somewhere() {
        let document: Value = serde_json::from_str(&TEXT).unwrap();
        for (_, item) in members(&document["paths"]) {
            for (_, operation) in members(item) {
                assert!(PAGE.contains(&format!("<article id={}>", operation["operationId"])), "{operation}");
            }
        }
        let links: Vec<&str> =
            PAGE.split("href=\"#").skip(1).map(|rest| rest.split('"').next().unwrap_or_default()).collect();
        assert!(links.len() > 100, "{}", links.len());
        for link in links {
            assert!(PAGE.contains(&format!("id=\"{link}\"")), "{link}");
        }
    }

    #[test]
    fn the_page_runs_nothing_and_loads_nothing_from_elsewhere() {
        for forbidden in ["<script", "src=", "href=\"http", "url(", "@import", "style=", "onclick"] {
            assert!(!PAGE.contains(forbidden), "{forbidden}");
        }
        assert_eq!(said("a `<b>` & c"), "a <code>&lt;b&gt;</code> &amp; c");
    }
}
