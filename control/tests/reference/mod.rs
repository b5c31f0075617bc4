//! The function tree as the paper tells it, walking whole levels each time: slow, short, and for
//! comparison only.

/// A tree of labels; a label is an index into the three vectors.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reference {
    pub(crate) up: Vec<Option<usize>>,
    pub(crate) down: Vec<[Option<usize>; 2]>,
    pub(crate) root: Option<usize>,
}

impl Reference {
    /// Levels below and including a node, less one; −1 for nobody.
    pub(crate) fn height(&self, at: Option<usize>) -> i32 {
        let Some(at) = at else { return -1 };
        1 + self.height(self.down[at][0]).max(self.height(self.down[at][1]))
    }

    pub(crate) fn lean(&self, at: usize) -> i32 {
        self.height(self.down[at][0]) - self.height(self.down[at][1])
    }

    pub(crate) fn level_order_from(&self, from: Option<usize>) -> Vec<usize> {
        let mut order: Vec<usize> = from.into_iter().collect();
        let mut next = 0;
        while next < order.len() {
            order.extend(self.down[order[next]].into_iter().flatten());
            next += 1;
        }
        order
    }

    pub(crate) fn level_order(&self) -> Vec<usize> {
        self.level_order_from(self.root)
    }

    pub(crate) fn join(&mut self) -> usize {
        let new = self.up.len();
        let parent = self.level_order().into_iter().find(|&at| self.down[at].contains(&None));
        self.up.push(parent);
        self.down.push([None; 2]);
        match parent {
            None => self.root = Some(new),
            Some(at) if self.down[at][0].is_none() => self.down[at][0] = Some(new),
            Some(at) => self.down[at][1] = Some(new),
        }
        new
    }

    pub(crate) fn leave(&mut self, gone: usize) {
        let start = match self.down[gone] {
            [Some(_), Some(_)] => {
                let below = self.level_order_from(Some(gone));
                let leaf = below.into_iter().find(|&at| self.down[at] == [None; 2]).unwrap();
                let from = self.up[leaf].unwrap();
                self.replace(leaf, None);
                let children = self.down[gone];
                self.down[leaf] = children;
                for child in children.into_iter().flatten() {
                    self.up[child] = Some(leaf);
                }
                self.replace(gone, Some(leaf));
                Some(if from == gone { leaf } else { from })
            }
            [left, right] => {
                let parent = self.up[gone];
                self.replace(gone, left.or(right));
                parent
            }
        };
        self.up[gone] = None;
        self.down[gone] = [None; 2];
        let mut at = start;
        while let Some(node) = at {
            let top = self.balance(node);
            at = self.up[top];
        }
    }

    fn balance(&mut self, at: usize) -> usize {
        let lean = self.lean(at);
        let [left, right] = self.down[at];
        if lean > 1 {
            if self.lean(left.unwrap()) < 0 {
                self.rotate(left.unwrap(), 1);
            }
            self.rotate(at, 0)
        } else if lean < -1 {
            if self.lean(right.unwrap()) > 0 {
                self.rotate(right.unwrap(), 0);
            }
            self.rotate(at, 1)
        } else {
            at
        }
    }

    /// Lifts the child on that side.
    fn rotate(&mut self, at: usize, side: usize) -> usize {
        let child = self.down[at][side].unwrap();
        self.replace(at, Some(child));
        let inner = self.down[child][1 - side];
        self.down[at][side] = inner;
        if let Some(inner) = inner {
            self.up[inner] = Some(at);
        }
        self.down[child][1 - side] = Some(at);
        self.up[at] = Some(child);
        child
    }

    fn replace(&mut self, old: usize, new: Option<usize>) {
        let parent = self.up[old];
        match parent {
            None => self.root = new,
            Some(at) if self.down[at][0] == Some(old) => self.down[at][0] = new,
            Some(at) => self.down[at][1] = new,
        }
        if let Some(new) = new {
            self.up[new] = parent;
        }
    }
}
