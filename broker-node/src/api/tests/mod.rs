mod bad_requests;
mod changes;
mod documentation;
mod listing;
pub(crate) mod plane;
mod reading;
mod seed;
