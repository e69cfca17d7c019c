//! What the whole of Varve is tested with: the simulator, histories of real runs and the checker that judges them, and
//! our own source code as text. The stories themselves are under `tests/parts`, the processes they need under
//! `tests/src/bin`.

pub mod checker;
pub mod history;
pub mod sim;
pub mod source;
