//! `pm validate`: checks a manifest with no cluster at hand.

use crate::args::ValidateArguments;
use crate::error::CommandError;
use crate::manifest;
use crate::output::Output;

/// Checks a manifest, or prints what a manifest may say.
pub(crate) fn run(arguments: &ValidateArguments, output: Output) -> Result<(), CommandError> {
    if arguments.schema {
        return output.result(&common::manifest::schema(), |schema| format!("{schema:#}"));
    }
    let manifest = manifest::read("validate the manifest", &arguments.directory)?;
    let application = &manifest.checked.spec.application;
    output.result(
        &serde_json::json!({
            "path": manifest.path,
            "application": application,
            "instance_types": manifest.checked.spec.instance_types.iter().map(|instance_type| &instance_type.name).collect::<Vec<_>>(),
            "notices": manifest.checked.notices,
        }),
        |_| {
            let mut text = format!("{}: application `{application}` is valid.\n", manifest.path.display());
            for notice in &manifest.checked.notices {
                text.push_str(&manifest::notice_line(&manifest.path, notice));
                text.push('\n');
            }
            text
        },
    )
}
