//! The command line (contract `ctl_commands.tsv`): options, types, defaults; click's manners where clap has others.

use std::ffi::OsString;

use clap::{
    ArgAction, Args, Command as ClapCommand, CommandFactory as _, FromArgMatches as _, Parser, Subcommand,
    ValueEnum,
    error::{ContextKind, ErrorKind},
};

use crate::{console::Console, demo};

/// Command-line interface for operating a cluster.
#[derive(Debug, Parser)]
#[command(name = "ptctl", disable_help_subcommand = true, subcommand_required = true)]
#[command(arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options before the command.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Global {
    /// Configuration file, or folder of YAML files.
    #[arg(short = 'c', long = "config-file", value_name = "TEXT")]
    pub(crate) config_file: Option<String>,
    /// Address of the DCS: DCS://HOST:PORT/NAMESPACE; takes the place of every DCS section.
    #[arg(short = 'd', long = "dcs-url", visible_alias = "dcs", value_name = "TEXT")]
    pub(crate) dcs_url: Option<String>,
    /// Do not verify certificates of REST servers.
    #[arg(short = 'k', long)]
    pub(crate) insecure: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the members of clusters.
    List(List),
    /// Print the replication tree of clusters.
    Topology(Topology),
    /// Switch over to a replica.
    Switchover(Switchover),
    /// Fail over to a replica.
    Failover(Failover),
    /// Restart members.
    Restart(Restart),
    /// Reinitialize members.
    Reinit(Reinit),
    /// Reload the configuration of members.
    Reload(Reload),
    /// Show the dynamic configuration.
    ShowConfig(OneCluster),
    /// Edit the dynamic configuration.
    EditConfig(EditConfig),
    /// Show the history of timelines.
    History(History),
    /// Print the version of this program or of members.
    Version(Version),
    /// Make the cluster a standby cluster of another one.
    DemoteCluster(DemoteCluster),
    /// Make the standby cluster a cluster of its own.
    PromoteCluster(PromoteCluster),
    /// Tell what would happen if a member were lost now.
    Check(Check),
    /// Tell what members decided lately, and why.
    Why(Why),
    /// Discard scheduled events.
    Flush(Flush),
    /// Disable automatic failover.
    Pause(Pause),
    /// Resume automatic failover.
    Resume(Pause),
    /// Remove a cluster from the DCS.
    Remove(Remove),
    /// Show a cluster, a switchover and a failover on this machine.
    Demo(demo::Options),
}

/// Output formats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table.
    #[default]
    Pretty,
    /// Tab-separated values.
    Tsv,
    /// One line of JSON.
    Json,
    /// YAML.
    Yaml,
    /// YAML.
    Yml,
}

/// Selections of members by role (contract C.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleChoice {
    /// The holder of the lock.
    Leader,
    /// The holder, unless it leads a standby cluster.
    Primary,
    /// The holder, unless it is a primary.
    StandbyLeader,
    /// Everybody else.
    Replica,
    /// Everybody else.
    Standby,
    /// All.
    #[default]
    Any,
}

/// How often to repeat.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Repeat every 2 seconds.
    #[arg(short = 'W')]
    pub(crate) every_two: bool,
    /// Repeat every N seconds.
    #[arg(short = 'w', long, value_name = "FLOAT")]
    pub(crate) watch: Option<f64>,
}

/// `list`
#[derive(Debug, Args)]
pub(crate) struct List {
    #[arg(value_name = "CLUSTER_NAMES")]
    pub(crate) clusters: Vec<String>,
    /// Citus group.
    #[arg(long, value_name = "INTEGER")]
    pub(crate) group: Option<i64>,
    /// Show some extra information.
    #[arg(short, long)]
    pub(crate) extended: bool,
    /// Print the time.
    #[arg(short, long)]
    pub(crate) timestamp: bool,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) watch: Watch,
}

/// `topology`
#[derive(Debug, Args)]
pub(crate) struct Topology {
    #[arg(value_name = "CLUSTER_NAMES")]
    pub(crate) clusters: Vec<String>,
    /// Citus group.
    #[arg(long, value_name = "INTEGER")]
    pub(crate) group: Option<i64>,
    #[command(flatten)]
    pub(crate) watch: Watch,
}

