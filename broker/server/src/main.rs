//! The binary `varve`.
fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let config = varve_server::config::Config::load(None, &args[1..])?;
    let node = varve_server::node::Node::start(config)?;
    std::thread::park();
    node.shutdown();
    Ok(())
}
