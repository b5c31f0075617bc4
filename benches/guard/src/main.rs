//! Does the work of one part, for a count of its instructions; without a name, lists the parts.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use xylem_guard::parts::Part;

fn main() -> ExitCode {
    let Some(name) = std::env::args().nth(1) else {
        println!("{}", Part::NAMES.join("\n"));
        return ExitCode::SUCCESS;
    };
    let Some(part) = Part::ready(&name) else {
        eprintln!("xylem-guard: there is no part {name}");
        return ExitCode::from(2);
    };
    println!("{}", part.counted());
    ExitCode::SUCCESS
}
