//! What `/media` does to pictures.

mod hostile;
mod previews;
mod samples;
mod stripping;
