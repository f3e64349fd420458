//! Lists: tags, repositories, and what the hub finds.

use std::collections::BTreeSet;

use rootling_backends::{Context as _, Error, ErrorKind, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::client::{Call, Client, To};
use super::hosts::Endpoint;
use super::pull::pull_of;
use super::scope::Scope;
use super::transport::{Method, Response};
use super::url::Url;

/// Bytes of a list, on however many pages.
const LIMIT: u64 = 64 << 20;

/// Pages that are read: more than the largest registries have.
const PAGES: usize = 10_000;

/// The hub, and where it is searched.
const HUB: (&str, &str) = ("docker.io", "https://index.docker.io/v1/search");

/// What a search found.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Found {
    /// The repository, without the host.
    pub name: String,
    /// What its owner says of it.
    #[serde(default)]
    pub description: String,
    /// How many like it.
    #[serde(default, rename = "star_count")]
    pub stars: u64,
    /// Is it kept by the hub itself?
    #[serde(default, rename = "is_official")]
    pub official: bool,
}

#[derive(Deserialize)]
struct Tags {
    /// Registries write `null` for an empty repository.
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Repositories {
    repositories: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Results {
    results: Vec<Found>,
}

impl Client {
    /// Returns all tags of a repository, sorted.
    pub fn tags(&self, host: &str, repository: &str) -> Result<Vec<String>> {
        self.tags_up_to(host, repository, PAGES).context(|| format!("list the tags of {host}/{repository}"))
    }

    /// Returns the tags of the first page.
    pub(super) fn first_tags(&self, host: &str, repository: &str) -> Result<Vec<String>> {
        self.tags_up_to(host, repository, 1)
    }

    fn tags_up_to(&self, host: &str, repository: &str, pages: usize) -> Result<Vec<String>> {
        let endpoint = self.origin(host, repository)?;
        let mut all = BTreeSet::new();
        let path = "tags/list?n=1000";
        let known =
            self.pages_up_to(&endpoint, To::Repository(path), pull_of(&endpoint), pages, |page: Tags| {
                all.extend(page.tags.unwrap_or_default());
            })?;
        if !known {
            return Err(Error::new(ErrorKind::NotFound, format!("{} is not known there", endpoint.name())));
        }
        Ok(all.into_iter().collect())
    }

    /// Returns all repositories of a registry that lists them, sorted.
    pub fn repositories(&self, host: &str) -> Result<Vec<String>> {
        let list = || {
            let endpoint = self.origin(host, "")?;
            let mut all = BTreeSet::new();
            let path = "_catalog?n=1000";
            let known =
                self.pages(&endpoint, To::Base(path), vec![Scope::Catalog], |page: Repositories| {
                    all.extend(page.repositories.unwrap_or_default());
                })?;
            match known {
                true => Ok(all.into_iter().collect()),
                false => Err(Error::new(ErrorKind::Unsupported, "this registry lists no repositories")),
            }
        };
        list().context(|| format!("list the repositories of {host}"))
    }

    /// Returns up to `limit` repositories whose name (at the hub: or description) has `term`.
    pub fn search(&self, host: &str, term: &str, limit: usize) -> Result<Vec<Found>> {
        if host == HUB.0 {
            return self.search_hub(term, limit).context(|| format!("search the hub for {term:?}"));
        }
        let all = self.repositories(host)?;
        let fitting = all.into_iter().filter(|name| name.contains(term)).take(limit);
        Ok(fitting
            .map(|name| Found { name, description: String::new(), stars: 0, official: false })
            .collect())
    }

    fn search_hub(&self, term: &str, limit: usize) -> Result<Vec<Found>> {
        let url = Url::parse(HUB.1)?;
        let url = url.with("q", term).with("n", &limit.clamp(1, 100).to_string());
        let call = Call::new(Method::Get, To::Address(&url), Vec::new());
        let sent = self.persist(HUB.0, false, || self.anonymous(&url, &call));
        let mut response = sent.map_err(|trouble| self.final_error(trouble, Method::Get, HUB.0))?;
        let page: Results = page(&mut response, &mut { LIMIT })?;
        Ok(page.results.into_iter().take(limit).collect())
    }

    /// Reads page after page; false if the first is not there.
    pub(super) fn pages<T: DeserializeOwned>(
        &self,
        endpoint: &Endpoint,
        first: To<'_>,
        scopes: Vec<Scope>,
        each: impl FnMut(T),
    ) -> Result<bool> {
        self.pages_up_to(endpoint, first, scopes, PAGES, each)
    }

    fn pages_up_to<T: DeserializeOwned>(
        &self,
        endpoint: &Endpoint,
        first: To<'_>,
        scopes: Vec<Scope>,
        pages: usize,
        mut each: impl FnMut(T),
    ) -> Result<bool> {
        let call = Call::new(Method::Get, first, scopes.clone()).answers(&[404]);
        let mut response = self.send(endpoint, &call)?;
        if response.status == 404 {
            return Ok(false);
        }
        let mut seen = BTreeSet::new();
        let mut left = LIMIT;
        for _ in 0..pages {
            let next = response.headers("link").find_map(next_of).map(str::to_owned);
            each(page(&mut response, &mut left)?);
            let Some(next) = next else { break };
            // Who leads in a circle has said all.
            if !seen.insert(next.clone()) {
                break;
            }
            let address = self.address(endpoint, &next)?;
            response = self.send(endpoint, &Call::new(Method::Get, To::Address(&address), scopes.clone()))?;
        }
        Ok(true)
    }
}

/// Reads a page of a list of which no more than `left` bytes may come.
fn page<T: DeserializeOwned>(response: &mut Response, left: &mut u64) -> Result<T> {
    let body = response.read(*left).context(|| "read the list")?;
    let body =
        body.ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("a list of more than {LIMIT} bytes")))?;
    *left -= body.len() as u64;
    serde_json::from_slice(&body)
        .map_err(|error| Error::new(ErrorKind::Corrupt, format!("the list is not as it should be: {error}")))
}

/// Reads `<address>; rel="next"`.
fn next_of(link: &str) -> Option<&str> {
    let (address, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    let mut parameters = rest.split([';', ',']).map(str::trim);
    parameters.any(|parameter| parameter == "rel=\"next\"" || parameter == "rel=next").then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read() {
        assert_eq!(
            next_of(r#"</v2/a/tags/list?last=b&n=2>; rel="next""#),
            Some("/v2/a/tags/list?last=b&n=2")
        );
        assert_eq!(next_of("<x>; rel=next"), Some("x"));
        assert_eq!(next_of(r#"<x>; rel="prev""#), None);
        assert_eq!(next_of("x; rel=next"), None);
    }
}
