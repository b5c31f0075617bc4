//! Bars in SVG, by hand, so that the same figures give the same bytes; knows nothing of what is
//! measured.

use std::fmt::Write as _;

use super::stats::Spread;

const WIDTH: f64 = 860.0;
const ROW: f64 = 26.0;
const BAR: f64 = 15.0;
/// Left, with the labels; top; right, with the figures; bottom.
const MARGINS: [f64; 4] = [220.0, 58.0, 80.0, 36.0];
/// Told apart also by who does not see red and green apart (Okabe and Ito).
const COLOURS: [&str; 4] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7"];
/// About how many marks the axis has.
const MARKS: f64 = 6.0;

/// One bar: its parts one after another, and the spread of their sum.
#[derive(Clone, Debug)]
pub(super) struct Bar {
    /// What stands before it.
    pub(super) label: String,
    /// Lengths, in the order of the legend.
    pub(super) parts: Vec<f64>,
    /// Least and greatest, as a line over the bar's end.
    pub(super) spread: Option<Spread>,
}

/// The picture. `legend` names the parts; of one part none is shown. `limit` is drawn as a line.
pub(super) fn bars(title: &str, legend: &[&str], bars: &[Bar], limit: Option<f64>) -> String {
    let longest = bars
        .iter()
        .flat_map(|bar| [bar.parts.iter().sum(), bar.spread.map_or(0.0, |spread| spread.max)]);
    let longest = longest.chain(limit).fold(f64::MIN_POSITIVE, f64::max) * 1.05;
    let column = |value: f64| MARGINS[0] + value / longest * (WIDTH - MARGINS[0] - MARGINS[2]);
    let rows = u32::try_from(bars.len()).map_or(0.0, f64::from);
    let bottom = MARGINS[1] + rows * ROW;
    let height = bottom + MARGINS[3];
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"12\" y=\"22\" font-size=\"15\">{}</text>\n",
        escaped(title)
    );
    if legend.len() > 1 {
        show_legend(&mut text, legend);
    }
    for mark in marks(longest) {
        line(&mut text, column(mark), bottom, "#ddd");
        let (x, y) = (column(mark), bottom + 16.0);
        let _ = writeln!(text, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{mark}</text>");
    }
    let mut top = MARGINS[1];
    for bar in bars {
        show_bar(&mut text, bar, top, &column);
        top += ROW;
    }
    if let Some(limit) = limit {
        line(&mut text, column(limit), bottom, "#000000");
    }
    text.push_str("</svg>\n");
    text
}

fn show_legend(text: &mut String, legend: &[&str]) {
    let mut x = MARGINS[0];
    for (name, colour) in legend.iter().zip(COLOURS.iter().cycle()) {
        let _ = writeln!(
            text,
            "<rect x=\"{x}\" y=\"34\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\n\
             <text x=\"{}\" y=\"44\">{}</text>",
            x + 17.0,
            escaped(name)
        );
        x += 130.0;
    }
}

fn show_bar(text: &mut String, bar: &Bar, top: f64, column: &impl Fn(f64) -> f64) {
    let middle = top + ROW / 2.0;
    let _ = writeln!(
        text,
        "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
        MARGINS[0] - 8.0,
        middle + 4.0,
        escaped(&bar.label)
    );
    let mut from = 0.0;
    for (part, colour) in bar.parts.iter().zip(COLOURS.iter().cycle()) {
        let (x, width) = (column(from), column(from + part) - column(from));
        let y = middle - BAR / 2.0;
        let _ = writeln!(
            text,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" \
             fill=\"{colour}\"/>"
        );
        from += part;
    }
    let mut end = column(from);
    if let Some(spread) = &bar.spread {
        let (left, right) = (column(spread.min), column(spread.max));
        let _ = writeln!(
            text,
            "<line x1=\"{left:.1}\" y1=\"{middle:.1}\" x2=\"{right:.1}\" y2=\"{middle:.1}\" \
             stroke=\"#000000\"/>"
        );
        end = end.max(right);
    }
    let (x, y) = (end + 6.0, middle + 4.0);
    let _ = writeln!(text, "<text x=\"{x:.1}\" y=\"{y:.1}\">{from:.2}</text>");
}

fn line(text: &mut String, x: f64, bottom: f64, colour: &str) {
    let top = MARGINS[1] - 4.0;
    let _ = writeln!(
        text,
        "<line x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"{colour}\"/>"
    );
}

/// Round values from zero to the end of the axis.
fn marks(longest: f64) -> Vec<f64> {
    let ten = 10_f64.powf((longest / MARKS).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * ten);
    let step = step.into_iter().find(|step| longest / step <= MARKS).unwrap_or(ten);
    // Multiples, not sums, and rounded: 0.6 is to be written like that.
    let mark = |index: u32| (f64::from(index) * step * 1e6).round() / 1e6;
    (0..=10).map(mark).take_while(|mark| *mark <= longest).collect()
}

/// As text of XML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(label: &str, parts: &[f64]) -> Bar {
        let spread = Spread::of([1.0, 9.0]);
        Bar { label: label.into(), parts: parts.to_vec(), spread }
    }

    #[test]
    fn everything_lies_within_the_picture() {
        let text = bars("a < b", &["x", "y"], &[bar("one", &[1.0, 2.0]), bar("two", &[0.0])], None);
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
        assert!(text.contains("a &lt; b") && text.contains(">one</text>"));
        for attribute in [" x=\"", " x1=\"", " x2=\""] {
            let values = text.split(attribute).skip(1).filter_map(|rest| rest.split('"').next());
            let inside = |value: &str| (0.0..=WIDTH).contains(&value.parse::<f64>().unwrap());
            assert!(values.into_iter().all(inside), "{text}");
        }
        assert!(bars("none", &[], &[], Some(1.0)).contains("</svg>"));
    }

    #[test]
    fn marks_are_round() {
        assert_eq!(marks(7.4), [0.0, 2.0, 4.0, 6.0]);
        assert_eq!(marks(0.35), [0.0, 0.1, 0.2, 0.3]);
        assert_eq!(marks(2.6), [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]);
    }
}
