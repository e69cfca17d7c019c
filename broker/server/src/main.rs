//! The binary `varve`.
fn main() {}
