//! The tables of one agent.
