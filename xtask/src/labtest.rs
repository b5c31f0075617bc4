//! x
use clap::Args;
#[derive(Args, Debug)]
pub(crate) struct Options {
    pub(crate) name: Option<String>,
}
pub(crate) fn run(_: &Options) -> anyhow::Result<()> {
    Ok(())
}
