//! Lists: the tags of a repository (end-8), and the repositories, both in parts if that is asked for.

use rootling_backends::Result;
use serde_json::json;

use super::http::{Answer, Head};
use super::shelf::Shelf;
use super::trouble::{Answered, Code, refuse};
use crate::store::Store;

/// Lists the tags of a repository.
pub(super) fn list(shelf: &Shelf<'_>, head: &Head) -> Answered {
    let name = shelf.pushed.name();
    if !shelf.exists()? {
        return refuse(404, Code::NameUnknown, format!("there is no repository {name}"));
    }
    let (tags, next) = part(shelf.tags()?, head)?;
    let answer = Answer::json(200, "application/json", &json!({ "name": name, "tags": tags }));
    Ok(linked(answer, &format!("/v2/{name}/tags/list"), next))
}

/// Lists the repositories.
pub(super) fn catalog(store: &Store, head: &Head) -> Answered {
    let (names, next) = part(repositories(store)?, head)?;
    let answer = Answer::json(200, "application/json", &json!({ "repositories": names }));
    Ok(linked(answer, "/v2/_catalog", next))
}

fn repositories(store: &Store) -> Result<Vec<String>> {
    let mut names = store.repositories()?;
    names.extend(store.repositories_of_images()?);
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// Takes the part of a sorted list that is asked for by `n` and `last`, and says how to ask for the next.
fn part(mut all: Vec<String>, head: &Head) -> Answered<(Vec<String>, Option<String>)> {
    if let Some(last) = head.asked("last") {
        all.retain(|one| one.as_str() > last);
    }
    let Some(most) = head.asked("n") else { return Ok((all, None)) };
    let Ok(most) = most.parse::<usize>() else {
        return refuse(400, Code::Unsupported, "n is no number");
    };
    let more = all.len() > most;
    all.truncate(most);
    let next = all.last().filter(|_| more).map(|last| format!("n={most}&last={last}"));
    Ok((all, next))
}

fn linked(answer: Answer, path: &str, next: Option<String>) -> Answer {
    match next {
        Some(next) => answer.line("Link", format!("<{path}?{next}>; rel=\"next\"")),
        None => answer,
    }
}
