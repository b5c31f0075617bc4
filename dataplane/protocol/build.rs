//! Compiles `control.proto` without a system `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=control.proto");
    if std::env::var_os("CARGO_FEATURE_GRPC").is_some() {
        let descriptors = protox::compile(["control.proto"], ["."])?;
        tonic_prost_build::configure().compile_fds(descriptors)?;
    }
    Ok(())
}
