//! One node of Sluice: MQTT listener, connector queues, agent, HTTP API, metrics and command line around the
//! metadata service and the connector runtime.

pub mod demo;
