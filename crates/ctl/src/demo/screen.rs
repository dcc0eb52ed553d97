//! What the demo prints: headings and facts that stay, and on a terminal below them a picture that is redrawn while
//! something is waited for. Without a terminal a line tells every few seconds that it still waits.

use std::{cell::Cell, future::Future, pin::pin, time::Duration};

use anyhow::Result;
use ptarmigan_types::Monotonic;

use crate::console::Console;

/// The time between two pictures.
const REDRAW: Duration = Duration::from_millis(250);
/// The time between two lines where there is no terminal.
const REMIND: Duration = Duration::from_secs(5);

/// Facts stand under their heading.
const INDENT: &str = "      ";

/// Where the demo is watched.
pub(super) struct Screen {
    console: Console,
    styled: bool,
    start: Monotonic,
    headings: Cell<usize>,
    /// How many lines of the last picture are on the terminal, below what stays.
    drawn: Cell<usize>,
}

/// What is worth seeing while something is waited for.
pub(super) trait Picture {
    /// Its lines; empty where there is nothing yet. Soon: the picture is drawn again and again.
    async fn draw(&self) -> String;
}

/// No picture.
pub(super) struct Nothing;

impl Picture for Nothing {
    async fn draw(&self) -> String {
        String::new()
    }
}

impl Screen {
    /// The screen of this run; its clock starts.
    pub(super) fn new(console: Console) -> Self {
        let styled = console.is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let start = ptarmigan_clock::now();
        Self { console, styled, start, headings: Cell::new(0), drawn: Cell::new(0) }
    }

    /// The time since the start.
    pub(super) fn elapsed(&self) -> Duration {
        ptarmigan_clock::now().since(self.start)
    }

    /// Lines at the left margin.
    ///
    /// # Errors
    /// The reader of the output is gone.
    pub(super) fn say(&self, text: &str) -> Result<()> {
        self.erase()?;
        self.console.line(text)
    }

    /// The heading of the next chapter.
    ///
    /// # Errors
    /// The reader of the output is gone.
    pub(super) fn heading(&self, text: &str, of: usize) -> Result<()> {
        self.headings.set(self.headings.get() + 1);
        let (number, text) = (self.headings.get(), format!("{text} "));
        let text = if self.styled { format!("\x1b[1m{}\x1b[0m", text.trim_end()) } else { text };
        self.say(&format!("\n[{number}/{of}] {}", text.trim_end()))
    }

    /// Something that is so.
    ///
    /// # Errors
    /// The reader of the output is gone.
    pub(super) fn fact(&self, text: &str) -> Result<()> {
        let lines: Vec<String> = text.lines().map(|line| format!("{INDENT}{line}")).collect();
        self.say(&lines.join("\n"))
    }

    /// Does some work, says so at once, and shows how long it takes; returns that time as well.
    ///
    /// # Errors
    /// The work's; or the reader of the output is gone.
    pub(super) async fn during<T>(
        &self,
        what: &str,
        picture: &impl Picture,
        work: impl Future<Output = Result<T>>,
    ) -> Result<(T, Duration)> {
        let start = ptarmigan_clock::now();
        let mut work = pin!(work);
        let mut shown = pin!(self.show(what, start, picture));
        let result = tokio::select! {
            result = &mut work => result,
            gone = &mut shown => match gone {
                Ok(()) => work.await,
                Err(error) => Err(error),
            },
        };
        self.erase()?;
        Ok((result?, ptarmigan_clock::now().since(start)))
    }

    /// The last words: standard error has them where standard output is not read.
    pub(super) fn failed(&self, text: &str) {
        let _ = self.erase();
        self.console.error_text(&format!("\nptctl demo: {text}\n"));
    }

    async fn show(&self, what: &str, start: Monotonic, picture: &impl Picture) -> Result<()> {
        let seconds = || ptarmigan_clock::now().since(start).as_secs_f64();
        if !self.console.is_terminal() {
            self.fact(&format!("{what} ..."))?;
            loop {
                tokio::time::sleep(REMIND).await;
                self.fact(&format!("... {:.0} s", seconds()))?;
            }
        }
        // At once, before the picture is known.
        self.redraw(&format!("{INDENT}{what} ...\n"))?;
        loop {
            let picture = picture.draw().await;
            let picture: String = picture.lines().map(|line| format!("{INDENT}{line}\n")).collect();
            let gap = if picture.is_empty() { "" } else { "\n" };
            self.redraw(&format!("{INDENT}{what} ... {:.1} s\n{gap}{picture}", seconds()))?;
            tokio::time::sleep(REDRAW).await;
        }
    }

    /// Replaces the picture. Lines longer than the terminal is wide are cut, because it would wrap them and the count
    /// of lines would be wrong.
    fn redraw(&self, text: &str) -> Result<()> {
        let above = self.above();
        self.console.write(&format!("{above}\x1b[?7l{text}\x1b[?7h"))?;
        self.drawn.set(text.matches('\n').count());
        Ok(())
    }

    fn erase(&self) -> Result<()> {
        let above = self.above();
        self.drawn.set(0);
        if above.is_empty() { Ok(()) } else { self.console.write(&above) }
    }

    /// Moves to the first line of the picture and clears from there; nothing where there is none.
    fn above(&self) -> String {
        match self.drawn.get() {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\r\x1b[J"),
        }
    }
}
