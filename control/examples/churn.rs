//! How fast nodes join and leave each shape of trees, and how many others that moves.
//!
//! `cargo run --release -p xylem-control --example churn`: fills trees, then one leaves and one
//! joins, a million times, then as many leave and join in runs of up to 64. Pure trees: nobody is
//! told.

use std::hint::black_box;
use std::time::{Duration, Instant};

use xylem_control::tree::shape::Shape;
use xylem_control::tree::{Edge, Place, ShapeKind};

const SIZES: [usize; 4] = [15, 1000, 5000, 16_000];
const CHANGES: u32 = 1_000_000;
const RUN_MAX: u64 = 64;

/// One shape under churn, and what was counted of joins and of leaves.
struct Churn {
    shape: Shape,
    places: Vec<Place>,
    edges: Vec<Edge>,
    /// The state of a xorshift generator.
    random: u64,
    joins: Count,
    leaves: Count,
}

#[derive(Clone, Copy, Default)]
struct Count {
    changes: u32,
    moves: usize,
    most: usize,
}

impl Count {
    fn add(&mut self, moves: usize) {
        self.changes += 1;
        self.moves += moves;
        self.most = self.most.max(moves);
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        #[expect(clippy::cast_precision_loss, reason = "two decimals of it are shown")]
        let mean = self.moves as f64 / f64::from(self.changes.max(1));
        write!(f, "{mean:.2} (most {})", self.most)
    }
}

impl Churn {
    fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    fn join(&mut self) {
        self.edges.clear();
        if let Ok(place) = self.shape.join(&mut self.edges) {
            self.places.push(place);
            self.joins.add(self.edges.len() - usize::from(self.shape.trees()));
        }
    }

    fn leave(&mut self) {
        let nth = self.random(self.places.len() as u64);
        let place = self.places.swap_remove(usize::try_from(nth).unwrap_or(0));
        self.edges.clear();
        if self.shape.leave(place, &mut self.edges).is_ok() {
            self.leaves.add(self.edges.len());
        }
    }

    /// One leaves, one joins.
    fn singly(&mut self) -> Duration {
        let begun = Instant::now();
        for _ in 0..CHANGES {
            self.leave();
            self.join();
        }
        begun.elapsed()
    }

    /// A run of leaves, then as many joins.
    fn in_runs(&mut self) -> Duration {
        let begun = Instant::now();
        let mut changes = 0;
        while changes < u64::from(CHANGES) {
            let run = 1 + self.random(RUN_MAX.min(self.places.len() as u64 - 1));
            (0..run).for_each(|_| self.leave());
            (0..run).for_each(|_| self.join());
            changes += run;
        }
        begun.elapsed()
    }
}

fn main() {
    for kind in ShapeKind::ALL {
        for size in SIZES {
            let mut churn = Churn {
                shape: Shape::new(kind),
                places: Vec::new(),
                edges: Vec::new(),
                random: 88_172_645_463_325_252,
                joins: Count::default(),
                leaves: Count::default(),
            };
            (0..size).for_each(|_| churn.join());
            println!("{kind}, {size} nodes: filled, moves per join {}", churn.joins);
            for (name, run) in [
                ("singly", Churn::singly as fn(&mut Churn) -> Duration),
                ("in runs", Churn::in_runs),
            ] {
                (churn.joins, churn.leaves) = (Count::default(), Count::default());
                let took = run(&mut churn).as_secs_f64();
                let changes = f64::from(churn.joins.changes + churn.leaves.changes);
                println!(
                    "    {name}: {:.1} million changes per second; moves per join {}, per leave {}",
                    changes / took / 1e6,
                    churn.joins,
                    churn.leaves,
                );
            }
            black_box(&churn.shape);
        }
    }
}
