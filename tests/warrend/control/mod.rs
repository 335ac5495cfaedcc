//! What control sees of the broker and does to it.

mod access;
mod plan;
