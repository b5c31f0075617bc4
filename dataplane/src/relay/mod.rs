//! The relay: a pure state machine from events to actions.
