//! Why a call failed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::{Code, Status};

#[derive(Debug, Clone)]
pub enum Error {
    /// No client can be made for this socket.
    Unusable { socket: PathBuf, why: String },
    /// No server answers there, or not any longer: whether the call has had an effect is not known.
    Unreachable { call: &'static str, socket: PathBuf, why: String },
    /// No answer in time; whether the call has had an effect is not known.
    TimedOut { call: &'static str, limit: Duration },
    /// The server's own error.
    Failed { call: &'static str, code: Code, message: String },
}

impl Error {
    pub(crate) fn of(call: &'static str, socket: &Path, status: Status) -> Error {
        // Only a status that was made on our side has a cause.
        match std::error::Error::source(&status) {
            Some(mut cause) => {
                while let Some(deeper) = cause.source() {
                    cause = deeper;
                }
                Error::Unreachable { call, socket: socket.to_owned(), why: cause.to_string() }
            }
            None => {
                Error::Failed { call, code: status.code(), message: status.message().to_owned() }
            }
        }
    }

    /// The server's code, if the server failed.
    pub fn code(&self) -> Option<Code> {
        match self {
            Error::Failed { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether what was asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(Code::NotFound)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unusable { socket, why } => {
                write!(f, "no CRI client for {}: {why}", socket.display())
            }
            Error::Unreachable { call, socket, why } => {
                write!(f, "{call}: no answer from {}: {why}", socket.display())
            }
            Error::TimedOut { call, limit } => {
                write!(f, "{call}: no answer within {} s", limit.as_secs_f64())
            }
            Error::Failed { call, code, message } => write!(f, "{call}: {code:?}: {message}"),
        }
    }
}

impl std::error::Error for Error {}
