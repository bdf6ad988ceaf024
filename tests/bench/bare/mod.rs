//! What no product does: the same records in a loop, with nothing around it that could cost something.

pub mod http;
pub mod records;
pub mod statements;
