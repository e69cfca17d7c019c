//! The table as its writer and its readers see it, on a bucket in memory and a catalog that can fail.
#![expect(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

mod catalogs;
mod exactly_once;
mod faulty_store;
mod json_values;
mod lake;
mod under_fire;
