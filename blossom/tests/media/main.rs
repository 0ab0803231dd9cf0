//! What `/media` does to pictures.

mod hostile;
mod samples;
mod stripping;
mod thumbnails;
