//! Why a step was there, or was not: what it depends on, beside what it depended on in the last build of the same recipe.
//!
//! The store keeps, for each recipe, what the steps of its last build depended on, and of those that it did not get to what
//! they depended on before. Where the files of a context differ, the first that does
//! is named: small lists of what they came to are kept, too.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use rootling_backends::Result;
use serde::{Deserialize, Serialize};

use super::execute::At;
use super::key::Fields;
use super::plan::{Stage, Step};
use crate::store::{StepRecord, Store};

/// Files of which a list is kept.
const LONGEST_LIST: usize = 2000;

/// What a recipe's last build left.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Note {
    steps: Vec<Noted>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Noted {
    stage: String,
    index: usize,
    shown: String,
    fields: Vec<(String, String)>,
    /// What files came to, by path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    files: BTreeMap<String, String>,
}

impl Noted {
    fn is_at(&self, stage: &str, index: usize) -> bool {
        self.stage == stage && self.index == index
    }
}

/// Compares the steps of a build with those of the one before.
#[derive(Debug)]
pub struct Explainer {
    recipe: String,
    before: Note,
    now: Mutex<Note>,
    /// By the line and the text of the instruction.
    files: Mutex<BTreeMap<(usize, String), BTreeMap<String, String>>>,
}

impl Explainer {
    /// Reads what the last build of a recipe left; what cannot be read is as if there had been none.
    pub fn new(store: &Store, recipe: &str) -> Result<Self> {
        let bytes = store.read_recipe_note(recipe)?.unwrap_or_default();
        Ok(Self {
            recipe: recipe.to_owned(),
            before: serde_json::from_slice(&bytes).unwrap_or_default(),
            now: Mutex::default(),
            files: Mutex::default(),
        })
    }

    /// Remembers what the files came to that a step reads; lists that are too long are not kept.
    pub fn read(&self, step: &Step, files: impl Iterator<Item = (String, String)>) {
        let files: BTreeMap<String, String> = files.take(LONGEST_LIST + 1).collect();
        if files.len() <= LONGEST_LIST {
            let key = (step.lines.0, step.shown.clone());
            self.files.lock().expect("nobody panics who holds it").insert(key, files);
        }
    }

    /// Notes a step, and says in words why it was there, or was not.
    pub fn note(&self, at: At<'_>, fields: &Fields, was_there: bool) -> String {
        let noted = self.noted(at, fields);
        let before = self.before(&noted);
        let why = match (was_there, before) {
            (true, _) => "hit".to_owned(),
            (false, None) => "miss: nothing like it was done in the last build".to_owned(),
            (false, Some(before)) => format!("miss: {}", difference(&noted, before, fields)),
        };
        let mut now = self.now();
        now.steps.retain(|known| !known.is_at(&noted.stage, noted.index));
        now.steps.push(noted);
        why
    }

    /// Replaces what the last build left, if this one got anywhere. Of steps that it did not get to, as nobody asked for them or one before
    /// them failed, what was noted before stays.
    pub fn save(&self, store: &Store, stages: &[Stage]) -> Result<()> {
        let mut now = self.now();
        if now.steps.is_empty() {
            return Ok(());
        }
        let is_planned = |noted: &Noted| {
            let mut stages =
                stages.iter().map(|stage| (At { stage, index: 0 }.stage_name(), stage.steps.len()));
            stages.any(|(name, count)| name == noted.stage && noted.index < count)
        };
        let is_new = |noted: &Noted| now.steps.iter().any(|step| step.is_at(&noted.stage, noted.index));
        let before = self.before.steps.iter().filter(|noted| is_planned(noted) && !is_new(noted));
        let before: Vec<Noted> = before.cloned().collect();
        now.steps.extend(before);
        let bytes = serde_json::to_vec(&*now).expect("it has text for keys");
        store.write_recipe_note(&self.recipe, &bytes)
    }

    fn now(&self) -> MutexGuard<'_, Note> {
        self.now.lock().expect("nobody panics who holds it")
    }

    fn noted(&self, at: At<'_>, fields: &Fields) -> Noted {
        let step = at.step();
        let files = self.files.lock().expect("nobody panics who holds it");
        Noted {
            stage: at.stage_name(),
            index: at.index,
            shown: step.shown.clone(),
            fields: kept(fields.pairs()),
            files: files.get(&(step.lines.0, step.shown.clone())).cloned().unwrap_or_default(),
        }
    }

    /// Returns what a step was in the last build: at the same place, or else the one of the same words.
    fn before(&self, noted: &Noted) -> Option<&Noted> {
        let of_stage = || self.before.steps.iter().filter(|known| known.stage == noted.stage);
        let same = |known: &&Noted| known.index == noted.index && known.shown == noted.shown;
        of_stage()
            .find(same)
            .or_else(|| of_stage().find(|known| known.shown == noted.shown))
            .or_else(|| of_stage().find(|known| known.index == noted.index))
    }
}

fn kept(pairs: &[(String, String)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| (name.clone(), StepRecord::kept(value).into_owned())).collect()
}

fn difference(now: &Noted, before: &Noted, fields: &Fields) -> String {
    let Some(found) = Fields::from_pairs(kept(fields.pairs())).first_difference(&before.fields) else {
        return "it is gone from the store, or was not to be looked for".to_owned();
    };
    let is_content = found.name == "files" || found.name.ends_with(" content");
    if is_content && let Some(file) = first_file(&now.files, &before.files) {
        return file;
    }
    match (found.name.as_str(), found.before, found.now) {
        ("parent", ..) => "what it stands on is another".to_owned(),
        _ if is_content => "the files that it reads are others".to_owned(),
        (name, Some(was), Some(is)) => format!("{name} was {was:?} and is {is:?}"),
        (name, None, Some(is)) => format!("{name} is new: {is:?}"),
        (name, ..) => format!("{name} is gone"),
    }
}

/// Names the first file that is not what it was.
fn first_file(now: &BTreeMap<String, String>, before: &BTreeMap<String, String>) -> Option<String> {
    if now.is_empty() || before.is_empty() {
        return None;
    }
    let mut paths: Vec<&String> = now.keys().chain(before.keys()).collect();
    paths.sort();
    let path = paths.into_iter().find(|path| now.get(*path) != before.get(*path))?;
    Some(match (before.get(path), now.get(path)) {
        (None, _) => format!("file {path} is new"),
        (_, None) => format!("file {path} is gone"),
        _ => format!("file {path} is another"),
    })
}
