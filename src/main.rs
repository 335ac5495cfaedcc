//! The `warrend` executable: everything it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Fails only where one is installed already, which then serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    ExitCode::from(warrend::cli::run(std::env::args_os()).code())
}
