//! From an address to a connection that is logged in.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, ServerError, Value};
use tokio_util::sync::CancellationToken;

use super::address::Address;
use super::fault::{self, down};
use super::link::Link;
use crate::sink::{TargetFault, TargetFaultKind};
use crate::sinks::shared::network::Network;
use crate::sinks::shared::stream::{Route, Stream, Trust};

/// Everything that it takes to connect, to whichever server.
#[derive(Clone)]
pub(super) struct Dialer {
    pub(super) deny_networks: Arc<[Network]>,
    /// With it every socket falls silent.
    pub(super) aborted: CancellationToken,
    pub(super) tls: Option<Trust>,
    pub(super) connect_timeout: Duration,
    pub(super) answer_timeout: Duration,
    pub(super) login: Option<Login>,
    pub(super) database: u64,
    /// As the server lists its clients.
    pub(super) client_name: String,
    /// A replica is no target.
    pub(super) must_be_master: bool,
}

#[derive(Clone)]
pub(super) struct Login {
    pub(super) username: Option<String>,
    pub(super) password: String,
}

/// One command of the greeting, and what its refusal means.
struct Greeting {
    bytes: Vec<u8>,
    judge: fn(&Value) -> Option<TargetFault>,
}

impl Dialer {
    pub(super) async fn connect(&self, address: &Address) -> Result<Link, TargetFault> {
        let late = |_| down(format!("no connection to {address} within {} ms", self.connect_timeout.as_millis()));
        tokio::time::timeout(self.connect_timeout, self.greet(address)).await.map_err(late)?
    }

    async fn greet(&self, address: &Address) -> Result<Link, TargetFault> {
        let link = Link::new(self.stream(address).await?, self.answer_timeout);
        let greetings = self.greetings();
        let bytes = greetings.iter().flat_map(|greeting| greeting.bytes.clone()).collect();
        let answers = link.ask(bytes, greetings.len()).await;
        for (greeting, reply) in greetings.iter().zip(&answers.replies) {
            if let Some(fault) = (greeting.judge)(reply) {
                return Err(fault);
            }
        }
        match answers.lost {
            Some(fault) => Err(fault),
            None => Ok(link),
        }
    }

    async fn stream(&self, address: &Address) -> Result<Box<dyn Stream>, TargetFault> {
        let route = Route {
            host: address.host.clone(),
            port: address.port,
            tls: self.tls.as_ref().map(|trust| trust.towards(&address.host)).transpose()?,
            deny_networks: Arc::clone(&self.deny_networks),
            is_patient: false,
            aborted: self.aborted.clone(),
        };
        route.connect().await
    }

    fn greetings(&self) -> Vec<Greeting> {
        let mut greetings = Vec::new();
        if let Some(Login { username, password }) = &self.login {
            let mut auth = redis::cmd("AUTH");
            auth.arg(username.as_deref()).arg(password);
            greetings.push(Greeting { bytes: auth.get_packed_command(), judge: login_refused });
        }
        // Allowed whatever state the server is in, so it also finds out whether a login is wanted.
        let name = packed(redis::cmd("CLIENT").arg("SETNAME").arg(&self.client_name));
        greetings.push(Greeting { bytes: name, judge: name_refused });
        if self.database > 0 {
            let select = packed(redis::cmd("SELECT").arg(self.database));
            greetings.push(Greeting { bytes: select, judge: database_refused });
        }
        if self.must_be_master {
            greetings.push(Greeting { bytes: packed(&redis::cmd("ROLE")), judge: no_master });
        }
        greetings
    }
}

pub(super) fn packed(command: &Cmd) -> Vec<u8> {
    command.get_packed_command()
}

/// What a server may refuse is the name itself, which is worth nothing: spaces, or a right that the user does not have.
pub(super) fn client_name(connector: &str) -> String {
    let fit = |character: char| if character.is_ascii_graphic() { character } else { '_' };
    format!("sluice/{connector}").chars().map(fit).collect()
}

fn refusal(reply: &Value) -> Option<&ServerError> {
    match reply {
        Value::ServerError(error) => Some(error),
        _ => None,
    }
}

/// A password where none is set, a user that does not exist: whatever is wrong with a login, a person is needed.
fn login_refused(reply: &Value) -> Option<TargetFault> {
    let error = refusal(reply)?;
    // What follows these words is the password.
    if error.details().is_some_and(|details| details.contains("with args beginning with")) {
        return Some(TargetFault::new(TargetFaultKind::Auth, "the server does not know the command AUTH"));
    }
    let fault = fault::target_fault(error);
    if error.code() == "ERR" && error.details().is_some_and(|details| details.contains("AUTH")) {
        return Some(TargetFault::new(TargetFaultKind::Auth, fault.message));
    }
    Some(fault)
}

fn name_refused(reply: &Value) -> Option<TargetFault> {
    let error = refusal(reply)?;
    let is_free_to_refuse = match error.code() {
        "NOPERM" => true,
        "ERR" => !error.details().is_some_and(|details| details.contains("max number of clients")),
        _ => false,
    };
    (!is_free_to_refuse).then(|| fault::target_fault(error))
}

fn database_refused(reply: &Value) -> Option<TargetFault> {
    let error = refusal(reply)?;
    let fault = fault::target_fault(error);
    // Out of range, or a node of a cluster.
    Some(if error.code() == "ERR" { TargetFault::new(TargetFaultKind::Missing, fault.message) } else { fault })
}

/// Who may not ask for the role finds out from READONLY.
fn no_master(reply: &Value) -> Option<TargetFault> {
    match reply {
        Value::ServerError(error) if error.code() == "NOPERM" => None,
        Value::ServerError(error) => Some(fault::target_fault(error)),
        Value::Array(role) => match role.first() {
            Some(Value::BulkString(role)) if role == b"master" => None,
            _ => Some(down("the server that the sentinels name says that it is no master")),
        },
        _ => Some(down("the server does not say what its role is")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_a_server_takes() {
        assert_eq!(client_name("a-1"), "sluice/a-1");
        assert_eq!(client_name("plant floor ü"), "sluice/plant_floor__");
    }

    #[test]
    fn a_refused_login_does_not_repeat_the_password() {
        let said = "unknown command 'AUTH', with args beginning with: 'sluice' 'open sesame' ";
        let refusal = format!("-ERR {said}\r\n");
        let reply = redis::parse_redis_value(refusal.as_bytes()).expect("is a reply");
        let fault = login_refused(&reply).expect("is refused");
        assert_eq!((fault.kind, &*fault.message), (TargetFaultKind::Auth, "the server does not know the command AUTH"));
    }
}
