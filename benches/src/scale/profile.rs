//! Load as it was over time: how many machines a function wants from second to second. They come
//! when they are wanted, and are reclaimed when they have been idle for a while.

use serde::Deserialize;

use super::fate::End;
use super::node::Phase;
use super::run::{SECOND_NS, ns};
use super::world::{Item, World};

/// Which profile a scenario plays, and how.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// A CSV file beside the scenario: profile, `t_start_s`, `t_end_s`, `rps_start`, `rps_end`,
    /// note; lines that begin with # are comments.
    pub file: String,
    /// Which of the profiles in it.
    pub name: String,
    /// Requests per second that one machine answers.
    pub rps_per_node: f64,
    /// After how many seconds without a request a machine is reclaimed.
    pub idle_s: u32,
}

/// A stretch of time in which the load goes evenly from one value to another.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stretch {
    from_s: u32,
    to_s: u32,
    from_rps: f64,
    to_rps: f64,
}

/// A load over time.
#[derive(Clone, Debug)]
pub struct Profile {
    stretches: Vec<Stretch>,
    rps_per_node: f64,
    idle_s: u32,
}

/// A file in which the profile is not, or not as it must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// A line that is none of a profile.
    #[error("line {0}: not a name, two times in seconds, two rates per second and a note")]
    Line(usize),
    /// No line of the file has that name.
    #[error("no profile `{0}` in it")]
    Unknown(String),
}

/// Longest profile, and so the latest time in one, seconds: a day.
const SECONDS_MAX: u32 = 86_400;

fn stretch(fields: &[&str]) -> Option<Stretch> {
    let [_, from_s, to_s, from_rps, to_rps, ..] = fields else { return None };
    let rate = |text: &str| {
        let rate = text.trim().parse::<f64>().ok()?;
        (0.0..=1e6).contains(&rate).then_some(rate)
    };
    let (from_s, to_s) = (from_s.trim().parse().ok()?, to_s.trim().parse().ok()?);
    let in_order = from_s < to_s && to_s <= SECONDS_MAX;
    in_order.then_some(Stretch { from_s, to_s, from_rps: rate(from_rps)?, to_rps: rate(to_rps)? })
}

impl Profile {
    /// Reads one profile of a file.
    ///
    /// # Errors
    /// [`ProfileError`].
    pub fn parse(text: &str, named: &Named) -> Result<Self, ProfileError> {
        let mut stretches = Vec::new();
        let lines = text.lines().enumerate();
        for (index, line) in lines.filter(|(_, line)| !line.starts_with('#')).skip(1) {
            let fields: Vec<&str> = line.splitn(6, ',').collect();
            let stretch = stretch(&fields).ok_or(ProfileError::Line(index + 1))?;
            if fields[0] == named.name {
                stretches.push(stretch);
            }
        }
        if stretches.is_empty() {
            return Err(ProfileError::Unknown(named.name.clone()));
        }
        Ok(Self { stretches, rps_per_node: named.rps_per_node, idle_s: named.idle_s })
    }

    /// How many machines are wanted in a second; `None` when the profile is over.
    fn wanted(&self, at_s: u32) -> Option<u32> {
        let end_s = self.stretches.iter().map(|stretch| stretch.to_s).max();
        let inside = |stretch: &&Stretch| (stretch.from_s..stretch.to_s).contains(&at_s);
        let Some(found) = self.stretches.iter().find(inside) else {
            return end_s.filter(|&end_s| at_s < end_s).map(|_| 0);
        };
        let part = f64::from(at_s - found.from_s) / f64::from(found.to_s - found.from_s);
        let rps = found.from_rps + part * (found.to_rps - found.from_rps);
        u32::try_from(ns((rps / self.rps_per_node).ceil())).ok()
    }

    /// The most that are wanted at once.
    pub(super) fn peak(&self) -> u32 {
        (0..).map_while(|at_s| self.wanted(at_s)).max().unwrap_or(0)
    }
}

impl World {
    /// One second of a profile: who is wanted comes, who was idle for long goes.
    pub(super) fn second(&mut self, at_s: u32) {
        let Some(profile) = &self.run.profile else { return };
        let idle_s = profile.idle_s;
        let Some(wanted) = profile.wanted(at_s) else {
            self.plans -= 1;
            return;
        };
        self.agenda.after(SECOND_NS, Item::Second(at_s + 1));
        // The oldest are used first, so that the youngest become idle.
        for (_, last_s) in self.active.iter_mut().take(wanted as usize) {
            *last_s = at_s;
        }
        while self.active.len() < wanted as usize {
            let node = self.add_node();
            self.active.push((node, at_s));
            self.start(node);
        }
        let nodes = &self.nodes;
        let idle = |&(node, last_s): &(u32, u32)| {
            last_s + idle_s <= at_s && nodes[node as usize].phase == Phase::Stored
        };
        let gone: Vec<(u32, u32)> = self.active.iter().copied().filter(idle).collect();
        self.active.retain(|one| !gone.contains(one));
        for (node, _) in gone {
            self.end(node, End::Goodbye);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Named {
        let (file, name) = ("profiles.csv".to_owned(), name.to_owned());
        Named { file, name, rps_per_node: 2.0, idle_s: 10 }
    }

    const TEXT: &str = "# a source\nprofile,t_start_s,t_end_s,rps_start,rps_end,note\n\
                        one,0,10,1,1,steady\none,10,20,1,21,\"up, and up\"\ntwo,5,6,8,8,\n";

    #[test]
    fn a_profile_says_how_many_are_wanted() {
        let one = Profile::parse(TEXT, &named("one")).unwrap();
        let wanted = |at_s| one.wanted(at_s);
        assert_eq!([wanted(0), wanted(10), wanted(15), wanted(19)], [1, 1, 6, 10].map(Some));
        assert_eq!((wanted(20), one.peak()), (None, 10));
        let two = Profile::parse(TEXT, &named("two")).unwrap();
        assert_eq!([two.wanted(0), two.wanted(5), two.wanted(6)], [Some(0), Some(4), None]);
    }

    #[test]
    fn what_is_no_profile_is_refused() {
        let none = Profile::parse(TEXT, &named("none")).unwrap_err();
        assert_eq!(none, ProfileError::Unknown("none".into()));
        for bad in ["one,0,10,1", "one,10,10,1,1,", "one,0,10,-1,1,", "one,0,99999,1,1,", "one"] {
            let text = format!("profile,t_start_s,t_end_s,rps_start,rps_end,note\n{bad}\n");
            let error = Profile::parse(&text, &named("one")).unwrap_err();
            assert_eq!(error, ProfileError::Line(2), "{bad}");
        }
    }
}
