//! Aligned columns, and numbers as people read them.

use std::fmt::Write;

/// Where the cells of a column stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// Columns with their headings, above rows of as many cells; two blanks between columns, none at
/// line ends.
pub(super) fn table<const N: usize>(columns: [(&str, Align); N], rows: &[[String; N]]) -> String {
    let width = |cell: &str| cell.chars().count();
    let mut widths = columns.map(|(heading, _)| width(heading));
    for row in rows {
        for (widest, cell) in widths.iter_mut().zip(row) {
            *widest = (*widest).max(width(cell));
        }
    }
    let headings = columns.map(|(heading, _)| heading.to_owned());
    let mut text = String::new();
    for row in std::iter::once(&headings).chain(rows) {
        let mut line = String::new();
        for ((cell, (_, align)), widest) in row.iter().zip(columns).zip(widths) {
            let pad = " ".repeat(widest - width(cell));
            match align {
                Align::Left => line.extend([cell, pad.as_str(), "  "]),
                Align::Right => line.extend([pad.as_str(), cell, "  "]),
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `1.5 GiB`, `17 B`.
#[expect(clippy::cast_precision_loss, reason = "one decimal of it is shown")]
pub(super) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1023.95 || unit == "TiB" {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    unreachable!("the last unit takes all")
}

/// `2 d 3 h`, `4 min 5 s`, `6 s`: the two largest units.
pub(super) fn duration(seconds: u64) -> String {
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
    ];
    let first = parts.iter().position(|&(count, _)| count > 0).unwrap_or(3);
    let mut text = String::new();
    for (count, unit) in parts.iter().skip(first).take(2) {
        let _ = write!(text, "{}{count} {unit}", if text.is_empty() { "" } else { " " });
    }
    text
}

/// The first twelve digits of a digest suffice for people.
pub(super) fn short(digest: &str) -> String {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let columns = [("NODE", Align::Left), ("BYTES", Align::Right), ("END", Align::Left)];
        let row = |cells: [&str; 3]| cells.map(str::to_owned);
        let text = table(columns, &[row(["é", "1", ""]), row(["longer", "123456", "x"])]);
        assert_eq!(text, "NODE     BYTES  END\né            1\nlonger  123456  x\n");
    }

    #[test]
    fn numbers() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes(1024 * 1024 - 1), "1.0 MiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
        assert_eq!(duration(0), "0 s");
        assert_eq!(duration(245), "4 min 5 s");
        assert_eq!(duration(183_600), "2 d 3 h");
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
    }
}
