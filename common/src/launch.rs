//! Turns a launch command into the words that are executed, without a shell.
//!
//! The command is split first and the port is put into the words afterwards, so that nothing that
//! is substituted can become a word of its own. The manifest's check and the heart use the same
//! function: what was accepted can be started.

use std::str::Chars;

/// The most words of a launch command: far more than a person writes, far less than `execve` takes.
pub const ARGUMENTS_MAX: usize = 1024;

/// How a command writes the port that its process must listen on.
pub const PORT_PLACEHOLDER: &str = "%(port)d";

/// Why a launch command cannot be executed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// A quotation is opened and never closed.
    #[error("the quotation opened by {quote} is never closed")]
    OpenQuote {
        /// The quotation mark.
        quote: char,
    },
    /// There is nothing after the last backslash.
    #[error("the command ends in a backslash, which must be followed by the character it quotes")]
    TrailingBackslash,
    /// There is no word, or the first one is empty.
    #[error("the command names no program")]
    NoProgram,
    /// There are more than [`ARGUMENTS_MAX`] words.
    #[error("the command has more than {ARGUMENTS_MAX} words")]
    TooManyWords,
    /// A percent sign that begins neither the port nor another percent sign.
    #[error(
        "`{found}` is neither `%(port)d`, which stands for the port, nor `%%`, which stands for a percent sign"
    )]
    LonePercent {
        /// The percent sign and what follows it, cut short.
        found: String,
    },
    /// The port is asked for where there is none.
    #[error("`%(port)d` is used, but a standalone type has no port")]
    NoPort,
}

/// Splits `launch_command` as a POSIX shell splits words, then replaces `%(port)d` and `%%`.
///
/// Nothing else of a shell happens: `$`, `*`, `;`, `&`, `|`, `<`, `>`, `#`, and backquotes stand for
/// themselves. `port` is `None` for a standalone type.
///
/// # Errors
/// The first thing that is wrong with the command.
pub fn arguments(launch_command: &str, port: Option<u16>) -> Result<Vec<String>, LaunchError> {
    let words = split(launch_command)?;
    if words.len() > ARGUMENTS_MAX {
        return Err(LaunchError::TooManyWords);
    }
    if words.first().is_none_or(String::is_empty) {
        return Err(LaunchError::NoProgram);
    }
    words.iter().map(|word| substitute(word, port)).collect()
}

/// Written here because the `shlex` crate drops everything after a `#` without a word.
fn split(command: &str) -> Result<Vec<String>, LaunchError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = command.chars();
    while let Some(character) = characters.next() {
        match character {
            ' ' | '\t' | '\n' => words.extend(word.take()),
            '\'' => single_quoted(&mut characters, word.get_or_insert_default())?,
            '"' => double_quoted(&mut characters, word.get_or_insert_default())?,
            '\\' => match characters.next() {
                Some('\n') => {}
                Some(quoted) => word.get_or_insert_default().push(quoted),
                None => return Err(LaunchError::TrailingBackslash),
            },
            plain => word.get_or_insert_default().push(plain),
        }
    }
    words.extend(word);
    Ok(words)
}

fn single_quoted(characters: &mut Chars<'_>, word: &mut String) -> Result<(), LaunchError> {
    for character in characters {
        if character == '\'' {
            return Ok(());
        }
        word.push(character);
    }
    Err(LaunchError::OpenQuote { quote: '\'' })
}

fn double_quoted(characters: &mut Chars<'_>, word: &mut String) -> Result<(), LaunchError> {
    while let Some(character) = characters.next() {
        match character {
            '"' => return Ok(()),
            '\\' => match characters.next() {
                Some(quoted @ ('$' | '`' | '"' | '\\')) => word.push(quoted),
                Some('\n') => {}
                Some(plain) => word.extend(['\\', plain]),
                None => break,
            },
            plain => word.push(plain),
        }
    }
    Err(LaunchError::OpenQuote { quote: '"' })
}

