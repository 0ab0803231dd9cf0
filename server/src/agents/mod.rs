//! Agents in this process.

pub mod http;
