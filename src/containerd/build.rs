//! Makes Rust of the descriptions of containerd's services, where they are wanted.

#[cfg(feature = "containerd")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    const DIRECTORY: &str = "src/containerd/proto";
    const FILES: [&str; 3] = ["snapshots.proto", "diff.proto", "content.proto"];
    println!("cargo:rerun-if-changed={DIRECTORY}");
    let described = protox::compile(FILES, [DIRECTORY])?;
    tonic_prost_build::configure()
        .disable_comments(["."])
        .include_file("containerd.rs")
        .compile_fds(described)?;
    Ok(())
}

#[cfg(not(feature = "containerd"))]
fn main() {}
