//! Every number of the configuration, at its edges and one beyond; every choice, and one that is none.

use anyhow::{Result, ensure};
use connector_runtime::config::field::{Field, Shape};
use connector_runtime::registry;
use serde_json::{Value, json};

use crate::adapter::{Adapter, Way};
use crate::report::{Measured, Verdict};
use crate::stage::Stage;

/// What has this name is created and taken away again, and never runs.
const NAME: &str = "ranges";

pub async fn run<A: Adapter>(stage: &mut Stage<A>) -> Result<Verdict> {
    let destination = stage.destination(NAME, false).await?;
    let base = stage.adapter.config(&destination, Way::default());
    let (mut accepted, mut refused) = (0, 0);
    for field in registry::kind(A::KIND)?.schema.fields() {
        let (good, bad) = edges(field);
        for value in good {
            let beside = value.as_u64().map_or(Value::Null, |number| stage.adapter.beside(field.name, number));
            let answer = create(stage, &base, field.name, &value, &beside).await?;
            ensure!(answer.status == 200, "{} = {value}: {}", field.name, answer.body["message"]);
            stage.cluster.api(0).delete(NAME).await?.data()?;
            accepted += 1;
        }
        for value in bad {
            let answer = create(stage, &base, field.name, &value, &Value::Null).await?;
            ensure!(answer.status == 422, "{} = {value} is accepted: {}", field.name, answer.body);
            let wanted = format!("config.{}", field.name);
            let errors = answer.body["data"]["errors"].as_array().cloned().unwrap_or_default();
            let named = errors.iter().any(|error| error["field"] == wanted.as_str());
            ensure!(named, "{} = {value}: the answer names another field: {errors:?}", field.name);
            refused += 1;
        }
    }
    ensure!(accepted > 0 && refused > 0, "nothing was tried");
    let note = format!("{accepted} values at an edge accepted, {refused} beyond refused");
    Ok(Verdict::Passed(Measured { note, ..Measured::default() }))
}

/// Values that must be taken, and values that must not.
fn edges(field: &Field) -> (Vec<Value>, Vec<Value>) {
    match field.spec.shape {
        Shape::Integer { min, max } => {
            let below = min.checked_sub(1).map_or(json!(-1), |below| json!(below));
            (vec![json!(min), json!(max)], vec![below, json!(max + 1), json!("many"), json!(1.5)])
        }
        Shape::Boolean => (Vec::new(), vec![json!("yes"), json!(1)]),
        Shape::Choice(_) => (Vec::new(), vec![json!("none-of-these"), json!(1)]),
        Shape::Text { chars_max, .. } => (Vec::new(), vec![json!("x".repeat(chars_max + 1)), json!(1)]),
        Shape::TextList { .. } | Shape::Columns { .. } | Shape::TextMap { .. } => (Vec::new(), vec![json!(1)]),
    }
}

async fn create<A: Adapter>(
    stage: &Stage<A>,
    base: &Value,
    field: &str,
    value: &Value,
    beside: &Value,
) -> Result<tests::api::Answer> {
    let mut config = base.clone();
    config[field] = value.clone();
    if let (Some(config), Some(beside)) = (config.as_object_mut(), beside.as_object()) {
        config.extend(beside.clone());
    }
    // As an object: it may be longer than the text that the seed allows.
    let connector = json!({ "connector_name": NAME, "connector_type": A::KIND, "config": config,
                            "topic_name": "c/ranges/#", "desired": "stopped" });
    stage.cluster.api(0).create(&connector).await
}
