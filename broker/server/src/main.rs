//! The binary `varve`.

use std::process::ExitCode;

fn main() -> ExitCode {
    varve_server::cli::main()
}
