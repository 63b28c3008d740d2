//! `pm logs`: what an application's instances write.
//!
//! A human reads lines, each after the name of its instance when there are several; a program gets
//! one JSON object per line.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use common::api::ApplicationView;
use common::id::{InstanceId, InstanceTypeName};
use pacemaker_client::{Client, LogPosition};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::args::LogsArguments;
use crate::connection::Connection;
use crate::error::{CommandError, code};
use crate::progress::write_stderr;

/// Chunks that wait to be printed; a slow terminal slows the readers down.
const CHUNKS_WAITING: usize = 16;
/// Time between two looks for instances that have started since.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The longest line that is kept together.
const LINE_MAX_BYTES: usize = 64 * 1024;

/// An instance whose log is read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    instance: InstanceId,
    instance_type: InstanceTypeName,
}

/// Shows the logs, and goes on when asked to.
pub(crate) async fn run(
    connection: &Connection,
    arguments: &LogsArguments,
) -> Result<(), CommandError> {
    let view = connection.application(&arguments.application).await?;
    let sources = sources(&view, arguments);
    if sources.is_empty() && !arguments.follow {
        return Err(nothing_to_read(&view, arguments));
    }
    if !arguments.follow {
        return print_all(connection, &sources, arguments.lines).await;
    }
    tokio::select! {
        result = follow(connection, arguments, view) => result,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.map_err(|error| CommandError::file("wait for signals", &error))
        }
    }
}

fn nothing_to_read(view: &ApplicationView, arguments: &LogsArguments) -> CommandError {
    let why = match (arguments.instance, &arguments.instance_type) {
        (Some(instance), _) => format!("it has no instance {instance}"),
        (None, Some(name)) => format!("its current version has no instance of a type `{name}`"),
        (None, None) => "its current version has no instances".to_owned(),
    };
    CommandError::new(
        code::NOT_FOUND,
        format!("show the logs of `{}`", view.name),
        why,
    )
    .next(format!("`pm status {}` lists what there is", view.name))
}

/// The instances that were asked for: one, or those of the current version (the newest when none is current).
fn sources(view: &ApplicationView, arguments: &LogsArguments) -> Vec<Source> {
    let current = view
        .versions
        .iter()
        .find(|version| version.is_current)
        .or_else(|| view.versions.first())
        .map(|version| version.number);
    view.versions
        .iter()
        .filter(|version| arguments.instance.is_some() || Some(version.number) == current)
        .flat_map(|version| &version.instance_types)
        .filter(|instance_type| {
            arguments
                .instance_type
                .as_ref()
                .is_none_or(|name| *name == instance_type.name)
        })
        .flat_map(|instance_type| {
            instance_type.instances.iter().map(|instance| Source {
                instance: instance.id,
                instance_type: instance_type.name.clone(),
            })
        })
        .filter(|source| arguments.instance.is_none_or(|id| id == source.instance))
        .collect()
}

/// Prints what there is of each log; one that cannot be read now does not hide the others.
async fn print_all(
    connection: &Connection,
    sources: &[Source],
    lines: u32,
) -> Result<(), CommandError> {
    let prefixed = sources.len() > 1;
    let mut unreadable = Vec::new();
    for source in sources {
        let doing = format!("read the log of instance {}", source.instance);
        match print_whole(connection, source, lines, prefixed).await? {
            Ok(()) => {}
            Err(error) if error.is_unreachable() => return Err(connection.failed(doing)(error)),
            Err(error) => unreadable.push(connection.failed(doing)(error)),
        }
    }
    if unreadable.len() == sources.len()
        && let Some(first) = unreadable.first()
    {
        return Err(first.clone());
    }
    for error in unreadable {
        write_stderr(&format!("note: could not {}: {}", error.doing, error.why));
    }
    Ok(())
}

/// The inner error is that of the cluster, the outer one that of the terminal.
async fn print_whole(
    connection: &Connection,
    source: &Source,
    lines: u32,
    prefixed: bool,
) -> Result<Result<(), pacemaker_client::Error>, CommandError> {
    let mut printer = Printer::new(source.clone());
    let mut position = LogPosition::LastLines(lines);
    loop {
        let chunk = match connection
            .client
            .instance_log(source.instance, position, false)
            .await
        {
            Ok(chunk) => chunk,
            Err(error) => {
                printer.finish(connection, prefixed)?;
                return Ok(Err(error));
            }
        };
        let is_over = chunk.bytes.is_empty() || chunk.is_end;
        printer.push(connection, &chunk.bytes, prefixed)?;
        position = LogPosition::After(chunk.next_offset);
        if is_over {
            printer.finish(connection, prefixed)?;
            return Ok(Ok(()));
        }
    }
}

