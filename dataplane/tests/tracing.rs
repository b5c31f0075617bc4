//! The static probes: there is a note for each in the binary, and a `nop` where it points.

use std::process::Command;

/// All that docs/tracing.md promises.
const PROBES: [&str; 4] = ["received", "forwarded", "stored", "committed"];
const NOP: u8 = 0x90;

fn readelf(flag: &str, binary: &str) -> String {
    let output = Command::new("readelf").args(["-W", flag, binary]).output();
    let output = output.expect("readelf, which comes with the linker");
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn hex(text: &str) -> u64 {
    u64::from_str_radix(text.trim_start_matches("0x").trim_end_matches(','), 16).unwrap()
}

/// Where a virtual address is in the file.
fn in_file(segments: &str, address: u64) -> usize {
    let loads = segments.lines().filter_map(|line| line.trim().strip_prefix("LOAD"));
    let mut at = loads.filter_map(|line| {
        let numbers: Vec<u64> = line.split_whitespace().take(5).map(hex).collect();
        let [offset, virtual_at, _, bytes, _] = numbers[..] else { panic!("{line}") };
        (virtual_at..virtual_at + bytes).contains(&address).then(|| address - virtual_at + offset)
    });
    usize::try_from(at.next().expect("a segment holds it")).unwrap()
}

#[test]
fn each_probe_has_a_note_and_is_one_nop() {
    let binary = env!("CARGO_BIN_EXE_xylemd");
    let (notes, segments) = (readelf("-n", binary), readelf("-l", binary));
    let code = std::fs::read(binary).unwrap();
    let mut found = Vec::new();
    for note in notes.split("Provider: xylem").skip(1) {
        let word = |after: &str| note.split(after).nth(1).unwrap().split_whitespace().next();
        let location = hex(word("Location: ").unwrap());
        let name = word("Name: ").unwrap().to_owned();
        assert_eq!(code[in_file(&segments, location)], NOP, "{name}");
        assert_eq!(hex(word("Semaphore: ").unwrap()), 0, "{name}: nothing is looked up");
        found.push(name);
    }
    for probe in PROBES {
        assert!(found.iter().any(|name| name == probe), "{probe} is missing among {found:?}");
    }
}
