//! What executors do with a task, and with what their calls return.

mod support;
mod text;
