mod facts;
mod properties;
