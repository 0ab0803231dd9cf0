//! Generators and checks for this crate's tests and for other crates' tests, benches and fuzz targets.

pub mod index_ops;
