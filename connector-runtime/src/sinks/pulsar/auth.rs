//! How a connection says who it is.

use std::sync::Arc;

use api_types::secret::Secret;
use tokio_util::sync::CancellationToken;

use super::config::Config;
use super::oauth::OAuth;
use crate::sink::{TargetFault, TargetFaultKind};
use crate::sinks::offered::SinkContext;

/// Basic and token authentication are two methods of the protocol; OAuth2 is a token that somebody else issues.
pub(super) enum Auth {
    None,
    Token(Secret),
    Basic { name: String, password: Secret },
    Issued(Box<OAuth>),
}

/// What a broker is shown.
pub(super) struct Credentials {
    pub(super) method: &'static str,
    pub(super) data: Vec<u8>,
}

impl Auth {
    /// At most one way is configured.
    pub(super) fn new(
        config: &Config,
        context: &SinkContext,
        aborted: CancellationToken,
    ) -> Result<Arc<Self>, TargetFault> {
        let auth = match (&config.token, &config.oauth, &config.basic_name, &config.basic_password) {
            (Some(token), ..) => Self::Token(token.clone()),
            (_, Some(oauth), ..) => Self::Issued(Box::new(OAuth::new(oauth, config, context, aborted)?)),
            (_, _, Some(name), Some(password)) => Self::Basic { name: name.clone(), password: password.clone() },
            _ => Self::None,
        };
        Ok(Arc::new(auth))
    }

    /// For one connection. `renew`: the broker asks for others, as those that it was shown have ended.
    pub(super) async fn credentials(&self, renew: bool) -> Result<Option<Credentials>, TargetFault> {
        let of = |method, data: String| Ok(Some(Credentials { method, data: data.into_bytes() }));
        match self {
            Self::None => Ok(None),
            Self::Token(token) => of("token", token.reveal().to_owned()),
            Self::Basic { name, password } => of("basic", format!("{name}:{}", password.reveal())),
            Self::Issued(oauth) => of("token", oauth.token(renew).await?.reveal().to_owned()),
        }
    }
}

pub(super) fn refused(message: impl Into<Arc<str>>) -> TargetFault {
    TargetFault::new(TargetFaultKind::Auth, message)
}
