//! A1: whatever a shell, a URL, a header or a terminal could read in its own way stands in every
//! field of a cron, and arrives as it was written or is refused at its place.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use common::api::{CronRunState, CronRunView, CronView};
use integration::{DevProcess, Receiver, eventually};
use serde_json::{Value, json};

use super::{BY_HAND, CHORES, agrees};
use crate::support::deploy;

/// Texts that something on the way could take for more than a text.
const HOSTILE: [&str; 28] = [
    "; touch /tmp/pm-test-owned",
    "$(touch /tmp/pm-test-owned)",
    "`touch /tmp/pm-test-owned`",
    "a|b & c > d < e",
    "-x",
    "--help",
    "'single' \"double\"",
    "back\\slash \\n",
    "line\nbreak",
    "carriage\rreturn",
    "tab\there",
    "nul\0byte",
    "escape\u{1b}[2J",
    "bell\u{7}",
    "pässwörd ✓ 日本",
    "\u{202e}right to left",
    "%2e%2e/%00",
    "../../etc/passwd",
    "a/b/c",
    "a:b",
    "a?b=c&d#e",
    "{{ template }}",
    "%(port)d %s",
    "name\r\nX-Injected: yes",
    " blanks around ",
    "null",
    "*",
    "a<b>\"c\"{d}|e\\f^g`h'i~;$(j)&k",
];
/// How an expression is written in the field `uri`, which begins with a slash.
fn as_uri(text: &str) -> String {
    format!("/{text}")
}

/// The crons of the manifest: each has one hostile field.
fn crons() -> Vec<(&'static str, Value)> {
    let mut crons = Vec::new();
    for (number, text) in HOSTILE.into_iter().enumerate() {
        let plain = |field: &str| format!("{field} {number}");
        for (field, cron) in [
            ("name", json!({ "name": text, "uri": "/ok" })),
            ("uri", json!({ "name": plain("uri"), "uri": as_uri(text) })),
            (
                "username",
                json!({ "name": plain("username"), "uri": "/ok", "username": text, "password": "p" }),
            ),
            (
                "password",
                json!({ "name": plain("password"), "uri": "/ok", "username": "u", "password": text }),
            ),
            (
                "timezone",
                json!({ "name": plain("timezone"), "uri": "/ok", "timezone": text }),
            ),
            (
                "runspec",
                json!({ "name": plain("runspec"), "uri": "/ok", "runspec": text }),
            ),
        ] {
            crons.push((field, cron));
        }
    }
    crons
}

/// What a path of a fault such as `instances[0].crons[7].name` is about.
fn place(path: &str) -> Option<(usize, &str)> {
    let (index, field) = path.strip_prefix("instances[0].crons[")?.split_once("].")?;
    Some((index.parse().ok()?, field))
}

