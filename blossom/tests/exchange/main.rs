//! Exchanges, as a client sees them: the rules of the BUDs and of HTTP, a case for each.

mod admin;
mod deletions;
mod downloads;
mod heads;
mod lists;
mod machine;
mod media;
mod mirrors;
mod parts;
mod payments;
mod permission;
mod pulls;
mod races;
mod reports;
mod uploads;
mod world;
