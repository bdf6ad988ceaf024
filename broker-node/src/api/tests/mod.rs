mod bad_requests;
mod changes;
mod documentation;
mod listing;
mod plane;
mod reading;
mod seed;
