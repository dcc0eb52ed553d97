//! Standard output, standard error and the questions that are asked on the terminal or answered by a pipe.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use anyhow::{Context as _, Result};

/// The operator ended the program: Ctrl-C, or the end of standard input in the middle of a question.
#[derive(Debug, thiserror::Error)]
#[error("Aborted!")]
pub(crate) struct Aborted;

/// The three standard streams.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Console;

impl Console {
    /// Prints text as it is.
    ///
    /// # Errors
    /// The reader of the output is gone.
    pub(crate) fn write(self, text: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to standard output")
    }

    /// Prints a line.
    ///
    /// # Errors
    /// The reader of the output is gone.
    pub(crate) fn line(self, text: impl AsRef<str>) -> Result<()> {
        self.write(&format!("{}\n", text.as_ref()))
    }

    /// Prints text on standard error.
    pub(crate) fn error_text(self, text: &str) {
        // There is nobody left to tell that this cannot be told.
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }

    /// True where a person reads the output.
    pub(crate) fn is_terminal(self) -> bool {
        io::stdout().is_terminal()
    }

    /// Clears the screen, where there is one.
    ///
    /// # Errors
    /// The reader of the output is gone.
    pub(crate) fn clear(self) -> Result<()> {
        if self.is_terminal() { self.write("\x1b[2J\x1b[1;1H") } else { Ok(()) }
    }

    /// Everything that standard input holds.
    ///
    /// # Errors
    /// It cannot be read, or is not UTF-8.
    pub(crate) async fn read_all(self) -> Result<String> {
        let read = || {
            let mut text = String::new();
            io::stdin().lock().read_to_string(&mut text).map(|_| text)
        };
        tokio::task::spawn_blocking(read).await?.context("cannot read standard input")
    }

    /// Asks `text [default]: `; an empty answer is the default.
    ///
    /// # Errors
    /// [`Aborted`] at the end of standard input.
    pub(crate) async fn prompt(self, text: &str, default: &str) -> Result<String> {
        self.write(&format!("{text} [{default}]: "))?;
        let answer = self.read_line().await?;
        Ok(if answer.is_empty() { default.to_owned() } else { answer })
    }

    /// Asks `text: ` until there is an answer.
    ///
    /// # Errors
    /// [`Aborted`] at the end of standard input.
    pub(crate) async fn ask(self, text: &str) -> Result<String> {
        loop {
            self.write(&format!("{text}: "))?;
            let answer = self.read_line().await?;
            if !answer.is_empty() {
                return Ok(answer);
            }
        }
    }

    /// Asks `text [y/N]: ` until the answer is one; no by default.
    ///
    /// # Errors
    /// [`Aborted`] at the end of standard input.
    pub(crate) async fn confirm(self, text: &str) -> Result<bool> {
        loop {
            self.write(&format!("{text} [y/N]: "))?;
            match self.read_line().await?.trim().to_lowercase().as_str() {
                "y" | "yes" => return Ok(true),
                "" | "n" | "no" => return Ok(false),
                _ => self.line("Error: invalid input")?,
            }
        }
    }

    /// Reading blocks, and Ctrl-C must be heard meanwhile: so it happens on another thread.
    async fn read_line(self) -> Result<String> {
        let read = || {
            let mut line = String::new();
            io::stdin().lock().read_line(&mut line).map(|count| (count, line))
        };
        let (count, line) = tokio::task::spawn_blocking(read).await?.context("cannot read standard input")?;
        if count == 0 {
            return Err(Aborted.into());
        }
        Ok(line.trim_end_matches(['\n', '\r']).to_owned())
    }
}