fn substitute(word: &str, port: Option<u16>) -> Result<String, LaunchError> {
    let mut result = String::with_capacity(word.len());
    let mut rest = word;
    while let Some((before, from_percent)) = rest
        .find('%')
        .and_then(|index| rest.split_at_checked(index))
    {
        result.push_str(before);
        if let Some(after) = from_percent.strip_prefix("%%") {
            result.push('%');
            rest = after;
        } else if let Some(after) = from_percent.strip_prefix(PORT_PLACEHOLDER) {
            result.push_str(&port.ok_or(LaunchError::NoPort)?.to_string());
            rest = after;
        } else {
            let found = from_percent.chars().take(PORT_PLACEHOLDER.len()).collect();
            return Err(LaunchError::LonePercent { found });
        }
    }
    result.push_str(rest);
    Ok(result)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(command: &str, expected: &[&str]) {
        assert_eq!(
            arguments(command, Some(20_000)).unwrap(),
            expected,
            "{command}"
        );
    }

    #[test]
    fn words_are_split_as_a_shell_splits_them() {
        check("a  b\tc\nd", &["a", "b", "c", "d"]);
        check(
            r#"a 'b  c' "d \" \$ \x" e\ f """#,
            &["a", "b  c", r#"d " $ \x"#, "e f", ""],
        );
        check("py'th'on \"a\"'b'", &["python", "ab"]);
        check("a\\\nb", &["ab"]);
    }

    #[test]
    fn nothing_else_of_a_shell_happens() {
        check(
            "echo $(id) `id` $HOME * a;b c&&d >e #f -x é",
            &[
                "echo", "$(id)", "`id`", "$HOME", "*", "a;b", "c&&d", ">e", "#f", "-x", "é",
            ],
        );
    }

    #[test]
    fn port_and_percent_signs_are_replaced_inside_words() {
        check(
            "app --port=%(port)d 100%% %%(port)d '%(port)d:%(port)d'",
            &["app", "--port=20000", "100%", "%(port)d", "20000:20000"],
        );
    }

    #[test]
    fn command_that_cannot_be_executed_is_refused() {
        let found = |command, port| arguments(command, port).unwrap_err();

        assert_eq!(found("", Some(1)), LaunchError::NoProgram);
        assert_eq!(found(" \n ", Some(1)), LaunchError::NoProgram);
        assert_eq!(found("'' a", Some(1)), LaunchError::NoProgram);
        assert_eq!(
            found("a 'b", Some(1)),
            LaunchError::OpenQuote { quote: '\'' }
        );
        assert_eq!(
            found("a \"b\\", Some(1)),
            LaunchError::OpenQuote { quote: '"' }
        );
        assert_eq!(found("a \\", Some(1)), LaunchError::TrailingBackslash);
        assert_eq!(found("a %(port)d", None), LaunchError::NoPort);
        assert_eq!(
            found("a 5% b", Some(1)),
            LaunchError::LonePercent {
                found: "%".to_owned()
            }
        );
        assert_eq!(
            found("a %(prot)d/b", Some(1)),
            LaunchError::LonePercent {
                found: "%(prot)d".to_owned()
            }
        );
        assert_eq!(
            found(&"a ".repeat(ARGUMENTS_MAX + 1), Some(1)),
            LaunchError::TooManyWords
        );
    }

    proptest! {
        #[test]
        fn splitting_agrees_with_the_shlex_crate(command in "[a-c '\"\\\\$\t]{0,40}") {
            let ours = split(&command).ok();

            prop_assert_eq!(ours, shlex::split(&command));
        }

        #[test]
        fn arguments_never_panic(command in any::<String>(), port in any::<Option<u16>>()) {
            // Only that it returns matters here.
            drop(arguments(&command, port));
        }

        #[test]
        fn quoted_words_arrive_byte_exact(words in prop::collection::vec("[^%\0]{1,20}", 1..6)) {
            let command = shlex::try_join(words.iter().map(String::as_str)).unwrap();

            prop_assert_eq!(arguments(&command, None).unwrap(), words);
        }
    }
}
