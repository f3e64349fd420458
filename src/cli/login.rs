//! `login` and `logout`: who one is at registries; and `search`.

use std::io::Read;

use rootling_backends::{Context as _, Error, ErrorKind, Result};
use serde::Serialize;

use super::output::Answer;
use super::places::{self, RegistryFlags};
use super::{Context, output};
use crate::registry::{Client, Credential};

#[derive(Debug, clap::Args)]
pub(super) struct LoginArguments {
    /// The registry [default: docker.io]
    #[arg(value_name = "HOST", default_value = "docker.io", hide_default_value = true)]
    host: String,

    /// Your name there
    #[arg(short, long, value_name = "USER")]
    username: Option<String>,

    /// Your password, or an access token; others on this machine can see it in the list of processes
    #[arg(short, long, value_name = "PASSWORD", conflicts_with = "password_stdin")]
    password: Option<String>,

    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,

    /// Take plain http, and certificates of anybody
    #[arg(long)]
    insecure: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct LogoutArguments {
    /// The registry [default: docker.io]
    #[arg(value_name = "HOST", default_value = "docker.io", hide_default_value = true)]
    host: String,

    /// Forget what is known of all registries
    #[arg(short, long, conflicts_with = "host")]
    all: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct SearchArguments {
    /// What to look for: TERM, or HOST/TERM in a registry that lists its repositories
    term: String,

    /// How many to show
    #[arg(long, default_value_t = 25, value_name = "N")]
    limit: usize,

    #[command(flatten)]
    registry: RegistryFlags,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    description: String,
    stars: u64,
    official: bool,
}

pub(super) fn login(context: &Context, arguments: &LoginArguments) -> Result<()> {
    let host = places::registry_key(&arguments.host)?;
    let username = match &arguments.username {
        Some(username) => username.clone(),
        None => asked(context, &format!("user name at {host}: "), false)?,
    };
    let password = match &arguments.password {
        Some(password) => password.clone(),
        None if arguments.password_stdin => from_standard_input()?,
        None => asked(context, &format!("password of {username} at {host}: "), true)?,
    };
    let credential = Credential::Password { username: username.clone(), password };
    let mut settings = RegistryFlags::insecure(arguments.insecure).settings(context, Some(&host))?;
    settings.given = Some(credential.clone());
    // Only what is good is kept.
    let is_asked = Client::new(settings).log_in(&host)?;
    let file = places::credentials(context)?.store(&host, &credential)?;
    if !is_asked {
        context
            .output
            .say(format!("{host} lets everybody in, so nobody knows whether the password is right"));
    }
    context.output.say(format!("{username} is known at {host} from now on: {}", file.display()));
    Ok(())
}

fn from_standard_input() -> Result<String> {
    const LONGEST: u64 = 64 << 10;
    let mut text = String::new();
    std::io::stdin().take(LONGEST).read_to_string(&mut text).context(|| "read(stdin)")?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn asked(context: &Context, question: &str, secret: bool) -> Result<String> {
    if !context.output.can_ask() {
        return Err(Error::new(ErrorKind::InvalidInput, "there is no terminal to ask at")
            .hint("say -u USER, and --password-stdin < FILE"));
    }
    let answer = if secret { context.output.ask_secret(question) } else { context.output.ask(question) };
    match answer? {
        Answer::Line(line) if !line.trim_end().is_empty() => {
            Ok(line.trim_end_matches(['\r', '\n']).to_owned())
        }
        _ => Err(Error::new(ErrorKind::InvalidInput, "nothing was said")),
    }
}

pub(super) fn logout(context: &Context, arguments: &LogoutArguments) -> Result<()> {
    let credentials = places::credentials(context)?;
    let hosts = match arguments.all {
        true => credentials.list()?.into_keys().collect(),
        false => vec![places::registry_key(&arguments.host)?],
    };
    for host in hosts {
        let files = credentials.erase(&host)?;
        if files.is_empty() && !arguments.all {
            let known: Vec<String> = credentials.list()?.into_keys().collect();
            let hint = match known.is_empty() {
                true => "nobody is known anywhere: `rootling login HOST` makes you known".to_owned(),
                false => format!("somebody is known at {}", known.join(", ")),
            };
            return Err(Error::new(ErrorKind::NotFound, format!("nobody is known at {host}")).hint(hint));
        }
        for file in files {
            context.output.say(format!("forgot who you are at {host}: {}", file.display()));
        }
    }
    Ok(())
}

pub(super) fn search(context: &Context, arguments: &SearchArguments) -> Result<()> {
    let (host, term) = match arguments.term.split_once('/') {
        Some((host, term)) if host.contains(['.', ':']) || host == "localhost" => (host, term),
        _ => ("docker.io", arguments.term.as_str()),
    };
    let client = Client::new(arguments.registry.settings(context, Some(host))?);
    let found = client.search(host, term, arguments.limit)?;
    let rows: Vec<Row> = found
        .into_iter()
        .map(|found| Row {
            name: if host == "docker.io" { found.name } else { format!("{host}/{}", found.name) },
            description: found.description,
            stars: found.stars,
            official: found.official,
        })
        .collect();
    context.output.list_of(&rows, rows.iter().map(|row| &row.name), || {
        let cells = rows.iter().map(|row| {
            let description = output::shortened(&output::one_line(&row.description), 60);
            let official = if row.official { "yes" } else { "" };
            vec![row.name.clone(), description, row.stars.to_string(), official.to_owned()]
        });
        output::table(&["NAME", "DESCRIPTION", "STARS", "OFFICIAL"], &cells.collect::<Vec<_>>())
    });
    Ok(())
}
