//! What Xylem's processes agree on: digests, names, limits, HTTP heads and the control stream. No
//! I/O.

#![forbid(unsafe_code)]

pub mod challenge;
pub mod digest;
pub mod http;
pub mod limits;
pub mod names;
pub mod stripe;

pub use digest::Digest;

/// Messages and stubs of `control.proto`.
#[cfg(feature = "grpc")]
#[expect(missing_docs, reason = "generated from control.proto")]
#[expect(clippy::allow_attributes_without_reason, reason = "the generator writes bare allows")]
pub mod pb {
    tonic::include_proto!("xylem.control.v1");
}
