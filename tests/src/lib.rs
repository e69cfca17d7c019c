//! What the whole of Varve is tested with: histories of real runs and the checker that judges them.
//! The stories themselves are under `tests/parts`, the processes they need under `tests/src/bin`.

pub mod checker;
pub mod history;
