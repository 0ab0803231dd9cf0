//! Copying a database into one of another engine: `relay db convert`.
//!
//! The new database is made in a folder of its own (`copy`), compared with the old one, and then takes its place (`place`). A
//! conversion that was ended, however, goes on where it was; until it is complete or has been given up, nothing else opens the
//! folder.

mod copy;
mod place;
#[cfg(test)]
mod tests;

pub(crate) use copy::{Copied, Step, Summary, copy, summary};
pub(crate) use place::{Engine, FOLDER, Place};
