//! The index: what each command answers, what it costs in rows, and that no failure and no race breaks it.

mod owners;
mod parts;
mod removals;
mod rows;
mod uploads;
mod world;
