//! `ptarmigan-guardian`: holds one PostgreSQL. Started by the daemon, not by hand; see the library's `server`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ptarmigan_guardian::server::main(std::env::args_os().skip(1))
}
