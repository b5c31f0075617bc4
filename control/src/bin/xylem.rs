//! The command line. See `xylem_control::cli`.

fn main() -> std::process::ExitCode {
    xylem_control::cli::main(std::env::args_os())
}