/// What `pm validate` takes exception to, by the number of the cron; each at the field that is hostile.
async fn refused(dev: &DevProcess, crons: &[(&'static str, Value)]) -> Result<BTreeSet<usize>> {
    let mut receiver = Receiver::new(CHORES)?;
    for (_, cron) in crons {
        add(&mut receiver, cron)?;
    }
    let directory = receiver.application().argument()?;
    let said = dev
        .pm(&["validate", directory, "--format", "json"])
        .await?
        .failure()?;
    let said: Value = serde_json::from_str(&said.stderr).context("reading the faults")?;
    let faults = said["error"]["faults"].as_array().context("faults")?;
    let mut refused = BTreeSet::new();
    for fault in faults {
        let path = fault["path"].as_str().context("a fault has a path")?;
        let (index, field) = place(path).with_context(|| format!("{fault}"))?;
        ensure!(
            field == crons[index].0,
            "{fault} is about {}",
            crons[index].1
        );
        ensure!(fault["line"].as_u64() > Some(1), "{fault}");
        refused.insert(index);
    }
    Ok(refused)
}

fn add(receiver: &mut Receiver, cron: &Value) -> Result<()> {
    let text = |key: &str| cron[key].as_str();
    receiver
        .cron(
            text("name").context("a name")?,
            text("runspec").unwrap_or(BY_HAND),
            text("uri").context("a uri")?,
            cron,
        )
        .map(|_| ())
}

#[tokio::test]
async fn a1_hostile_texts_arrive_as_written_or_are_refused_at_their_place() -> Result<()> {
    let dev = DevProcess::start().await?;
    let mut taken = Vec::new();
    // A type has at most a hundred crons, a deployment of each field shows them all.
    for field in ["name", "uri", "username", "password", "timezone", "runspec"] {
        let all: Vec<_> = crons().into_iter().filter(|(of, _)| *of == field).collect();
        let refused = refused(&dev, &all).await?;
        ensure!(refused.len() < all.len() || ["timezone", "runspec"].contains(&field));
        let kept = all.into_iter().enumerate();
        taken.extend(
            kept.filter(|(index, _)| !refused.contains(index))
                .map(|(_, cron)| cron),
        );
    }
    println!("{} of {} texts were taken", taken.len(), crons().len());
    ensure!(taken.iter().all(|(field, _)| *field != "timezone"));
    let mut receiver = Receiver::new(CHORES)?;
    for (_, cron) in &taken {
        add(&mut receiver, cron)?;
    }
    deploy(&dev, receiver.application()).await?;
    let listed: Vec<CronView> = super::json(&dev, &["cron", "list", CHORES]).await?;
    ensure!(listed.len() == taken.len());

    for (field, cron) in &taken {
        let run = match *field {
            "name" => typed(&dev, cron).await,
            _ => asked(&dev, cron).await,
        };
        let run = run.with_context(|| format!("the {field} of {cron}"))?;
        arrives(&receiver, cron, &run).with_context(|| format!("the {field} of {cron}"))?;
    }
    let table = dev.pm(&["cron", "list", CHORES]).await?.success()?.stdout;
    let is_control = |character: char| character.is_control() && character != '\n';
    ensure!(!table.contains(is_control), "{table:?}");
    ensure!(!std::path::Path::new("/tmp/pm-test-owned").exists());
    dev.passed();
    Ok(())
}

/// Runs a cron as a person does, and reads all that is kept of it.
async fn typed(dev: &DevProcess, cron: &Value) -> Result<CronRunView> {
    let name = cron["name"].as_str().context("a name")?;
    let arguments = ["cron", "run", "--format", "json", "--", CHORES, name];
    let run: CronRunView = dev.pm(&arguments).await?.success()?.json()?;
    let arguments = ["cron", "history", "--format", "json", "--", CHORES, name];
    let runs: Vec<CronRunView> = dev.pm(&arguments).await?.success()?.json()?;
    ensure!(runs.len() == 1 && runs[0] == run, "{runs:?}");
    let log = dev.pm(&["cron", "log", &run.id.to_string()]).await?;
    let log = log.success()?.stdout;
    ensure!(log.contains("\ndone: /ok\n"), "{log:?}");
    Ok(run)
}

/// Runs a cron as a program does: a process for each would take long.
async fn asked(dev: &DevProcess, cron: &Value) -> Result<CronRunView> {
    let client = dev.client()?;
    let application = dev.application(CHORES).await?.id;
    let name = cron["name"].as_str().context("a name")?;
    // A key is a header: the name itself cannot be one.
    let key = format!(
        "hostile-{}",
        common::digest::Digest::of(cron.to_string().as_bytes())
    );
    let run = client.start_cron_run(application, name, &key).await?.id;
    eventually("the run has ended", || async {
        let run = client.cron_run(run).await.ok()?;
        run.state.is_final().then_some(run)
    })
    .await
}

fn arrives(receiver: &Receiver, cron: &Value, run: &CronRunView) -> Result<()> {
    ensure!(run.state == CronRunState::Succeeded, "{run:?}");
    let name = cron["name"].as_str().context("a name")?;
    ensure!(run.cron == format!("web/{name}"), "{run:?}");
    let calls = receiver.calls()?;
    agrees(run, &calls)?;
    let call = calls.last().context("a call")?;
    ensure!(call.run == run.id.0, "{call:?}");
    ensure!(Some(call.uri.as_str()) == cron["uri"].as_str(), "{call:?}");
    let credentials = cron["username"].as_str().map(|username| {
        let password = cron["password"].as_str().unwrap_or_default();
        format!("{username}:{password}")
    });
    ensure!(call.credentials == credentials, "{call:?}");
    Ok(())
}
