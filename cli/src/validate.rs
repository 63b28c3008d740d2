//! `pm validate`: checks a manifest with no cluster at hand, and says when its crons are due.

use common::application::{CronSpec, InstanceTypeSpec};
use common::time::Timestamp;
use serde::Serialize;

use crate::args::ValidateArguments;
use crate::error::CommandError;
use crate::manifest::{self, Manifest};
use crate::output::{self, Output};

/// How many of the next times of each cron are shown.
const TIMES: usize = 5;

/// What is due in the time zone of a cron.
#[derive(Debug, Serialize)]
struct DueCron {
    instance_type: String,
    name: String,
    runspec: String,
    timezone: String,
    /// The next times, as RFC 3339 writes them, with the offset of the zone.
    next: Vec<String>,
    /// The same for people.
    #[serde(skip)]
    in_words: Vec<String>,
}

/// Checks a manifest, or prints what a manifest may say.
pub(crate) fn run(arguments: &ValidateArguments, output: Output) -> Result<(), CommandError> {
    if arguments.schema {
        return output.result(&common::manifest::schema(), |schema| format!("{schema:#}"));
    }
    let manifest = manifest::read("validate the manifest", &arguments.directory)?;
    let spec = &manifest.checked.spec;
    let crons = due_crons(&spec.instance_types, output::now());
    output.result(
        &serde_json::json!({
            "path": manifest.path,
            "application": spec.application,
            "instance_types": spec.instance_types.iter().map(|instance_type| &instance_type.name).collect::<Vec<_>>(),
            "crons": crons,
            "notices": manifest.checked.notices,
        }),
        |_| for_people(&manifest, &crons),
    )
}

fn for_people(manifest: &Manifest, crons: &[DueCron]) -> String {
    let application = &manifest.checked.spec.application;
    let mut text = format!(
        "{}: application `{application}` is valid.\n",
        manifest.path.display()
    );
    for cron in crons {
        text.push_str(&format!(
            "cron {}/{}, {} in {}:\n",
            cron.instance_type, cron.name, cron.runspec, cron.timezone
        ));
        if cron.in_words.is_empty() {
            text.push_str("  never again\n");
        }
        for time in &cron.in_words {
            text.push_str(&format!("  {time}\n"));
        }
    }
    for notice in &manifest.checked.notices {
        text.push_str(&manifest::notice_line(&manifest.path, notice));
        text.push('\n');
    }
    text
}

fn due_crons(instance_types: &[InstanceTypeSpec], now: Timestamp) -> Vec<DueCron> {
    let crons = instance_types.iter().flat_map(|instance_type| {
        let crons = instance_type.crons.iter();
        crons.map(move |cron| (instance_type, cron))
    });
    crons
        .map(|(instance_type, cron)| {
            let times = next_times(cron, now);
            DueCron {
                instance_type: instance_type.name.to_string(),
                name: cron.name.to_string(),
                runspec: cron.runspec.to_string(),
                timezone: cron.timezone.to_string(),
                next: times
                    .iter()
                    .map(|time| cron.timezone.rfc3339(*time))
                    .collect(),
                in_words: times
                    .iter()
                    .map(|time| cron.timezone.in_words(*time))
                    .collect(),
            }
        })
        .collect()
}

fn next_times(cron: &CronSpec, now: Timestamp) -> Vec<Timestamp> {
    let next = |after| cron.runspec.next_after(after, &cron.timezone);
    std::iter::successors(next(now), |previous| next(*previous))
        .take(TIMES)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_across_a_clock_change_have_their_own_offset() {
        let text = "\
manifest: {format: 1}
application: {name: a}
instances:
  - name: web
    runtime: {plugin: paasmaker.runtime.static, version: 1, parameters: {document_root: .}}
    crons: [{runspec: '30 2 * * *', uri: /clean, timezone: Europe/Berlin}]
";
        let spec = common::manifest::parse(text).unwrap().spec;
        // 2026-03-28T00:00:00Z
        let crons = due_crons(&spec.instance_types, Timestamp(1_774_656_000_000));

        assert_eq!(crons.len(), 1);
        assert_eq!(
            crons[0].next,
            [
                "2026-03-28T02:30:00+01:00",
                "2026-03-29T03:00:00+02:00",
                "2026-03-30T02:30:00+02:00",
                "2026-03-31T02:30:00+02:00",
                "2026-04-01T02:30:00+02:00",
            ]
        );
        assert_eq!(crons[0].in_words[1], "Sun 2026-03-29 03:00 +02:00");
    }
}
