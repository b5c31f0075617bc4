//! Small runs of the simulator at scale: times are virtual, so they may be compared with formulas.
//! Each relay of these has its audit, and a run ends in a panic when a byte is lost or made.

use xylem_benches::scale::report::{Figures, csv};
use xylem_benches::scale::{Churn, End, Failure, Late, Mesh, Run, Shape, Size, Slow, run, run_all};
use xylem_control::tree::ShapeKind;

const FT: Shape = Shape::Trees(ShapeKind::Ft);
const TWIN: Shape = Shape::Trees(ShapeKind::Twin);
const MIB: u64 = 1 << 20;
/// Not a multiple of anything that a relay works in.
const SIZE: u64 = 48 * MIB + 12_345;
/// 1 Gbit/s.
const RATE: u64 = 125_000_000;

fn burst(shape: Shape, nodes: u32) -> Run {
    Run::new(shape, nodes, SIZE, RATE)
}

#[test]
fn shapes_take_what_their_formulas_say() {
    for (shape, copies, low, high) in [
        (TWIN, 1.0, 1.0, 1.05),
        (FT, 1.0, 2.0, 2.05),
        (Shape::Chain, 1.0, 1.0, 1.05),
        (Shape::Registry, 15.0, 15.0, 15.05),
    ] {
        let outcome = run(burst(shape, 15));
        let figures = Figures::of(&outcome);
        assert_eq!(outcome.stored_ns.len(), 15);
        assert!((low..high).contains(&figures.ratio), "{shape}: {}", figures.ratio);
        assert!((figures.registry_ratio - copies).abs() < 1e-3, "{shape}");
        assert!(figures.duplicate_ratio < 1e-3, "{shape}");
        assert!((0.1..20.0).contains(&figures.first_byte_ms), "{}", figures.first_byte_ms);
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_one_others() {
    let churn = Churn { per_s: 1.0, for_s: 0.5, ends: vec![End::Goodbye, End::Silent] };
    let of = |seed| Run { seed, churn: Some(churn.clone()), ..burst(FT, 12) };
    let runs = [of(1), of(2), of(1)];
    let lines: Vec<String> = run_all(&runs).iter().map(|o| Figures::of(o).json()).collect();
    assert_eq!(lines[0], lines[2]);
    assert_ne!(lines[0], lines[1]);
    let text = csv(&[run(of(1)), run(of(2))]);
    assert!(text.starts_with("shape,nodes,ratio,registry_ratio,first_byte_ms,"), "{text}");
    assert_eq!(text.lines().count(), 3);
}

#[test]
fn a_parent_that_ends_is_replaced_at_the_own_offset() {
    for (end, least_ms, most_ms) in [(End::Closed, 0.1, 200.0), (End::Silent, 600.0, 1_000.0)] {
        let failures = vec![Failure { at: 0.5, share: 0.2, end }];
        for shape in [FT, TWIN] {
            let outcome = run(Run { failures: failures.clone(), ..burst(shape, 15) });
            let figures = Figures::of(&outcome);
            assert_eq!((outcome.staying, outcome.leaves), (12, 3), "{shape}, {end:?}");
            assert!(outcome.reparentings > 0, "{shape}, {end:?}");
            let twice = figures.duplicate_ratio;
            assert!(twice < 0.01, "{shape}, {end:?}: {twice}");
            let gap_ms = figures.gap_ms;
            assert!((least_ms..most_ms).contains(&gap_ms), "{shape}, {end:?}: {gap_ms}");
        }
    }
}

/// Who is left goes on at nearly full rate: children have told control who is silent, and go where
/// it sends them.
#[test]
fn a_third_that_fails_at_once_is_soon_made_up_for() {
    let failures = vec![Failure { at: 0.5, share: 1.0 / 3.0, end: End::Silent }];
    for seed in [2, 4] {
        // So slow that the others are not done before control knows.
        let (size, rate, failures) = (96 * MIB, RATE / 8, failures.clone());
        let figures = Figures::of(&run(Run {
            size,
            rate,
            registry_rate: rate,
            failures,
            seed,
            ..burst(TWIN, 31)
        }));
        assert!(figures.ratio < 1.8, "{seed}: {}", figures.ratio);
        assert!(figures.duplicate_ratio < 0.01, "{seed}: {}", figures.duplicate_ratio);
    }
}

/// Neither those who are in the middle of it nor the registry notice.
#[test]
fn who_comes_late_disturbs_nobody() {
    for at in [0.4, 0.7] {
        let late = vec![Late { nodes: 3, at }];
        let figures = Figures::of(&run(Run { size: 96 * MIB, late, ..burst(TWIN, 15) }));
        assert!(figures.ratio_usual < 1.05, "{at}: {}", figures.ratio_usual);
        assert!((1.0..1.05).contains(&figures.ratio_late), "{at}: {}", figures.ratio_late);
        assert!((figures.registry_ratio - 1.0).abs() < 1e-3, "{}", figures.registry_ratio);
    }
}

#[test]
fn nodes_come_and_go_and_all_that_stay_have_the_blob() {
    let churn =
        Churn { per_s: 2.0, for_s: 2.0, ends: vec![End::Goodbye, End::Closed, End::Silent] };
    for shape in [TWIN, FT, Shape::Chain] {
        let outcome = run(Run { churn: Some(churn.clone()), ..burst(shape, 12) });
        assert_eq!(outcome.staying, 12, "{shape}: as many come as go");
        assert!(outcome.leaves > 20 && outcome.moved > 0, "{shape}");
    }
}

#[test]
fn who_has_the_blob_already_feeds_the_others() {
    for shape in [TWIN, FT] {
        let outcome = run(Run { warm: 7, ..burst(shape, 8) });
        assert_eq!((outcome.stored_ns.len(), outcome.registry_bytes), (8, 0));
    }
}

#[test]
fn a_mesh_brings_all_pieces_to_all_and_is_behind_its_bound() {
    let mesh = Mesh { piece: Size(MIB), ..Mesh::default() };
    let of = |seed| run(Run { mesh, seed, ..burst(Shape::Mesh, 15) });
    let figures = Figures::of(&of(1));
    assert_eq!(of(1).stored_ns.len(), 15);
    assert!((1.1..2.0).contains(&figures.ratio), "{}", figures.ratio);
    assert!((1.0..2.0).contains(&figures.registry_ratio), "{}", figures.registry_ratio);
    assert_eq!(figures.json(), Figures::of(&of(1)).json());
    let warm = run(Run { mesh, warm: 5, ..burst(Shape::Mesh, 3) });
    assert_eq!(warm.stored_ns.len(), 3);
}

#[test]
fn a_slow_uplink_holds_up_whoever_is_below() {
    let slow = Slow { uplinks: 2, share: 0.1 };
    let chain = Figures::of(&run(Run { slow: Some(slow), ..burst(Shape::Chain, 6) }));
    assert!((9.9..10.1).contains(&chain.ratio), "{}", chain.ratio);
    let registry = Figures::of(&run(Run { slow: Some(slow), ..burst(Shape::Registry, 6) }));
    assert!((6.0..6.1).contains(&registry.ratio), "uplinks are not used: {}", registry.ratio);
}

/// Any two of fifteen, and whoever stands above whom.
#[test]
fn slow_uplinks_are_found_whoever_has_them() {
    let slow = Some(Slow { uplinks: 2, share: 0.1 });
    let (size, rate) = (192 * MIB, RATE / 4);
    let of = |seed| Run { size, rate, registry_rate: rate, slow, seed, ..burst(TWIN, 15) };
    let runs: Vec<_> = (0..16).map(of).collect();
    let ratios = run_all(&runs).into_iter().map(|outcome| Figures::of(&outcome).ratio_usual);
    let worst = ratios.fold(0.0, f64::max);
    assert!(worst < 1.35, "{worst}");
}

/// Also where several fail within a moment, and those who are asked next wait themselves.
#[test]
fn nobody_who_has_lost_a_parent_waits_for_one_who_waits() {
    let mut runs = Vec::new();
    for nodes in [4, 5, 6, 7, 9, 15] {
        for seed in 0..24_u32 {
            let at = 0.2 + 0.03 * f64::from(seed);
            let failure = |at| Failure { at, share: 0.25, end: End::Closed };
            let failures = vec![failure(at), failure(at + 0.02 * f64::from(seed % 5))];
            let slow = (seed % 3 == 1).then_some(Slow { uplinks: 1, share: 0.4 });
            // 40 Mbit/s: what a sibling is ahead by takes a while.
            let usual = Run::new(TWIN, nodes, SIZE / 2, 5_000_000);
            runs.push(Run { failures, slow, seed: seed.into(), ..usual });
        }
    }
    for outcome in run_all(&runs) {
        let Figures { nodes, seed, gap_max_ms, .. } = Figures::of(&outcome);
        assert!(gap_max_ms < 300.0, "{nodes} nodes, seed {seed}: {gap_max_ms}");
    }
}
