//! The simulator on the command line: many seeds, one seed with its trace, the table of planted bugs, a journal replayed.

use std::{
    io::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::Duration,
};

use ptarmigan_sim::{
    Bug, Counts, Kind, Options, Report,
    replay::{Replayed, replay},
    simulate,
};

/// The core or the simulator itself broke.
const CRASH: u8 = 70;
/// Something happened that must not; also a journal that decides otherwise.
const CORRECTNESS: u8 = 2;
/// Something did not happen that must.
const LIVENESS: u8 = 3;
/// The arguments make no sense.
const USAGE: u8 = 64;
/// How many seeds a planted bug has to be caught within.
const BUG_SEEDS: u64 = 2000;
/// More times of faults than any run has.
const FAULTS_MAX: u64 = 20;
const HELP: &str = "ptarmigan-sim: whole clusters in virtual time
  --seeds N [--from N]    run N seeds (100) from that one (1)
  --seed N [--trace]      run one seed, print what happens
  --shrink                with --seed: as few faults and requests as still show it, as options to repeat it with
  --faults N --skip-faults BITS --skip-requests BITS
                          no faults after N times; without these (hexadecimal, bit 0 is the first)
  --members N             so many members, instead of 3 to 7
  --synchronous           synchronous replication in every run
  --defaults              the default timing (ttl 30, loop_wait 10, retry_timeout 10) in every run
  --bug NAME              with a planted bug around the core
  --bugs                  the table of planted bugs
  --unguarded             without guardians: two primaries are found
  --replay FILE           decide a daemon's journal again
exit: 0 nothing found, 2 correctness, 3 liveness, 70 crash";

#[derive(Debug, Default)]
struct Arguments {
    seeds: Option<u64>,
    from: u64,
    seed: Option<u64>,
    shrink: bool,
    bugs: bool,
    replay: Option<String>,
    options: Options,
}

fn main() -> ExitCode {
    let arguments = match read(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(reason) => {
            say(&format!("{reason}\n{HELP}"));
            return ExitCode::from(USAGE);
        }
    };
    let code = if let Some(path) = &arguments.replay {
        replay_file(path)
    } else if arguments.bugs {
        bugs()
    } else if let Some(seed) = arguments.seed {
        one(seed, &arguments)
    } else {
        many(arguments.from, arguments.seeds.unwrap_or(100), arguments.options)
    };
    ExitCode::from(code)
}

fn say(text: &str) {
    // Nobody may be reading any more.
    drop(writeln!(std::io::stdout(), "{text}"));
}

fn read(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments { from: 1, ..Arguments::default() };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("{text:?} is not a number"));
        match word.as_str() {
            "--seeds" => arguments.seeds = Some(number(value()?)?),
            "--from" => arguments.from = number(value()?)?,
            "--seed" => arguments.seed = Some(number(value()?)?),
            "--trace" => arguments.options.trace = true,
            "--shrink" => arguments.shrink = true,
            "--bugs" => arguments.bugs = true,
            "--members" => arguments.options.members = Some(members(&value()?)?),
            "--synchronous" => arguments.options.synchronous = true,
            "--defaults" => arguments.options.default_timing = true,
            "--faults" => arguments.options.faults_max = Some(number(value()?)?),
            "--skip-faults" => arguments.options.skip_faults = bits(&value()?)?,
            "--skip-requests" => arguments.options.skip_requests = bits(&value()?)?,
            "--unguarded" => arguments.options.unguarded = true,
            "--replay" => arguments.replay = Some(value()?),
            "--bug" => {
                let name = value()?;
                let bug = Bug::ALL.iter().find(|bug| bug.name() == name);
                arguments.options.bug = Some(*bug.ok_or_else(|| format!("there is no bug {name:?}"))?);
            }
            other => return Err(format!("{other:?} is not known")),
        }
    }
    Ok(arguments)
}

fn bits(text: &str) -> Result<u64, String> {
    u64::from_str_radix(text, 16).map_err(|_| format!("{text:?} is not a hexadecimal number"))
}

fn members(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (2..=20).contains(number));
    number.ok_or_else(|| format!("{text:?} is not a number of members from 2 to 20"))
}

/// Runs a seed; a panic is an error with the seed in it.
fn run(seed: u64, options: Options) -> Result<Report, u8> {
    catch_unwind(AssertUnwindSafe(|| simulate(seed, options))).map_err(|_| {
        say(&format!("seed {seed}: CRASH"));
        CRASH
    })
}

fn code(report: &Report) -> u8 {
    match report.violation.as_ref().map(|violation| violation.kind) {
        None => 0,
        Some(Kind::Correctness) => CORRECTNESS,
        Some(Kind::Liveness) => LIVENESS,
    }
}

