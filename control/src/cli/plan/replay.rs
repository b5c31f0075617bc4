//! Joins and leaves as lines of a file, and the trees that come of them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::Serialize;

use crate::limits::OPS_MAX;
use crate::tree::shape::Shape;
use crate::tree::{Place, ShapeKind, TreeError};

/// Why a file was not replayed.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum ReplayError {
    #[error("cannot read {name}")]
    Read { name: String, source: io::Error },
    #[error("{name} is larger than {OPS_MAX} bytes")]
    Large { name: String },
    #[error("{name}: line {line}: {wrong}")]
    Line { name: String, line: usize, wrong: Wrong },
}

/// What is wrong with a line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::cli) enum Wrong {
    #[error("{0:?} is neither `join ID` nor `leave ID`")]
    Form(String),
    #[error("{0:?} is not an integer")]
    Id(String),
    #[error("{0} has joined already")]
    Member(i64),
    #[error("{0} is not in the trees")]
    Stranger(i64),
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// Trees of named nodes.
#[derive(Debug)]
pub(super) struct Grown {
    shape: Shape,
    places: HashMap<i64, Place>,
    ids: HashMap<Place, i64>,
}

/// The trees level by level, left to right.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Levels {
    trees: Vec<Tree>,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Tree {
    levels: Vec<Vec<i64>>,
}

/// Replays a file, or stdin if it is called `-`.
pub(super) fn replay(file: &Path, kind: ShapeKind) -> Result<Grown, ReplayError> {
    let stdin = file == Path::new("-");
    let name = if stdin { "stdin".to_owned() } else { file.display().to_string() };
    let mut text = Vec::new();
    let read = match stdin {
        true => io::stdin().lock().take(OPS_MAX + 1).read_to_end(&mut text),
        false => File::open(file).and_then(|file| file.take(OPS_MAX + 1).read_to_end(&mut text)),
    };
    match read {
        Err(source) => return Err(ReplayError::Read { name, source }),
        Ok(length) if length as u64 > OPS_MAX => return Err(ReplayError::Large { name }),
        Ok(_) => {}
    }
    let mut grown = Grown::new(kind);
    for (line, at) in String::from_utf8_lossy(&text).lines().zip(1..) {
        let done = grown.apply(line);
        done.map_err(|wrong| ReplayError::Line { name: name.clone(), line: at, wrong })?;
    }
    Ok(grown)
}

impl Grown {
    fn new(kind: ShapeKind) -> Self {
        Self { shape: Shape::new(kind), places: HashMap::new(), ids: HashMap::new() }
    }

    fn apply(&mut self, line: &str) -> Result<(), Wrong> {
        let mut words = line.split_whitespace();
        let (first, id, more) = (words.next(), words.next(), words.next());
        let Some(word) = first.filter(|word| !word.starts_with('#')) else { return Ok(()) };
        let joins = match (word, id, more) {
            ("join", Some(_), None) => true,
            ("leave", Some(_), None) => false,
            _ => return Err(Wrong::Form(shortened(line.trim()))),
        };
        let id = id.unwrap_or_default();
        let id: i64 = id.parse().map_err(|_| Wrong::Id(shortened(id)))?;
        // Who is moved by it does not matter here.
        let mut edges = Vec::new();
        if joins {
            if self.places.contains_key(&id) {
                return Err(Wrong::Member(id));
            }
            let place = self.shape.join(&mut edges)?;
            self.places.insert(id, place);
            self.ids.insert(place, id);
        } else {
            let place = self.places.remove(&id).ok_or(Wrong::Stranger(id))?;
            self.ids.remove(&place);
            self.shape.leave(place, &mut edges)?;
        }
        Ok(())
    }

    pub(super) fn levels(&self) -> Levels {
        let tree = |tree| {
            let mut levels: Vec<Vec<i64>> = Vec::new();
            for (place, level) in self.shape.level_order(tree) {
                if level as usize == levels.len() {
                    levels.push(Vec::new());
                }
                levels[level as usize].push(self.ids[&place]);
            }
            Tree { levels }
        };
        Levels { trees: (0..self.shape.trees()).map(tree).collect() }
    }

