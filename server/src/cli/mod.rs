//! The command line.

pub mod database;
pub mod delete;
pub mod exit;
pub mod export;
pub mod import;
pub mod info;
pub mod scan;