fn one(seed: u64, arguments: &Arguments) -> u8 {
    let mut options = arguments.options;
    if arguments.shrink {
        options = shrunk(seed, options);
    }
    let report = match run(seed, options) {
        Ok(report) => report,
        Err(code) => return code,
    };
    report.lines.iter().for_each(|line| say(line));
    if arguments.shrink {
        say(&format!(
            "shrunk: --faults {} --skip-faults {:x} --skip-requests {:x}",
            options.faults_max.unwrap_or_default(),
            options.skip_faults,
            options.skip_requests
        ));
    }
    let verdict = report.violation.as_ref().map_or_else(|| "nothing found".into(), ToString::to_string);
    say(&format!("{}\nseed {seed}: {verdict}; trace {:016x}", report.counts, report.hash));
    code(&report)
}

/// As few faults and requests as still make the same checker object.
fn shrunk(seed: u64, options: Options) -> Options {
    let quiet = Options { trace: false, ..options };
    let Some(checker) = simulate(seed, quiet).violation.map(|violation| violation.checker) else {
        return options;
    };
    let shows = |options: &Options| {
        simulate(seed, *options).violation.is_some_and(|violation| violation.checker == checker)
    };
    let fewer = (0..FAULTS_MAX).map(|faults| Options { faults_max: Some(faults), ..quiet });
    let mut best = fewer.into_iter().find(shows).unwrap_or(quiet);
    let counts = simulate(seed, best).counts;
    for bit in (0..counts.faults.max(counts.requests).min(64)).map(|bit| 1_u64 << bit) {
        let without_fault = Options { skip_faults: best.skip_faults | bit, ..best };
        if shows(&without_fault) {
            best = without_fault;
        }
        let without_request = Options { skip_requests: best.skip_requests | bit, ..best };
        if shows(&without_request) {
            best = without_request;
        }
    }
    Options { trace: options.trace, ..best }
}

fn many(from: u64, seeds: u64, options: Options) -> u8 {
    let begin = now();
    let mut simulated = Duration::ZERO;
    let mut counts = Counts::default();
    let mut worst = 0;
    let mut hash = 0_u64;
    for seed in from..from.saturating_add(seeds) {
        let report = match run(seed, options) {
            Ok(report) => report,
            Err(code) => {
                worst = code;
                continue;
            }
        };
        simulated += report.simulated;
        hash = hash.rotate_left(1) ^ report.hash;
        counts.add(&report.counts);
        if let Some(violation) = &report.violation {
            say(&format!("seed {seed}: {violation}"));
            worst = match (worst, code(&report)) {
                (CRASH, _) | (_, CRASH) => CRASH,
                (CORRECTNESS, _) | (_, CORRECTNESS) => CORRECTNESS,
                (_, code) => code,
            };
        }
    }
    let wall = now().saturating_sub(begin).as_secs_f64().max(0.001);
    let hours = simulated.as_secs_f64() / 3600.0;
    say(&counts.to_string());
    say(&format!(
        "{seeds} seeds from {from}, traces {hash:016x}: {hours:.1} simulated hours in {wall:.1} s, {:.0} cluster-hours a minute",
        hours * 60.0 / wall
    ));
    worst
}

/// Monotonic time of the machine, for the closing line alone.
#[expect(clippy::disallowed_types, reason = "how long a run took: nothing in the simulation sees it")]
fn now() -> Duration {
    static BEGIN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    BEGIN.get_or_init(std::time::Instant::now).elapsed()
}

fn bugs() -> u8 {
    let mut missed = 0;
    say(&format!("{:<28} {:<26} {:>6}", "bug", "caught by", "seeds"));
    for bug in Bug::ALL {
        let options = bug.options();
        let caught = (1..=BUG_SEEDS).find_map(|seed| {
            let violation = run(seed, options).ok()?.violation?;
            (violation.checker == bug.checker()).then_some((seed, violation))
        });
        if let Some((seed, violation)) = caught {
            say(&format!("{:<28} {:<26} {seed:>6}", bug.name(), violation.checker));
        } else {
            missed += 1;
            say(&format!("{:<28} {:<26} {:>6}", bug.name(), "MISSED", BUG_SEEDS));
        }
    }
    u8::from(missed > 0)
}

fn replay_file(path: &str) -> u8 {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            say(&format!("{path}: {error}"));
            return USAGE;
        }
    };
    let (mut same, mut different) = (0, 0);
    for (index, line) in text.lines().enumerate() {
        match replay(line) {
            Replayed::Same => same += 1,
            Replayed::Differs(how) | Replayed::Unreadable(how) => {
                different += 1;
                say(&format!("line {}: {how}", index + 1));
            }
        }
    }
    say(&format!("{same} rounds decided as recorded, {different} not"));
    if different == 0 { 0 } else { CORRECTNESS }
}
