//! Publishes to an exchange of RabbitMQ.

pub mod config;
