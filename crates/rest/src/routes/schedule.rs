//! Moments in requests: with a zone, and in the future (contract surface A.7).

use jiff::{Timestamp, Zoned};
use ptarmigan_types::{ScheduleError, schedule::parse_moment};

use crate::answer::Answer;

/// A moment that was asked for.
#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) at: Timestamp,
    /// ISO 8601, in the zone it was written in.
    pub(super) text: String,
}

/// Reads a schedule of `action` (`switchover` or `restart`).
///
/// # Errors
/// 422 where it cannot be read or is past, 400 where it has no zone.
pub(super) fn read(text: &str, action: &str) -> Result<Schedule, Answer> {
    let now = Zoned::now();
    let moment = parse_moment(text, Some(now.date())).map_err(|error| refusal(error, action))?;
    let at = moment.timestamp().map_err(|error| refusal(error, action))?;
    if at < now.timestamp() {
        return Err(Answer::text(422, format!("Cannot schedule {action} in the past")));
    }
    Ok(Schedule { at, text: moment.to_iso() })
}

fn refusal(error: ScheduleError, action: &str) -> Answer {
    match error {
        ScheduleError::NoZone => {
            Answer::text(400, format!("Timezone information is mandatory for the scheduled {action}"))
        }
        ScheduleError::Unparsable => Answer::text(
            422,
            "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_has_a_zone_and_lies_ahead() {
        let schedule = read("2199-05-06T07:08:09+02:00", "switchover").unwrap();
        assert_eq!(schedule.text, "2199-05-06T07:08:09+02:00");
        assert_eq!(schedule.at, "2199-05-06T05:08:09Z".parse().unwrap());
        for (text, status) in [("2199-05-06T07:08:09", 400), ("2001-01-01T00:00+00", 422), ("soon", 422)] {
            assert_eq!(read(text, "switchover").unwrap_err().status, status, "{text}");
        }
    }
}
