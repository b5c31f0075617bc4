//! The agent against a hot half, a registry and a control process that are made of paper.

mod control;
mod doctor;
mod explain;
mod flows;
mod paper;
mod preheat;
mod private;
mod repair;
mod requests;
mod stalled;
