//! The recorded outputs of `testdata/ctl_layouts.txt`, for the tests.

/// One command with its output.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    /// Without the program's name.
    pub(crate) command: String,
    /// What it printed.
    pub(crate) output: String,
    /// The value that was written to `/config`.
    pub(crate) written: Option<String>,
}

/// All of them, in the order of the file.
pub(crate) fn recorded() -> Vec<Recorded> {
    include_str!("../../testdata/ctl_layouts.txt")
        .split("$ patronictl ")
        .skip(1)
        .map(|block| {
            let (command, rest) = block.split_once('\n').unwrap();
            let (output, rest) = rest.split_once("[exit ").unwrap();
            let written = rest.split_once("('set_config_value', ('").map(|(_, rest)| {
                let (json, _) = rest.rsplit_once("', 1))").unwrap();
                json.to_owned()
            });
            Recorded { command: command.to_owned(), output: output.to_owned(), written }
        })
        .collect()
}

/// The first recording of a command.
pub(crate) fn first<'a>(recorded: &'a [Recorded], command: &str) -> &'a Recorded {
    recorded.iter().find(|recorded| recorded.command == command).unwrap()
}

/// Every recording of a command.
pub(crate) fn all(recorded: &[Recorded], command: &str) -> Vec<Recorded> {
    recorded.iter().filter(|recorded| recorded.command == command).cloned().collect()
}
