//! The agent against a hot half, a registry and a control process that are made of paper.

mod central;
mod doctor;
mod explain;
mod flows;
mod paper;
mod private;
mod requests;
