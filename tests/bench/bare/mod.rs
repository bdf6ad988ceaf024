//! What no product does: the same records in a loop, with nothing around it that could cost something.

pub mod cassandra;
pub mod http;
pub mod mongodb;
pub mod records;
pub mod s3;
pub mod statements;
