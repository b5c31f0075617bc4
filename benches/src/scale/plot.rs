//! A picture of runs: how many of the nodes have the blob after how many S/B, one curve for each
//! run. SVG by hand, so that the same outcomes give the same bytes.

use std::fmt::Write as _;

use super::run::Outcome;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 440.0;
/// Around the curves: left, top, right (with the legend), bottom.
const MARGINS: [f64; 4] = [60.0, 40.0, 170.0, 50.0];
/// Most points of one curve.
const POINTS_MAX: usize = 400;
/// From this ratio on the axis of time is logarithmic.
const LINEAR_MAX: f64 = 8.0;
/// Told apart also by who does not see red and green apart (Okabe and Ito).
const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// From times to columns of the picture.
#[derive(Clone, Copy, Debug)]
struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Axis {
    fn new(curves: &[Vec<f64>]) -> Self {
        let ends = curves.iter().filter_map(|curve| curve.last().copied());
        let high = ends.fold(1.0, f64::max) * 1.05;
        let firsts = curves.iter().filter_map(|curve| curve.first().copied());
        let logarithmic = high > LINEAR_MAX;
        let low = if logarithmic { firsts.fold(1.0, f64::min).max(0.01) * 0.9 } else { 0.0 };
        Self { low, high, logarithmic }
    }

    fn column(&self, value: f64) -> f64 {
        let scale = |value: f64| if self.logarithmic { value.ln() } else { value };
        let part = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low));
        MARGINS[0] + part.clamp(0.0, 1.0) * (WIDTH - MARGINS[0] - MARGINS[2])
    }

    /// Round values that are on the axis.
    fn ticks(&self) -> Vec<f64> {
        let steps: &[f64] = if self.logarithmic { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let inside = |value: &f64| (self.low..=self.high).contains(value);
        if self.logarithmic {
            let tens = (-2..6).map(|power| 10_f64.powi(power));
            return tens
                .flat_map(|ten| steps.iter().map(move |s| s * ten))
                .filter(inside)
                .collect();
        }
        let step = if self.high > 4.0 { 1.0 } else { 0.25 };
        let values = (0..33).map(|index| f64::from(index) * step);
        values.filter(inside).collect()
    }
}

fn row(share: f64) -> f64 {
    HEIGHT - MARGINS[3] - share * (HEIGHT - MARGINS[1] - MARGINS[3])
}

/// The picture.
pub fn svg(name: &str, outcomes: &[Outcome]) -> String {
    let of = |outcome: &Outcome| {
        let limit_ns = outcome.run.limit_ns().max(1) as f64;
        outcome.stored_ns.iter().map(|&ns| ns as f64 / limit_ns).collect()
    };
    let curves: Vec<Vec<f64>> = outcomes.iter().map(of).collect();
    let axis = Axis::new(&curves);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{}\" y=\"22\" font-size=\"15\">{}: nodes that have the image</text>\n",
        MARGINS[0],
        escaped(name),
    );
    grid(&mut text, &axis);
    for (index, (outcome, curve)) in outcomes.iter().zip(&curves).enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        // Those after the first round of colours are dashed.
        let dash = match index / COLOURS.len() {
            0 => String::new(),
            round => format!(" stroke-dasharray=\"{} 3\"", 2 * round),
        };
        let line = format!("fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}");
        let _ = writeln!(text, "<polyline {line} points=\"{}\"/>", points(curve, &axis));
        let (x, y) = (WIDTH - MARGINS[2] + 12.0, MARGINS[1] + 10.0 + 18.0 * index as f64);
        let _ = writeln!(
            text,
            "<polyline {line} points=\"{x},{y} {},{y}\"/>\n\
             <text x=\"{}\" y=\"{}\">{}, {} nodes</text>",
            x + 20.0,
            x + 26.0,
            y + 4.0,
            outcome.run.shape,
            outcome.run.nodes,
        );
    }
    text.push_str("</svg>\n");
    text
}

fn grid(text: &mut String, axis: &Axis) {
    let (left, right) = (MARGINS[0], WIDTH - MARGINS[2]);
    for quarter in 0..=4 {
        let share = f64::from(quarter) / 4.0;
        let y = row(share);
        let _ = writeln!(
            text,
            "<line x1=\"{left}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\n\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{} %</text>",
            left - 8.0,
            y + 4.0,
            share * 100.0,
        );
    }
    for value in axis.ticks() {
        let x = axis.column(value);
        let _ = writeln!(
            text,
            "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\" stroke=\"#ddd\"/>\n\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value}</text>",
            row(1.0),
            row(0.0),
            row(0.0) + 18.0,
        );
    }
    let _ = writeln!(
        text,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">time since the request, in S/B\
         </text>",
        f64::midpoint(left, right),
        HEIGHT - 10.0,
    );
}

/// A staircase: from the begin of the axis, a step for each node, or for each of many.
fn points(curve: &[f64], axis: &Axis) -> String {
    let mut text = format!("{:.1},{:.1}", axis.column(axis.low), row(0.0));
    let stride = curve.len().div_ceil(POINTS_MAX).max(1);
    let mut before = 0.0;
    for (index, &time) in curve.iter().enumerate() {
        if !(index + 1).is_multiple_of(stride) && index + 1 != curve.len() {
            continue;
        }
        let share = (index + 1) as f64 / curve.len() as f64;
        let x = axis.column(time);
        let _ = write!(text, " {x:.1},{:.1} {x:.1},{:.1}", row(before), row(share));
        before = share;
    }
    text
}

/// As text of XML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use xylem_control::tree::ShapeKind;

    use super::super::control::Shape;
    use super::super::run::Run;
    use super::*;

    fn outcome(stored_ns: Vec<u64>) -> Outcome {
        let run = Run::new(Shape::Trees(ShapeKind::Ft), 2, 125_000_000, 125_000_000);
        Outcome { stored_ns, ..Outcome::nothing(run) }
    }

    #[test]
    fn a_curve_climbs_to_all_nodes_within_the_picture() {
        for ends in [vec![1_000_000_000, 2_000_000_000], vec![1_000_000_000, 90_000_000_000]] {
            let outcome = outcome(ends);
            let text = svg("a < b", std::slice::from_ref(&outcome));
            assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
            assert!(text.contains("a &lt; b: nodes") && text.contains(">ft, 2 nodes<"));
            let axis = Axis::new(&[vec![1.0, outcome.stored_ns[1] as f64 / 1e9]]);
            let points = points(&[1.0, outcome.stored_ns[1] as f64 / 1e9], &axis);
            let numbers = points.split([' ', ',']).map(|n| n.parse::<f64>().unwrap());
            assert!(numbers.into_iter().all(|n| (0.0..=WIDTH).contains(&n)), "{points}");
            assert!(points.ends_with(&format!(",{:.1}", row(1.0))), "{points}");
        }
        assert!(svg("none", &[]).contains("</svg>"));
    }
}
