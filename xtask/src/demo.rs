pub(crate) fn run(_: bool) -> anyhow::Result<()> { Ok(()) }
pub(crate) fn stop() -> anyhow::Result<()> { Ok(()) }
