//! `ptctl`: the operator's tool. Everything is in `ptarmigan-ctl`.

use std::{io::Write as _, process::ExitCode};

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "Error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(ptarmigan_ctl::main_with(std::env::args_os().collect()));
    // A question that was left by Ctrl-C still waits for its answer: nobody waits for it.
    runtime.shutdown_background();
    code
}
