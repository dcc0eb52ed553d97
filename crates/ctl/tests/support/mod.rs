//! Runs `ptctl` as an operator or a script does.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of this")]

use std::{path::Path, process::Stdio, time::Duration};

use tokio::{io::AsyncWriteExt as _, process::Command};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_ptctl-dev");

/// No command of these tests takes longer.
const DEADLINE: Duration = Duration::from_secs(60);

/// What a run printed, and how it ended.
#[derive(Debug)]
pub struct Run {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Run {
    /// Succeeded, and said nothing on standard error.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{}", self.out);
        self.out
    }

    /// Failed with exit code 1 and exactly this on standard error.
    #[track_caller]
    pub fn fails_with(&self, error: &str) {
        assert_eq!((self.code, self.err.as_str()), (1, format!("{error}\n").as_str()), "{}", self.out);
    }
}

/// An environment for `ptctl`: nothing but what is set here.
#[derive(Clone, Debug, Default)]
pub struct Ptctl {
    variables: Vec<(String, String)>,
}

impl Ptctl {
    /// With one more variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs with `arguments`, split at blanks, and an empty standard input.
    pub async fn run(&self, arguments: &str) -> Run {
        self.typed(arguments, "").await
    }

    /// Runs with `arguments`, split at blanks, and `input` on standard input.
    pub async fn typed(&self, arguments: &str, input: &str) -> Run {
        self.program(Path::new(PROGRAM), arguments, input).await
    }

    /// Runs a program that may be a link to the one under test.
    pub async fn program(&self, program: &Path, arguments: &str, input: &str) -> Run {
        let mut command = Command::new(program);
        command.args(arguments.split_whitespace()).env_clear().env("TZ", "UTC");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A program that ends before it has read everything is right to do so.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await.unwrap().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Run { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }
}
