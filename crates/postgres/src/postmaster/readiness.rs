//! Whether the server accepts connections, in the words of `pg_isready`.

use std::time::Duration;

use ptarmigan_guardian::RawPid;

use super::pid_file::{PidFile, Progress};
use crate::{Login, Postgres, Purpose, Session, connection};

/// How often a starting server is looked at.
pub(super) const POLL: Duration = Duration::from_millis(20);

/// The exit codes of `pg_isready`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// 0: accepting connections.
    Accepting,
    /// 1: it answers that it accepts none now.
    Rejecting,
    /// 2: no answer.
    NoResponse,
    /// 3: it could not be asked.
    Unknown,
}

impl Readiness {
    /// The exit code of `pg_isready`.
    pub const fn code(self) -> u8 {
        match self {
            Self::Accepting => 0,
            Self::Rejecting => 1,
            Self::NoResponse => 2,
            Self::Unknown => 3,
        }
    }

    /// What the outcome of a connection attempt says: a refused login is an answer of a server that accepts.
    const fn of<T>(outcome: &Result<T, connection::Error>) -> Self {
        match outcome {
            Ok(_) | Err(connection::Error::Denied(_) | connection::Error::Query { .. }) => Self::Accepting,
            Err(connection::Error::Rejecting(_)) => Self::Rejecting,
            Err(connection::Error::Tls(_) | connection::Error::Answer(_)) => Self::Unknown,
            Err(_) => Self::NoResponse,
        }
    }
}

impl Postgres {
    /// Asks the server by connecting to it; at most 3 s.
    pub async fn readiness(&self) -> Readiness {
        let info = self.local_conninfo(Login::Superuser);
        Readiness::of(&Session::connect(&info, Purpose::Heartbeat).await)
    }

    /// As far as can be told without disturbing it: each attempt to connect to a starting server puts a line into its
    /// log, so it is asked only once its own `postmaster.pid` says that it is ready.
    pub(super) async fn quiet_readiness(&self, pid: RawPid) -> Readiness {
        let Ok(file) = PidFile::read(&self.data_dir()) else { return Readiness::NoResponse };
        match file.status {
            _ if file.pid != pid => Readiness::NoResponse,
            Some(Progress::Ready) => self.readiness().await,
            Some(Progress::Starting | Progress::Stopping | Progress::Standby) => Readiness::Rejecting,
            None => Readiness::NoResponse,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b_26_pg_isready_codes() {
        let code = |error| Readiness::of::<()>(&Err(error)).code();
        assert_eq!(Readiness::of(&Ok(())).code(), 0);
        assert_eq!(code(connection::Error::Denied("password".to_owned())), 0);
        assert_eq!(code(connection::Error::Rejecting("starting up".to_owned())), 1);
        assert_eq!(code(connection::Error::Refused(String::new())), 2);
        assert_eq!(code(connection::Error::TimedOut(POLL)), 2);
        assert_eq!(code(connection::Error::Answer(String::new())), 3);
    }
}
