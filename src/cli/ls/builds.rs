//! `ls --builds`: the steps that builds find again.

use jiff::Timestamp;
use rootling_backends::Result;
use serde::Serialize;

use super::super::{Context, output, show};
use crate::store::{Failure, Naming, Node, ObjectId, StepRecord, Store};

/// A step.
#[derive(Debug, Serialize)]
struct Row {
    id: ObjectId,
    /// What it stands on: a name, or an id.
    parent: Option<String>,
    created: Timestamp,
    /// When a build used it last, to the day.
    used: Timestamp,
    /// Is a build standing on it right now?
    in_use: bool,
    #[serde(flatten)]
    step: Option<Step>,
}

/// What is said of a step of a build; an image without a name is found as one, and says nothing.
#[derive(Debug, Serialize)]
pub(in super::super) struct Step {
    recipe: Option<String>,
    stage: String,
    number: u32,
    instruction: String,
    pub(in super::super) failure: Option<Failure>,
    adopted: bool,
    took_ms: u64,
}

impl Step {
    pub(in super::super) fn of(record: &StepRecord) -> Self {
        Self {
            recipe: record.recipe.clone(),
            stage: record.stage.clone(),
            number: record.number,
            instruction: record.shown.clone(),
            failure: record.failure.clone(),
            adopted: record.adopted,
            took_ms: record.took_ms,
        }
    }
}

pub(super) fn list(context: &Context, store: &Store) -> Result<()> {
    let mut steps = store.steps_of_builds()?;
    steps.sort_by(|(one, _), (other, _)| order(one).cmp(&order(other)));
    let naming = store.naming_as_asked();
    let rows: Result<Vec<Row>> = steps.iter().map(|(node, used)| row(store, &naming, node, *used)).collect();
    let rows = rows?;
    context.output.list_of(&rows, rows.iter().map(|row| row.id.to_string()), || table(&rows));
    Ok(())
}

/// By recipe and stage, then as they were done.
fn order(node: &Node) -> impl Ord {
    let step = node.record.step.as_ref();
    (step.map(|step| (&step.recipe, step.stage.as_str(), step.number)), node.record.created)
}

fn row(store: &Store, naming: &Naming<'_>, node: &Node, used: Timestamp) -> Result<Row> {
    Ok(Row {
        id: node.id.clone(),
        parent: node.record.parent.as_ref().map(|parent| naming.label(parent)),
        created: node.record.created,
        used,
        in_use: store.is_in_use(node)?,
        step: node.record.step.as_ref().map(Step::of),
    })
}

fn table(rows: &[Row]) -> String {
    let now = Timestamp::now();
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let (place, instruction) = match &row.step {
                Some(step) => {
                    (format!("{} {}", step.stage, step.number), output::one_line(&step.instruction))
                }
                None => (String::new(), "an image without a name".to_owned()),
            };
            let result = row.step.as_ref().and_then(|step| show::how_it_ended(step.failure.as_ref()));
            vec![
                row.id.to_string(),
                output::plain_text(place.as_ref()).into_owned(),
                row.parent.clone().unwrap_or_else(|| "-".to_owned()),
                output::age(row.created, now),
                output::age(row.used, now),
                if row.in_use { "yes" } else { "" }.to_owned(),
                result.map_or(instruction.clone(), |how| format!("{instruction} ({how})")),
            ]
        })
        .collect();
    output::table(&["ID", "STEP", "PARENT", "AGE", "USED", "IN USE", "INSTRUCTION"], &cells)
}
