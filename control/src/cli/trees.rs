//! `xylem trees`: a drawing of each tree.

use std::collections::{HashMap, HashSet};

use super::client::{Client, Peer};
use super::table::short;
use super::{CliError, print, print_json};
use crate::api;

pub(super) async fn run(client: &Client, control: &Peer, json: bool) -> Result<(), CliError> {
    let trees: api::Trees = client.json(control, "/api/v1/trees").await?;
    if json {
        return print_json(&trees);
    }
    if trees.trees.is_empty() {
        return print("no trees yet\n");
    }
    let drawings: Vec<_> = trees.trees.iter().map(draw).collect();
    print(&drawings.join("\n"))
}

/// Each node below its parent. Draws every node once, whatever the answer claims.
fn draw(tree: &api::Tree) -> String {
    let mut below: HashMap<Option<&str>, Vec<&api::TreeNode>> = HashMap::new();
    for node in tree.nodes.iter().rev() {
        below.entry(node.parent.as_deref()).or_default().push(node);
    }
    let count = tree.nodes.len();
    let nodes = if count == 1 { "1 node".to_owned() } else { format!("{count} nodes") };
    let stripe = match tree.stripes {
        0..=1 => String::new(),
        stripes => format!(", stripe {} of {stripes}", tree.stripe),
    };
    let (image, shape) = (short(&tree.image), &tree.shape);
    let mut text = format!("{}  {image}  {shape}, {nodes}{stripe}\nregistry\n", tree.name);
    let mut drawn = HashSet::new();
    // A node, what stands left of its own mark, and whether it is the last of its siblings. Last
    // in, first drawn.
    let mut stack: Vec<(&api::TreeNode, String, bool)> = Vec::new();
    let (mut parent, mut margin): (Option<&str>, _) = (None, String::new());
    loop {
        for (nth, node) in below.remove(&parent).into_iter().flatten().enumerate() {
            if drawn.insert(&node.node) {
                stack.push((node, margin.clone(), nth == 0));
            }
        }
        let Some((node, left, last)) = stack.pop() else { return text };
        let (mark, rest) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        text.extend([&left, mark, &node.node, "  ", &node.address, "\n"]);
        (parent, margin) = (Some(node.node.as_str()), left + rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(edges: &[(&str, Option<&str>)]) -> api::Tree {
        let node = |&(node, parent): &(&str, Option<&str>)| api::TreeNode {
            node: node.to_owned(),
            address: format!("10.0.0.{}:4400", &node[1..]),
            parent: parent.map(str::to_owned),
            children: Vec::new(),
            level: 0,
            complete: false,
        };
        api::Tree {
            image: format!("sha256:{}", "ab".repeat(32)),
            name: "demo".to_owned(),
            shape: "ft".to_owned(),
            stripe: 0,
            stripes: 1,
            epoch: 1,
            nodes: edges.iter().map(node).collect(),
        }
    }

    #[test]
    fn a_drawing() {
        let drawn = draw(&tree(&[
            ("n1", None),
            ("n2", Some("n1")),
            ("n3", Some("n1")),
            ("n4", Some("n2")),
            ("n5", Some("n2")),
            ("n6", Some("n3")),
        ]));
        let expected = "\
demo  abababababab  ft, 6 nodes
registry
└─ n1  10.0.0.1:4400
   ├─ n2  10.0.0.2:4400
   │  ├─ n4  10.0.0.4:4400
   │  └─ n5  10.0.0.5:4400
   └─ n3  10.0.0.3:4400
      └─ n6  10.0.0.6:4400
";
        assert_eq!(drawn, expected);
    }

    #[test]
    fn each_stripe_says_which_it_is() {
        let mut second = tree(&[("n1", None)]);
        (second.shape, second.stripe, second.stripes) = ("twin".to_owned(), 1, 2);
        let drawn = draw(&second);
        assert!(drawn.starts_with("demo  abababababab  twin, 1 node, stripe 1 of 2\n"), "{drawn}");
    }

    #[test]
    fn an_answer_that_makes_no_sense_ends_too() {
        let drawn =
            draw(&tree(&[("n1", Some("n2")), ("n2", Some("n1")), ("n3", None), ("n3", None)]));
        assert!(drawn.ends_with("registry\n└─ n3  10.0.0.3:4400\n"), "{drawn}");
    }
}
