//! What executors do with a task, and with what their calls return.

mod any;
mod mcp;
mod openai;
mod support;
mod text;
mod webhook;
mod workers_ai;
