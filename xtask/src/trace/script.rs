//! What perf has recorded, read from the text that `perf script` makes of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use inferno::flamegraph;

use crate::run;

/// One tracepoint or probe of a node.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Event {
    /// Which node.
    pub(super) node: String,
    /// When, us since the machine's start.
    pub(super) at_us: f64,
    /// Its name, without its group.
    pub(super) name: String,
    /// What it says.
    pub(super) text: String,
}

impl Event {
    /// The word after a label of what it says.
    pub(super) fn word(&self, label: &str) -> Option<&str> {
        let mut words = self.text.split([' ', ',', '=']).filter(|word| !word.is_empty());
        words.find(|word| *word == label)?;
        words.next()
    }
}

fn script(data: &Path, fields: &str) -> Result<String> {
    let mut perf = run::command("perf");
    perf.args(["script", "--no-inline", "-F", fields, "-i"]).arg(data);
    run::output(&mut perf)
}

/// The samples of CPU time, with their stacks.
pub(super) fn samples(data: &Path) -> Result<String> {
    script(data, "comm,pid,tid,event,ip,sym")
}

/// All but the samples, of the nodes only.
pub(super) fn events(data: &Path, nodes: &BTreeMap<u32, String>) -> Result<Vec<Event>> {
    let text = script(data, "pid,tid,time,event,trace")?;
    Ok(text.lines().filter_map(|line| event(line, nodes)).collect())
}

fn event(line: &str, nodes: &BTreeMap<u32, String>) -> Option<Event> {
    let (ids, rest) = line.trim().split_once(' ')?;
    let node = nodes.get(&ids.split('/').next()?.parse().ok()?)?.clone();
    let (time, rest) = rest.trim().split_once(": ")?;
    let (name, text) = rest.trim().split_once(": ")?;
    let name = name.split_once(':')?.1.to_owned();
    Some(Event { node, at_us: time.parse::<f64>().ok()? * 1e6, name, text: text.to_owned() })
}

/// Folds the samples into one line for each stack, the outermost function first.
fn folded(samples: &str, nodes: &BTreeMap<u32, String>) -> Vec<String> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for sample in samples.split("\n\n") {
        let mut lines = sample.trim_start_matches('\n').lines();
        let Some(head) = lines.next().filter(|head| head.trim_end().ends_with("cpu:")) else {
            continue;
        };
        // The thread's name may have spaces; behind it are the numbers and the event.
        let words: Vec<&str> = head.split_whitespace().collect();
        let [thread @ .., ids, _] = words.as_slice() else { continue };
        let pid = ids.split('/').next().and_then(|pid| pid.parse().ok());
        let Some(node) = pid.and_then(|pid: u32| nodes.get(&pid)) else { continue };
        let mut stack = vec![node.clone(), thread.join(" ")];
        let frames = lines.filter_map(|line| Some(line.trim().split_once(' ')?.1));
        let frames: Vec<String> = frames.map(|frame| frame.replace(';', ",")).collect();
        stack.extend(frames.into_iter().rev());
        *counts.entry(stack.join(";")).or_default() += 1;
    }
    counts.into_iter().map(|(stack, count)| format!("{stack} {count}")).collect()
}

/// Draws where the CPU time of the nodes went.
pub(super) fn flame_graph(samples: &str, nodes: &BTreeMap<u32, String>, to: &Path) -> Result<()> {
    let folded = folded(samples, nodes);
    anyhow::ensure!(!folded.is_empty(), "no node used any CPU time while perf recorded");
    let mut options = flamegraph::Options::default();
    options.title = "CPU time of the nodes".to_owned();
    options.count_name = "samples".to_owned();
    let file = File::create(to).with_context(|| format!("cannot write {}", to.display()))?;
    flamegraph::from_lines(&mut options, folded.iter().map(String::as_str), file)
        .context("cannot draw the flame graph")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes() -> BTreeMap<u32, String> {
        [(7, "n1".to_owned())].into()
    }

    #[test]
    fn lines_of_nodes_become_events() {
        let line = " 7/9  39738.5:  io_uring:io_uring_submit_req: ring 0xa, req 0xb, \
                    opcode SEND, flags 0x0";
        let event = event(line, &nodes()).unwrap();
        assert_eq!((event.node.as_str(), event.name.as_str()), ("n1", "io_uring_submit_req"));
        assert_eq!((event.word("opcode"), event.word("req")), (Some("SEND"), Some("0xb")));
        assert_eq!(super::event(&line.replace("7/9", "8/9"), &nodes()), None);
    }

    #[test]
    fn stacks_are_counted_from_the_outside() {
        let sample = "a ring 7/9 cpu: \n\t12 inner\n\t34 outer<A; B>\n\n";
        let other = "x 8/8 cpu: \n\t12 inner\n\n";
        let folded = folded(&format!("{sample}{other}{sample}"), &nodes());
        assert_eq!(folded, ["n1;a ring;outer<A, B>;inner 2"]);
    }
}
