//! `ptctl demo`: a cluster on this machine, a switchover, the loss of the primary's machine and its return, before
//! the reader's eyes. Needs no configuration and leaves nothing behind, unless it is told to.

mod install;
mod keep;
mod members;
mod screen;
mod stage;
mod story;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use self::screen::Screen;
use crate::console::Console;

/// `demo`
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Leave the cluster running at the end, and print how to connect.
    #[arg(long)]
    keep: bool,
    /// Stop and remove a cluster that was left running in this folder.
    #[arg(long, value_name = "FOLDER", conflicts_with = "keep")]
    stop: Option<PathBuf>,
}

/// Runs the demo; a failure, or a signal, ends with exit code 1 and leaves no process behind.
pub(crate) async fn main(console: Console, options: Options) -> ExitCode {
    let screen = Screen::new(console);
    let result = tokio::select! {
        result = run(&screen, &options) => result,
        end = interrupted() => end,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            screen.failed(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(screen: &Screen, options: &Options) -> Result<()> {
    match &options.stop {
        Some(folder) => keep::stop(screen, folder).await,
        None => story::tell(screen, options.keep).await,
    }
}

/// Waits for whatever asks a program to end. The servers are in process groups of their own: Ctrl-C does not reach
/// them, they end when the future of [`run`] is dropped.
async fn interrupted() -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    anyhow::bail!("interrupted; everything that was started is stopped and removed")
}
