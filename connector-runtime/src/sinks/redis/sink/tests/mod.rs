//! Against Redis itself.
