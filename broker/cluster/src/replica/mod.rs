//! What a replica knows of the others.

pub mod leader;

pub use leader::{Assignment, Durability, Fetched, IsrChange, Leader, Settings};
