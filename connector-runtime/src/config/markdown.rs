//! The generated parts of `docs/connectors/*.md`.

use super::Schema;
use super::field::{Field, Presence, Shape, plain};
use crate::registry::{KINDS, KindEntry, OrderClass};

const BEGIN: &str = "<!-- generated from the field tables: begin -->";
const END: &str = "<!-- generated: end -->";

/// Fields, rules and statements of one kind.
pub fn reference_page(entry: &KindEntry) -> String {
    let schema = entry.schema;
    let mut page = String::new();
    page.push_str(&format!(
        "Type `{}` · {} · order: {} · batch: `{}`\n",
        entry.name,
        entry.category,
        order_says(entry.order),
        schema.records_field
    ));
    page.push_str("\n## Configuration\n\n");
    page.push_str("**+** marks what is not in the original document.\n");
    let titles = ["", "### Batches", "### Limits", "### TLS"];
    for (index, group) in schema.groups.iter().enumerate() {
        if let Some(title) = titles.get(index).filter(|title| !title.is_empty()) {
            page.push_str(&format!("\n{title}\n"));
        }
        page.push_str("\n| Field | Type | Default | Meaning |\n|---|---|---|---|\n");
        for field in *group {
            page.push_str(&row(schema, field));
        }
    }
    let rules: Vec<String> = schema.rules().map(|rule| format!("- {}.\n", rule.says())).collect();
    if !rules.is_empty() {
        page.push_str("\n### Between fields\n\n");
        page.push_str(&rules.concat());
    }
    if let Some(gives_up) = schema.gives_up {
        page.push_str(&format!(
            "\n`{}` = `{}` gives up the target's confirmation: *delivered* then means handed to the socket, and the list \
             shows `delivery: at_most_once`.\n",
            gives_up.field,
            plain(&gives_up.value.to_value())
        ));
    }
    if let Some(ddl) = entry.ddl {
        page.push_str(&format!("\n## Statements that fit the default\n\n```sql\n{ddl}```\n"));
    }
    page
}

/// One line for each kind.
pub fn type_index() -> String {
    let mut table = "| Type | Name | Category | Order |\n|---|---|---|---|\n".to_owned();
    for entry in KINDS {
        table.push_str(&format!(
            "| [`{0}`]({0}.md) | {1} | {2} | {3} |\n",
            entry.name,
            entry.title,
            entry.category,
            order_says(entry.order)
        ));
    }
    table
}

/// Puts `generated` between the markers of a page; `None` when the page has no markers.
pub fn replace_generated(page: &str, generated: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{generated}{END}{after}"))
}

fn order_says(order: OrderClass) -> &'static str {
    match order {
        OrderClass::Queue => "by queue",
        OrderClass::Lanes => "by lane",
        OrderClass::None => "none",
    }
}

fn row(schema: &Schema, field: &Field) -> String {
    let added = if field.spec.added { " **+**" } else { "" };
    let default = match field.spec.presence {
        Presence::Required => "**required**".to_owned(),
        Presence::RequiredWhen(condition) => format!("required when {}", condition.says()),
        Presence::Optional => "–".to_owned(),
        Presence::Default(literal) => format!("`{}`", default_text(&literal.to_value())),
        Presence::Computed { says, .. } => says.to_owned(),
    };
    let mut meaning = field.doc.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some(kind) = field.spec.template {
        meaning.push_str(&format!(" *{}.*", capitalized(kind.says())));
    }
    if field.spec.secret {
        meaning.push_str(" *Secret.*");
    }
    if let Some(condition) = field.spec.used_when
        && !matches!(field.spec.presence, Presence::RequiredWhen(_))
    {
        debug_assert!(schema.field(condition.field).is_some(), "{} names an unknown field", field.name);
        meaning.push_str(&format!(" Has an effect only when {}.", condition.says()));
    }
    format!(
        "| `{}`{added} | {} | {default} | {} |\n",
        field.name,
        shape_text(field.spec.shape),
        meaning.replace('|', "\\|")
    )
}

fn default_text(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => format!("\"{text}\""),
        other => other.to_string(),
    }
}

fn shape_text(shape: Shape) -> String {
    match shape {
        Shape::Boolean => "boolean".to_owned(),
        Shape::Integer { min, max } => format!("integer, {min}–{max}"),
        Shape::Choice(values) => {
            let quoted: Vec<String> = values.iter().map(|value| format!("`\"{value}\"`")).collect();
            quoted.join(", ")
        }
        Shape::Text { chars_min, chars_max, .. } => format!("text, {chars_min}–{chars_max} characters"),
        Shape::TextList { items_min, items_max, .. } => format!("array of {items_min}–{items_max} texts"),
        Shape::Columns { items_max } => format!("1–{items_max} names: comma list or array"),
        Shape::TextMap { entries_max, .. } => format!("object of texts, at most {entries_max}"),
    }
}

fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}
