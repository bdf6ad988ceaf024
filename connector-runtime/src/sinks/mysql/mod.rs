//! Inserts rows into a MySQL table.

#[cfg(feature = "mysql")]
mod answer;
pub mod config;
#[cfg(feature = "mysql")]
mod connect;
#[cfg(feature = "mysql")]
mod fault;
#[cfg(feature = "mysql")]
mod login;
#[cfg(feature = "mysql")]
mod packet;
#[cfg(feature = "mysql")]
mod plan;
#[cfg(feature = "mysql")]
pub(crate) mod sink;
#[cfg(feature = "mysql")]
mod statement;
#[cfg(feature = "mysql")]
mod table;
#[cfg(feature = "mysql")]
mod value;
#[cfg(feature = "mysql")]
mod write;
