//! Why a call to etcd failed, and what follows from it (contract A.5, "Error classes").

use std::error::Error as _;

use etcd_client::Error as ClientError;
use ptarmigan_dcs::Error;
use tonic::Code;

/// A call that failed for good: no repetition is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// etcd answered with a definite error.
    Api(String),
    /// etcd does not take our user or password.
    Credentials(String),
    /// Nothing was sent, or the answer says that nothing was applied.
    Unsent(String),
    /// Something was sent and not answered.
    Unanswered(String),
}

impl Failure {
    /// The lease is gone: etcd's `requested lease not found`.
    pub(crate) fn is_lease_not_found(&self) -> bool {
        matches!(self, Self::Api(text) if text.contains("lease not found"))
    }

    /// A definite answer: on the leader key this is a refusal.
    pub(crate) fn refusal(&self) -> Option<&str> {
        match self {
            Self::Api(text) | Self::Credentials(text) => Some(text),
            Self::Unsent(_) | Self::Unanswered(_) => None,
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Api(text) => Self::Refused(text),
            Failure::Credentials(text) => Self::Fatal(text),
            Failure::Unsent(text) => Self::Unreachable(text),
            Failure::Unanswered(text) => Self::Indeterminate(text),
        }
    }
}

/// What to do after one attempt on one node failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// Give up.
    Fail(Failure),
    /// Authenticate again, then repeat on the same node; without credentials, or the second time, give up.
    Authenticate(String),
    /// Wait a moment, then repeat; `sent`: it may have been applied.
    Repeat { sent: bool, text: String },
    /// Ask another node; `sent`: it may have been applied.
    Switch { sent: bool, text: String },
}

/// Judges the error of one attempt.
pub(crate) fn judge(error: &ClientError) -> Next {
    match error {
        ClientError::GRpcStatus(status) => judge_status(status),
        ClientError::LeaseKeepAliveError(text) => Next::Fail(Failure::Api(text.clone())),
        ClientError::InvalidArgs(_) | ClientError::InvalidUri(_) | ClientError::TransportError(_) => {
            Next::Switch { sent: false, text: error.to_string() }
        }
        _ => Next::Switch { sent: true, text: error.to_string() },
    }
}

fn judge_status(status: &tonic::Status) -> Next {
    let text = status.message().to_owned();
    if status.source().is_some() {
        return Next::Switch { sent: !never_connected(status), text: with_causes(status) };
    }
    let expired = ["user name is empty", "invalid auth token", "revision of auth store is old"];
    if expired.iter().any(|known| text.contains(known)) {
        return Next::Authenticate(text);
    }
    if text.contains("authentication failed") {
        return Next::Fail(Failure::Credentials(text));
    }
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => Next::Authenticate(text),
        Code::Unavailable | Code::Cancelled => Next::Switch { sent: true, text },
        Code::Unknown | Code::Internal if text.contains("not a primary lessor") => {
            Next::Switch { sent: true, text }
        }
        // Without "etcdserver:" the words come from a proxy or from the transport, not from etcd.
        Code::Unknown | Code::Internal if !text.contains("etcdserver") => Next::Switch { sent: true, text },
        Code::DeadlineExceeded => Next::Repeat { sent: true, text },
        Code::FailedPrecondition => Next::Repeat { sent: false, text },
        code => Next::Fail(Failure::Api(if text.is_empty() { format!("{code:?}") } else { text })),
    }
}

/// True where the connection was never made, so that nothing can have been sent.
fn never_connected(status: &tonic::Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn with_causes(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(code: Code, text: &str) -> Next {
        judge(&ClientError::GRpcStatus(tonic::Status::new(code, text)))
    }

    #[test]
    fn a_5_definite_errors_are_refusals() {
        for (code, text) in [
            (Code::NotFound, "etcdserver: requested lease not found"),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
            (Code::InvalidArgument, "etcdserver: key is not provided"),
        ] {
            assert_eq!(judged(code, text), Next::Fail(Failure::Api(text.into())));
        }
        let gone = Failure::Api("etcdserver: requested lease not found".into());
        assert!(gone.is_lease_not_found() && gone.refusal().is_some());
    }

    #[test]
    fn a_5_texts_that_ask_for_another_token() {
        for (code, text) in [
            (Code::InvalidArgument, "etcdserver: user name is empty"),
            (Code::Unauthenticated, "etcdserver: invalid auth token"),
            (Code::PermissionDenied, "etcdserver: permission denied"),
            (Code::InvalidArgument, "etcdserver: revision of auth store is old"),
        ] {
            assert_eq!(judged(code, text), Next::Authenticate(text.into()));
        }
    }

    #[test]
    fn a_5_which_errors_are_repeated_and_which_switch_the_node() {
        let sent = |code, text: &str| match judged(code, text) {
            Next::Repeat { sent, .. } => Some(("repeat", sent)),
            Next::Switch { sent, .. } => Some(("switch", sent)),
            _ => None,
        };
        assert_eq!(sent(Code::DeadlineExceeded, "x"), Some(("repeat", true)));
        assert_eq!(sent(Code::FailedPrecondition, "x"), Some(("repeat", false)));
        assert_eq!(sent(Code::Unavailable, "etcdserver: no leader"), Some(("switch", true)));
        assert_eq!(sent(Code::Unavailable, "etcdserver: request timed out"), Some(("switch", true)));
        assert_eq!(sent(Code::Unknown, "etcdserver: not a primary lessor"), Some(("switch", true)));
    }

    #[test]
    fn a_wrong_password_is_fatal() {
        let text = "etcdserver: authentication failed, invalid user ID or password";
        let Next::Fail(failure) = judged(Code::InvalidArgument, text) else { panic!("not a failure") };
        assert!(matches!(Error::from(failure), Error::Fatal(_)));
    }
}
