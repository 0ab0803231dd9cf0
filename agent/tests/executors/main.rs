//! What executors do with a task, and with what their calls return.

mod openai;
mod support;
mod text;
mod workers_ai;