/// Which members of which cluster.
#[derive(Debug, Args)]
pub(crate) struct Target {
    #[arg(value_name = "CLUSTER_NAME")]
    pub(crate) cluster: String,
    #[arg(value_name = "MEMBER_NAMES")]
    pub(crate) members: Vec<String>,
    /// Citus group.
    #[arg(long, value_name = "INTEGER")]
    pub(crate) group: Option<i64>,
}

/// `restart`
#[derive(Debug, Args)]
pub(crate) struct Restart {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Members with this role.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) role: RoleChoice,
    /// One random member.
    #[arg(long)]
    pub(crate) any: bool,
    /// Timestamp of a scheduled restart in unambiguous format (e.g. ISO 8601).
    #[arg(long, value_name = "TEXT")]
    pub(crate) scheduled: Option<String>,
    /// Restart if the PostgreSQL version is less than provided (e.g. 9.5.2).
    #[arg(long = "pg-version", value_name = "TEXT")]
    pub(crate) pg_version: Option<String>,
    /// Restart if a restart is pending.
    #[arg(long)]
    pub(crate) pending: bool,
    /// Timeout of the restart.
    #[arg(long, value_name = "TEXT")]
    pub(crate) timeout: Option<String>,
    /// Do not ask for confirmation.
    #[arg(long)]
    pub(crate) force: bool,
}

/// `reload`
#[derive(Debug, Args)]
pub(crate) struct Reload {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Members with this role.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) role: RoleChoice,
    /// Do not ask for confirmation.
    #[arg(long)]
    pub(crate) force: bool,
}

/// `reinit`
#[derive(Debug, Args)]
pub(crate) struct Reinit {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Do not ask for confirmation, and cancel an action in progress.
    #[arg(long)]
    pub(crate) force: bool,
    /// Get the base backup from the leader.
    #[arg(long = "from-leader")]
    pub(crate) from_leader: bool,
    /// Wait until the members are rebuilt.
    #[arg(long)]
    pub(crate) wait: bool,
}

/// `switchover`
#[derive(Debug, Args)]
pub(crate) struct Switchover {
    #[command(flatten)]
    pub(crate) cluster: OneCluster,
    /// The current leader.
    #[arg(long, visible_alias = "primary", value_name = "TEXT")]
    pub(crate) leader: Option<String>,
    /// Who takes over.
    #[arg(long, value_name = "TEXT")]
    pub(crate) candidate: Option<String>,
    /// Timestamp of a scheduled switchover in unambiguous format (e.g. ISO 8601).
    #[arg(long, value_name = "TEXT")]
    pub(crate) scheduled: Option<String>,
    /// Do not ask for confirmation.
    #[arg(long)]
    pub(crate) force: bool,
}

/// `failover`
#[derive(Debug, Args)]
pub(crate) struct Failover {
    #[command(flatten)]
    pub(crate) cluster: OneCluster,
    /// Who takes over.
    #[arg(long, value_name = "TEXT")]
    pub(crate) candidate: Option<String>,
    /// Do not ask for confirmation.
    #[arg(long)]
    pub(crate) force: bool,
}

/// `demote-cluster`
#[derive(Debug, Args)]
pub(crate) struct DemoteCluster {
    #[arg(value_name = "CLUSTER_NAME")]
    pub(crate) cluster: Option<String>,
    /// Do not ask for confirmation.
    #[arg(long)]
    pub(crate) force: bool,
    /// Address of the remote node, several separated by commas.
    #[arg(long, value_name = "TEXT")]
    pub(crate) host: Option<String>,
    /// Port of the remote node.
    #[arg(long, value_name = "INTEGER")]
    pub(crate) port: Option<u16>,
    /// Command to restore WAL files from the remote primary's archive.
    #[arg(long = "restore-command", value_name = "TEXT")]
    pub(crate) restore_command: Option<String>,
    /// Name of the slot on the remote node.
    #[arg(long = "primary-slot-name", value_name = "TEXT")]
    pub(crate) primary_slot_name: Option<String>,
}

