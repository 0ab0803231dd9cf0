//! The index: what each command answers, what it costs in rows, and that no failure and no race breaks it.

mod admin;
mod events;
mod faults;
mod model;
mod owners;
mod parts;
mod removals;
mod retention;
mod rows;
mod thumbnails;
mod uploads;
mod world;