async fn follow(
    connection: &Connection,
    arguments: &LogsArguments,
    mut view: ApplicationView,
) -> Result<(), CommandError> {
    let (sender, mut chunks) = mpsc::channel(CHUNKS_WAITING);
    let mut readers = JoinSet::new();
    let mut printers: Vec<Printer> = Vec::new();
    let mut known = BTreeSet::new();
    let listed = watch::Sender::new(BTreeSet::new());
    let mut interval = tokio::time::interval(LOOK_INTERVAL);
    let mut position = LogPosition::LastLines(arguments.lines);
    loop {
        let sources = sources(&view, arguments);
        listed.send_replace(sources.iter().map(|source| source.instance).collect());
        for source in sources {
            if known.insert(source.instance) {
                let (client, instance) = (connection.client.clone(), source.instance);
                let (chunks, listed) = (sender.clone(), listed.subscribe());
                readers.spawn(async move {
                    read(client, instance, position, &chunks, &listed).await;
                    // Who prints ends before the readers only when the whole command does.
                    chunks.send((instance, None)).await.unwrap_or_default();
                });
                printers.push(Printer::new(source));
            }
        }
        // Instances that start from here on are read from their first output.
        position = LogPosition::After(0);
        loop {
            tokio::select! {
                Some((instance, bytes)) = chunks.recv() => {
                    let prefixed = printers.len() > 1;
                    if let Some(printer) = printers.iter_mut().find(|printer| printer.source.instance == instance) {
                        match bytes {
                            Some(bytes) => printer.push(connection, &bytes, prefixed)?,
                            None => printer.finish(connection, prefixed)?,
                        }
                    }
                    if connection.output.is_abandoned() {
                        return Ok(());
                    }
                }
                _ = interval.tick() => break,
            }
        }
        while readers.try_join_next().is_some() {}
        // The reader has seen enough (`pm logs APP --follow | head -1`).
        if connection.output.is_abandoned() {
            return Ok(());
        }
        match connection.client.application(view.id).await {
            Ok(newer) => view = newer,
            // The instances go on without the pacemaker; so does this.
            Err(error) if error.is_unreachable() => {}
            Err(error) => return Err(connection.failed("follow the logs")(error)),
        }
    }
}

/// Reads one instance's log until the instance is gone.
async fn read(
    client: Client,
    instance: InstanceId,
    mut position: LogPosition,
    chunks: &mpsc::Sender<(InstanceId, Option<Bytes>)>,
    listed: &watch::Receiver<BTreeSet<InstanceId>>,
) {
    loop {
        match client.instance_log(instance, position, true).await {
            Ok(chunk) => {
                position = LogPosition::After(chunk.next_offset);
                if !chunk.bytes.is_empty()
                    && chunks.send((instance, Some(chunk.bytes))).await.is_err()
                {
                    return;
                }
                if chunk.is_end {
                    return;
                }
            }
            Err(error) if error.is_unreachable() => pause().await,
            // It is being laid out, or its node is away: its log will come.
            Err(_) if listed.borrow().contains(&instance) => pause().await,
            Err(_) => return,
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the named loop that asks a silent cluster again; there is nothing to wait for but time"
)]
async fn pause() {
    tokio::time::sleep(LOOK_INTERVAL).await;
}

/// Prints whole lines of one instance.
struct Printer {
    source: Source,
    partial: Vec<u8>,
}

impl Printer {
    fn new(source: Source) -> Self {
        Self {
            source,
            partial: Vec::new(),
        }
    }

    fn push(
        &mut self,
        connection: &Connection,
        bytes: &[u8],
        prefixed: bool,
    ) -> Result<(), CommandError> {
        self.partial.extend_from_slice(bytes);
        let end = match self.partial.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if self.partial.len() > LINE_MAX_BYTES => self.partial.len(),
            None => return Ok(()),
        };
        let whole: Vec<u8> = self.partial.drain(..end).collect();
        self.print(connection, &whole, prefixed)
    }

    fn finish(&mut self, connection: &Connection, prefixed: bool) -> Result<(), CommandError> {
        let rest = std::mem::take(&mut self.partial);
        if rest.is_empty() {
            return Ok(());
        }
        self.print(connection, &rest, prefixed)
    }

    fn print(
        &self,
        connection: &Connection,
        bytes: &[u8],
        prefixed: bool,
    ) -> Result<(), CommandError> {
        let Source {
            instance,
            instance_type,
        } = &self.source;
        let mut text = Vec::with_capacity(bytes.len());
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if connection.output.is_json() {
                let line = String::from_utf8_lossy(line);
                let object = serde_json::json!({
                    "instance": instance,
                    "type": instance_type,
                    "line": line.trim_end_matches('\n'),
                });
                text.extend_from_slice(object.to_string().as_bytes());
                text.push(b'\n');
                continue;
            }
            if prefixed {
                text.extend_from_slice(format!("{instance_type}.{instance} | ").as_bytes());
            }
            text.extend_from_slice(line);
            if !line.ends_with(b"\n") {
                text.push(b'\n');
            }
        }
        connection.output.bytes(&text)
    }
}
