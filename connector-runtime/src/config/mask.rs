//! What the API may show of a configuration.

use api_types::secret::MASK;
use serde_json::{Map, Value};

use crate::registry::KindEntry;
use crate::secrets::{Span, spans};

/// The same keys in the same order, with `******` for secrets: secret fields, user info and query values of URLs.
/// References stay readable. A key that the table does not know is masked: better nothing than a secret.
pub fn mask(entry: &KindEntry, config: &Map<String, Value>) -> Map<String, Value> {
    config.iter().map(|(name, value)| (name.clone(), mask_field(entry, name, value))).collect()
}

fn mask_field(entry: &KindEntry, name: &str, value: &Value) -> Value {
    match entry.schema.field(name) {
        Some(field) if !field.spec.secret => map_texts(value, &mask_urls),
        // What stands in a template is no reference, so nothing of it stays readable.
        Some(field) if field.spec.template.is_some() => map_texts(value, &|text| mask_whole(text)),
        Some(_) | None => map_texts(value, &|text| mask_literals(text)),
    }
}

/// Numbers and booleans are never secrets; names of maps are not either.
fn map_texts(value: &Value, change: &impl Fn(&str) -> String) -> Value {
    match value {
        Value::String(text) => Value::String(change(text)),
        Value::Array(items) => Value::Array(items.iter().map(|item| map_texts(item, change)).collect()),
        Value::Object(entries) => {
            Value::Object(entries.iter().map(|(name, value)| (name.clone(), map_texts(value, change))).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

/// Empty text hides nothing, and shows that no secret is set.
fn mask_whole(text: &str) -> String {
    if text.is_empty() { String::new() } else { MASK.to_owned() }
}

/// Keeps references; runs of anything else become one mask each.
fn mask_literals(text: &str) -> String {
    let Ok(spans) = spans(text) else {
        return MASK.to_owned();
    };
    let mut masked = String::new();
    for span in spans {
        match span {
            Span::Reference(reference) => masked.push_str(reference),
            Span::Literal(_) | Span::Escape => {
                if !masked.ends_with(MASK) {
                    masked.push_str(MASK);
                }
            }
        }
    }
    masked
}

/// Masks user info and query values of every `scheme://…` in the text.
fn mask_urls(text: &str) -> String {
    let mut masked = String::new();
    let mut rest = text;
    while let Some(at) = find(rest, |rest| rest.starts_with("://")) {
        let (scheme, after) = rest.split_at(at + 3);
        masked.push_str(scheme);
        let end = find(after, |rest| rest.starts_with(ends_url)).unwrap_or(after.len());
        masked.push_str(&mask_url(&after[..end]));
        rest = &after[end..];
    }
    masked.push_str(rest);
    masked
}

/// `url` is what follows `://`.
fn mask_url(url: &str) -> String {
    let authority_end = find(url, |rest| rest.starts_with(['/', '?', '#'])).unwrap_or(url.len());
    let (authority, rest) = url.split_at(authority_end);
    let mut masked = String::new();
    match rfind_at(authority) {
        Some(at) => {
            masked.push_str(&mask_literals(&authority[..at]));
            masked.push_str(&authority[at..]);
        }
        None => masked.push_str(authority),
    }
    let Some(query) = find(rest, |rest| rest.starts_with('?')) else {
        return masked + rest;
    };
    let (path, query) = rest.split_at(query);
    let (query, fragment) = query.split_at(find(query, |rest| rest.starts_with('#')).unwrap_or(query.len()));
    masked + path + "?" + &mask_query(&query[1..]) + fragment
}

fn mask_query(query: &str) -> String {
    let mut masked = String::new();
    let mut rest = query;
    loop {
        let end = find(rest, |rest| rest.starts_with('&')).unwrap_or(rest.len());
        let pair = &rest[..end];
        // A parameter without `=` may be a bare token.
        match find(pair, |rest| rest.starts_with('=')) {
            Some(equals) => {
                masked.push_str(&pair[..=equals]);
                masked.push_str(&mask_literals(&pair[equals + 1..]));
            }
            None => masked.push_str(&mask_literals(pair)),
        }
        if end == rest.len() {
            return masked;
        }
        masked.push('&');
        rest = &rest[end + 1..];
    }
}

fn ends_url(character: char) -> bool {
    character.is_whitespace() || matches!(character, '"' | '\'' | '<' | '>')
}

/// First place outside of references where `is` holds for the rest of the text.
fn find(text: &str, is: impl Fn(&str) -> bool) -> Option<usize> {
    let mut inside = false;
    for (at, character) in text.char_indices() {
        if !inside && is(&text[at..]) {
            return Some(at);
        }
        inside = (inside && character != '}') || text[at..].starts_with("${");
    }
    None
}

fn rfind_at(authority: &str) -> Option<usize> {
    let mut last = None;
    let mut from = 0;
    while let Some(at) = find(&authority[from..], |rest| rest.starts_with('@')) {
        last = Some(from + at);
        from += at + 1;
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &str) {
        assert_eq!(mask_urls(text), expect, "{text}");
    }

    #[test]
    fn urls_keep_all_but_user_info_and_query_values() {
        check("http://a/b", "http://a/b");
        check("no url, but a@b?c=d", "no url, but a@b?c=d");
        check("http://user:pw@a:1/b", "http://******@a:1/b");
        check("http://user:p@w@a/b@c", "http://******@a/b@c");
        check("http://a?token=x", "http://a?token=******");
        check("http://a/b?x=1&y=&z=a=b#frag", "http://a/b?x=******&y=&z=******#frag");
        check("http://a/b?bare", "http://a/b?******");
        check("http://a/b?", "http://a/b?");
        check("mqtts://u@a,b", "mqtts://******@a,b");
        check("a http://u@b c http://v@d?e=f g", "a http://******@b c http://******@d?e=****** g");
        check("{\"u\":\"http://u:p@b\",\"v\":1}", "{\"u\":\"http://******@b\",\"v\":1}");
    }

    #[test]
    fn references_in_urls_stay_readable() {
        check("http://${env:SLUICE_SECRET_U}@a", "http://${env:SLUICE_SECRET_U}@a");
        check("http://u:${file:/etc/x?y/@z}@a/b", "http://******${file:/etc/x?y/@z}@a/b");
        check("http://a?t=${env:SLUICE_SECRET_T}&u=v", "http://a?t=${env:SLUICE_SECRET_T}&u=******");
    }

    #[test]
    fn secrets_keep_their_references_only() {
        for (text, expect) in [
            ("", ""),
            ("hunter2", "******"),
            ("${env:SLUICE_SECRET_P}", "${env:SLUICE_SECRET_P}"),
            ("Bearer ${env:SLUICE_SECRET_P}", "******${env:SLUICE_SECRET_P}"),
            ("a$${b", "******"),
            ("${broken", "******"),
        ] {
            assert_eq!(mask_literals(text), expect, "{text}");
        }
    }
}
