//! Publishes to an exchange of RabbitMQ.

pub mod config;
#[cfg(feature = "rabbitmq")]
mod connect;
#[cfg(feature = "rabbitmq")]
mod driver;
#[cfg(feature = "rabbitmq")]
mod message;
#[cfg(feature = "rabbitmq")]
mod pulse;
#[cfg(feature = "rabbitmq")]
mod refusal;
#[cfg(feature = "rabbitmq")]
pub(crate) mod sink;
#[cfg(feature = "rabbitmq")]
mod window;
#[cfg(feature = "rabbitmq")]
mod wire;