    /// Each tree as a drawing: every node below its parent.
    pub(super) fn drawn(&self) -> String {
        let drawings: Vec<_> = (0..self.shape.trees()).map(|tree| self.draw(tree)).collect();
        drawings.join("\n")
    }

    fn draw(&self, tree: u8) -> String {
        let (kind, count, trees) = (self.shape.kind(), self.shape.len(), self.shape.trees());
        let nodes = if count == 1 { "1 node".to_owned() } else { format!("{count} nodes") };
        let which = if trees == 1 { String::new() } else { format!(", tree {tree} of {trees}") };
        let mut text = format!("{kind}, {nodes}{which}\nregistry\n");
        // A node, what stands left of its own mark, and whether it is the last of its siblings.
        let mut stack: Vec<_> =
            self.shape.root(tree).map(|root| (root, String::new(), true)).into_iter().collect();
        while let Some((place, left, last)) = stack.pop() {
            let (mark, rest) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            text.extend([&left, mark, &self.ids[&place].to_string(), "\n"]);
            let children: Vec<_> = self.shape.children(tree, place).collect();
            // Last in, first drawn.
            for (nth, &child) in children.iter().rev().enumerate() {
                stack.push((child, format!("{left}{rest}"), nth == 0));
            }
        }
        text
    }
}

/// Not more of a line than an error should show.
fn shortened(text: &str) -> String {
    const CHARACTERS: usize = 60;
    let mut short: String = text.chars().take(CHARACTERS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grown(kind: ShapeKind, lines: &[&str]) -> Grown {
        let mut grown = Grown::new(kind);
        lines.iter().for_each(|line| grown.apply(line).unwrap());
        grown
    }

    #[test]
    fn lines_are_replayed() {
        let lines = ["join 7", "", "  # nobody", "\tjoin   -3 ", "join 9", "leave 7", "#x"];
        let grown = grown(ShapeKind::Ft, &lines);
        assert_eq!(grown.levels().trees, [Tree { levels: vec![vec![-3], vec![9]] }]);
        let none = Grown::new(ShapeKind::Twin);
        assert_eq!(none.levels().trees, [Tree::default(), Tree::default()]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let mut grown = grown(ShapeKind::Twin, &["join 1"]);
        for (line, said) in [
            ("leap 2", "\"leap 2\" is neither `join ID` nor `leave ID`"),
            ("join", "\"join\" is neither `join ID` nor `leave ID`"),
            ("join 1 2", "\"join 1 2\" is neither `join ID` nor `leave ID`"),
            ("Join 2", "\"Join 2\" is neither `join ID` nor `leave ID`"),
            ("join two", "\"two\" is not an integer"),
            ("join 1.0", "\"1.0\" is not an integer"),
            ("join 99999999999999999999", "\"99999999999999999999\" is not an integer"),
            ("join 1", "1 has joined already"),
            ("leave 2", "2 is not in the trees"),
        ] {
            assert_eq!(grown.apply(line).unwrap_err().to_string(), said);
        }
        assert_eq!(grown.levels().trees.len(), 2);
        assert_eq!(shortened(&"ä".repeat(61)).chars().count(), 61);
    }

    #[test]
    fn drawings() {
        let lines: Vec<_> = (0..6).map(|id| format!("join {id}")).collect();
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        let ft = "\
ft, 6 nodes
registry
└─ 0
   ├─ 1
   │  ├─ 3
   │  └─ 4
   └─ 2
      └─ 5
";
        assert_eq!(grown(ShapeKind::Ft, &lines).drawn(), ft);
        let twin = grown(ShapeKind::Twin, &lines[..1]).drawn();
        let tree = "1 node, tree 0 of 2\nregistry\n└─ 0\n";
        assert_eq!(twin, format!("twin, {tree}\ntwin, {}", tree.replace("0 of", "1 of")));
    }
}