/// `promote-cluster`
#[derive(Debug, Args)]
pub(crate) struct PromoteCluster {
    #[arg(value_name = "CLUSTER_NAME")]
    pub(crate) cluster: Option<String>,
    /// Do not ask for confirmation.
    #[arg(long)]
    pub(crate) force: bool,
}

/// A cluster, by default the configuration's.
#[derive(Debug, Args)]
pub(crate) struct OneCluster {
    #[arg(value_name = "CLUSTER_NAME")]
    pub(crate) cluster: Option<String>,
    /// Citus group.
    #[arg(long, value_name = "INTEGER")]
    pub(crate) group: Option<i64>,
}

/// `edit-config`
#[derive(Debug, Args)]
pub(crate) struct EditConfig {
    #[command(flatten)]
    pub(crate) cluster: OneCluster,
    /// Do not show changes.
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Set KEY=VALUE; can be given several times.
    #[arg(short, long = "set", value_name = "TEXT", action = ArgAction::Append)]
    pub(crate) set: Vec<String>,
    /// Set a PostgreSQL parameter KEY=VALUE; can be given several times.
    #[arg(short, long = "pg", value_name = "TEXT", action = ArgAction::Append)]
    pub(crate) pg: Vec<String>,
    /// Merge a YAML file; - for standard input.
    #[arg(long, value_name = "FILENAME")]
    pub(crate) apply: Option<String>,
    /// Replace everything with a YAML file; - for standard input.
    #[arg(long, value_name = "FILENAME")]
    pub(crate) replace: Option<String>,
    /// Do not ask for confirmation.
    #[arg(long)]
    pub(crate) force: bool,
}

/// `history`
#[derive(Debug, Args)]
pub(crate) struct History {
    #[command(flatten)]
    pub(crate) cluster: OneCluster,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// `check`
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The member that is lost.
    #[arg(long, value_name = "MEMBER_NAME")]
    pub(crate) if_lost: String,
    /// The cluster, by default the configuration's.
    #[arg(long, value_name = "CLUSTER_NAME")]
    pub(crate) cluster: Option<String>,
    /// Citus group.
    #[arg(long, value_name = "INTEGER")]
    pub(crate) group: Option<i64>,
}

/// `why`
#[derive(Debug, Args)]
pub(crate) struct Why {
    /// Whose decisions; without it the present one of every member.
    #[arg(value_name = "MEMBER_NAME")]
    pub(crate) member: Option<String>,
    /// The cluster, by default the configuration's.
    #[arg(long, value_name = "CLUSTER_NAME")]
    pub(crate) cluster: Option<String>,
    /// Citus group.
    #[arg(long, value_name = "INTEGER")]
    pub(crate) group: Option<i64>,
    /// How many decisions, the newest last.
    #[arg(short = 'n', long, value_name = "INTEGER")]
    pub(crate) last: Option<usize>,
}

/// `version`
#[derive(Debug, Args)]
pub(crate) struct Version {
    #[arg(value_name = "CLUSTER_NAME")]
    pub(crate) cluster: Option<String>,
    #[arg(value_name = "MEMBER_NAMES")]
    pub(crate) members: Vec<String>,
    /// Citus group.
    #[arg(long, value_name = "INTEGER")]
    pub(crate) group: Option<i64>,
}

/// `flush`
#[derive(Debug, Args)]
pub(crate) struct Flush {
    #[arg(value_name = "CLUSTER_NAME")]
    pub(crate) cluster: String,
    /// Names of members, and at last what is discarded.
    #[arg(value_name = "[MEMBER_NAMES]... {restart|switchover}", required = true)]
    names_and_target: Vec<String>,
    /// Citus group.
    #[arg(long, value_name = "INTEGER")]
    pub(crate) group: Option<i64>,
    /// Flush only members with this role.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) role: RoleChoice,
    /// Do not ask for confirmation.
    #[arg(long)]
    pub(crate) force: bool,
}

impl Flush {
    /// The names of members.
    pub(crate) fn members(&self) -> &[String] {
        self.names_and_target.split_last().map_or(&[], |(_, names)| names)
    }

