//! What goes on, on stderr: a bar on a terminal, plain lines elsewhere, nothing for a program.

use std::cell::RefCell;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::error::printable;
use crate::output::Output;

/// Redraws of a spinner; a terminal shows no more.
const TICK: Duration = Duration::from_millis(120);

/// Says what goes on.
#[derive(Debug)]
pub(crate) struct Progress {
    mode: Mode,
    bar: RefCell<Option<ProgressBar>>,
}

/// Who looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// A person at a terminal.
    Terminal,
    /// A file or a pipe.
    Lines,
    /// A program that wants JSON only.
    Silent,
}

impl Progress {
    /// Progress that fits the output's format and what stderr is.
    pub(crate) fn new(output: Output) -> Self {
        let mode = if output.is_json() {
            Mode::Silent
        } else if std::io::stderr().is_terminal() {
            Mode::Terminal
        } else {
            Mode::Lines
        };
        Self {
            mode,
            bar: RefCell::new(None),
        }
    }

    /// Prints one line that stays.
    pub(crate) fn line(&self, text: &str) {
        let text = printable(text);
        match self.mode {
            Mode::Silent => {}
            Mode::Lines => write_stderr(&text),
            Mode::Terminal => match self.bar.borrow().as_ref() {
                Some(bar) => bar.println(text),
                None => write_stderr(&text),
            },
        }
    }

    /// Shows on a terminal that `text` is under way; replaces what was under way before.
    pub(crate) fn spin(&self, text: &str) {
        match self.mode {
            Mode::Silent | Mode::Lines => {}
            Mode::Terminal => {
                self.clear();
                let bar = ProgressBar::new_spinner().with_message(text.to_owned());
                bar.enable_steady_tick(TICK);
                *self.bar.borrow_mut() = Some(bar);
            }
        }
    }

    /// Begins a bar over `total` bytes.
    pub(crate) fn begin_bytes(&self, text: &str, total: u64) {
        match self.mode {
            Mode::Silent => {}
            Mode::Lines => write_stderr(&format!("{text} ({}) …", bytes(total))),
            Mode::Terminal => {
                self.clear();
                let style = ProgressStyle::with_template(
                    "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
                )
                .expect("the template is constant and valid")
                .progress_chars("=> ");
                let bar = ProgressBar::new(total)
                    .with_style(style)
                    .with_message(text.to_owned());
                *self.bar.borrow_mut() = Some(bar);
            }
        }
    }

    /// Takes a bar over bytes away.
    pub(crate) fn clear(&self) {
        if let Some(bar) = self.bar.borrow_mut().take() {
            bar.finish_and_clear();
        }
    }

    /// A function that moves the present bar and may be called from anywhere.
    pub(crate) fn position(&self) -> impl Fn(u64) + Send + Sync + use<> {
        let bar = self.bar.borrow().clone();
        move |position| {
            if let Some(bar) = &bar {
                bar.set_position(position);
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A number of bytes for a person.
pub(crate) fn bytes(count: u64) -> String {
    indicatif::HumanBytes(count).to_string()
}

/// One line to stderr; a closed stderr is nobody's loss.
pub(crate) fn write_stderr(text: &str) {
    writeln!(std::io::stderr().lock(), "{text}").unwrap_or_default();
}
