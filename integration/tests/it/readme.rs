//! README's commands are typed as they stand there, so they cannot rot.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use integration::DevProcess;

use crate::support::body;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The lines of the `sh` blocks of a text.
fn shell_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        match line {
            "```sh" => in_block = true,
            "```" => in_block = false,
            line if in_block && !line.trim().is_empty() => lines.push(line.trim().to_owned()),
            _ => {}
        }
    }
    lines
}

#[test]
fn the_first_command_starts_the_sample() -> Result<()> {
    let text = std::fs::read_to_string(root().join("README.md")).context("reading README.md")?;
    let lines = shell_lines(&text);
    assert_eq!(
        lines.first().map(String::as_str),
        Some("cargo run --release -- dev --deploy manifests/hello")
    );
    assert!(
        lines.iter().any(|line| line == "scripts/test"),
        "{lines:#?}"
    );
    Ok(())
}

#[tokio::test]
async fn the_tour_works_as_it_stands() -> Result<()> {
    let options = integration::DevOptions {
        deploy: Some(root().join("manifests/hello")),
        ..integration::DevOptions::default()
    };
    let dev = DevProcess::start_with(options).await?;
    let text = std::fs::read_to_string(root().join("README.md")).context("reading README.md")?;
    let root = root();
    let typed: Vec<String> = shell_lines(&text)
        .into_iter()
        .filter(|line| line.starts_with("pm "))
        .collect();
    assert!(typed.len() >= 8, "{typed:#?}");

    for line in typed {
        let arguments: Vec<String> = line
            .split_whitespace()
            .skip(1)
            .map(|word| {
                if word.starts_with("manifests/") {
                    root.join(word).display().to_string()
                } else {
                    word.to_owned()
                }
            })
            .collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        dev.pm(&arguments)
            .await?
            .success()
            .with_context(|| format!("typing {line:?}"))?;
    }

    assert!(body(&dev, "guestbook").await?.contains("\"greeting\""));
    dev.passed();
    Ok(())
}