    /// What is discarded.
    ///
    /// # Errors
    /// The last word is neither, with what to say of it.
    pub(crate) fn target(&self) -> Result<FlushTarget, String> {
        match self.names_and_target.last().map_or("", String::as_str) {
            "restart" => Ok(FlushTarget::Restart),
            "switchover" => Ok(FlushTarget::Switchover),
            other => Err(format!(
                "Invalid value for '{{restart|switchover}}': '{other}' is not one of 'restart', 'switchover'."
            )),
        }
    }
}

/// What is discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlushTarget {
    /// Scheduled restarts.
    Restart,
    /// The scheduled switchover.
    Switchover,
}

/// `pause` and `resume`
#[derive(Debug, Args)]
pub(crate) struct Pause {
    #[command(flatten)]
    pub(crate) cluster: OneCluster,
    /// Wait until all members have noticed.
    #[arg(long)]
    pub(crate) wait: bool,
}

/// `remove`
#[derive(Debug, Args)]
pub(crate) struct Remove {
    #[arg(value_name = "CLUSTER_NAME")]
    pub(crate) cluster: String,
    /// Citus group.
    #[arg(long, value_name = "INTEGER")]
    pub(crate) group: Option<i64>,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// Reads the arguments; what was asked for, or the exit code where help or a usage error was printed instead.
pub(crate) fn parse(program: &'static str, arguments: &[OsString], console: Console) -> Result<Cli, u8> {
    let mut command = as_click(Cli::command(), true).name(program).bin_name(program);
    let parsed =
        command.try_get_matches_from_mut(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    let checked = parsed.and_then(|cli| match &cli.command {
        Command::Flush(flush) => match flush.target() {
            Ok(_) => Ok(cli),
            Err(message) => Err(command.error(ErrorKind::InvalidValue, message)),
        },
        _ => Ok(cli),
    });
    checked.map_err(|error| report(&mut command, arguments, &error, console))
}

/// Click's manners: the last of a repeated option counts, an option's value may look like an option, help is only
/// `--help`.
fn as_click(command: ClapCommand, is_group: bool) -> ClapCommand {
    let help =
        clap::Arg::new("help").long("help").action(ArgAction::Help).help("Show this message and exit.");
    let command = command
        .disable_help_flag(true)
        .arg(help)
        .mut_args(|arg| {
            let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
            if takes_value && !arg.is_positional() { arg.allow_hyphen_values(true) } else { arg }
        })
        .args_override_self(true);
    if is_group { command.mut_subcommands(|command| as_click(command, false)) } else { command }
}

fn report(command: &mut ClapCommand, arguments: &[OsString], error: &clap::Error, console: Console) -> u8 {
    let rendered = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp => {
            // Where the reader is gone there is nothing left to say.
            let _ = console.write(&rendered);
            return 0;
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => console.error_text(&rendered),
        _ => console.error_text(&usage_error(command, arguments, error, &rendered)),
    }
    2
}

/// `Usage: ...`, a hint, and `Error: ...`, as click prints them.
fn usage_error(
    command: &mut ClapCommand,
    arguments: &[OsString],
    error: &clap::Error,
    rendered: &str,
) -> String {
    let program = command.get_name().to_owned();
    let names: Vec<&str> = arguments.iter().skip(1).filter_map(|argument| argument.to_str()).collect();
    let name = names.into_iter().find(|name| command.find_subcommand(name).is_some());
    let (usage, path) = match name.and_then(|name| Some((name, command.find_subcommand_mut(name)?))) {
        Some((name, command)) => (command.render_usage().to_string(), format!("{program} {name}")),
        None => (format!("Usage: {program} [OPTIONS] COMMAND [ARGS]..."), program),
    };
    let message = match (error.kind(), error.get(ContextKind::InvalidSubcommand)) {
        (ErrorKind::InvalidSubcommand, Some(name)) => format!("No such command '{name}'."),
        _ => rendered.lines().take_while(|line| !line.is_empty()).collect::<Vec<_>>().join("\n"),
    };
    let message = message.strip_prefix("error: ").unwrap_or(&message).to_owned();
    format!("{usage}\nTry '{path} --help' for help.\n\nError: {message}\n")
}
