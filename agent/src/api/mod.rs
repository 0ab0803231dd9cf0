//! The HTTP API, without HTTP.
