//! Progress of all nodes: bars on a terminal, a line per second elsewhere; measures nothing.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

const LINE_EVERY: Duration = Duration::from_secs(1);
const BAR: &str = "{prefix:>6} {bar:40} {bytes:>11} of {total_bytes:<11} {binary_bytes_per_sec}";

/// Shows how far each node is.
#[derive(Debug)]
pub(super) enum Progress {
    /// One bar per node.
    Bars(Vec<ProgressBar>),
    /// Plain lines: where each node is, when there is something new to tell.
    Lines { names: Vec<String>, start: Instant, due: Option<Instant> },
}

impl Progress {
    pub(super) fn new(names: &[String]) -> Self {
        if !std::io::stderr().is_terminal() {
            let start = Instant::now();
            return Self::Lines { names: names.to_vec(), start, due: Some(start) };
        }
        let all = MultiProgress::new();
        let bar = |name: &String| {
            let style = ProgressStyle::with_template(BAR).expect("the template is constant");
            all.add(ProgressBar::new(0)).with_style(style).with_prefix(name.clone())
        };
        Self::Bars(names.iter().map(bar).collect())
    }

    /// Takes bytes done and bytes in all of each node. Cheap to call often.
    pub(super) fn show(&mut self, states: &[(u64, u64)]) {
        match self {
            Self::Bars(bars) => {
                for (bar, (done, total)) in bars.iter().zip(states) {
                    bar.set_length(*total);
                    bar.set_position(*done);
                    if *total > 0 && done == total && !bar.is_finished() {
                        bar.abandon();
                    }
                }
            }
            Self::Lines { names, start, due } => {
                let finished = states.iter().all(|(done, total)| *total > 0 && done == total);
                let now = Instant::now();
                if due.is_some_and(|due| finished || now >= due) {
                    eprintln!("{}", line(names, states, start.elapsed()));
                    // Once all have finished there is nothing new to tell.
                    *due = (!finished).then_some(now + LINE_EVERY);
                }
            }
        }
    }
}

fn line(names: &[String], states: &[(u64, u64)], elapsed: Duration) -> String {
    let percent = |(done, total): &(u64, u64)| (done * 100).checked_div(*total).unwrap_or(0);
    let nodes = names.iter().zip(states).map(|(name, it)| format!("  {name} {:>3} %", percent(it)));
    format!("{:7.1} s{}", elapsed.as_secs_f64(), nodes.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_every_node_even_before_its_size_is_known() {
        let names = ["n1".to_owned(), "n2".to_owned()];
        let line = line(&names, &[(0, 0), (50, 200)], Duration::from_millis(1500));
        assert_eq!(line, "    1.5 s  n1   0 %  n2  25 %");
    }
}
