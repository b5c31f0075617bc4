//! Rates in a fluid model: flows share links fairly, the tightest link is filled first.

use std::collections::HashMap;

/// The end of a link: whose it is, and whether bytes leave or come in by it; nobody: the registry.
pub(crate) type Link = (bool, Option<usize>);

/// Something that takes a share of an uplink and of a downlink.
pub(crate) struct Flow {
    pub(crate) stripe: usize,
    pub(crate) parent: Option<usize>,
    pub(crate) child: usize,
    pub(crate) rate: f64,
    /// A flow that this one cannot be faster than, by index.
    pub(crate) behind: Option<usize>,
}

impl Flow {
    fn links(&self) -> [Link; 2] {
        [(true, self.parent), (false, Some(self.child))]
    }
}

/// Gives each flow a fair share of both its links, and no more than what the flow has that it is
/// behind: all rates grow alike, and end where a link is full.
pub(crate) fn fill(flows: &mut [Flow], rate_of: impl Fn(Link) -> f64) {
    // What is left of each link, and for how many.
    let mut left: HashMap<Link, (f64, f64)> = HashMap::new();
    for link in flows.iter().flat_map(Flow::links) {
        left.entry(link).or_insert((rate_of(link), 0.0)).1 += 1.0;
    }
    let mut after: Vec<Vec<usize>> = vec![Vec::new(); flows.len()];
    for (at, flow) in flows.iter().enumerate() {
        after.get_mut(flow.behind.unwrap_or(usize::MAX)).into_iter().for_each(|it| it.push(at));
    }
    let mut open: Vec<usize> = (0..flows.len()).collect();
    let mut is_open = vec![true; flows.len()];
    while !open.is_empty() {
        let share = |at: usize| {
            let shares = flows[at].links().map(|link| left[&link].0 / left[&link].1);
            shares[0].min(shares[1])
        };
        let least = open.iter().map(|&at| share(at)).fold(f64::MAX, f64::min);
        let mut full: Vec<usize> =
            open.iter().copied().filter(|&at| share(at) <= least * 1.000_001).collect();
        while let Some(at) = full.pop() {
            if !std::mem::replace(&mut is_open[at], false) {
                continue;
            }
            flows[at].rate = least;
            for link in flows[at].links() {
                let left = left.get_mut(&link).unwrap();
                *left = (left.0 - least, left.1 - 1.0);
            }
            full.extend(&after[at]);
        }
        open.retain(|&at| is_open[at]);
    }
}
