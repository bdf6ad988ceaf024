//! The one binary: a node, and the commands that talk to nodes.

use std::process::ExitCode;

use anyhow::Context;
use broker_node::cli::{self, Cli, Command, ServerArgs};
use broker_node::{bench, demo, node, telemetry};
use clap::Parser;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("the runtime cannot be started")?;
    let code = match cli.command {
        Command::Server(args) => server(&runtime, &args)?,
        Command::Config(command) => cli::run_config(&command),
        Command::Connector(command) => runtime.block_on(cli::run_connector(&cli.client, &command)),
        Command::Cluster(command) => runtime.block_on(cli::run_cluster(&cli.client, &command)),
        Command::Bench(command) => bench::run(&command)?,
        Command::Demo(options) => runtime.block_on(demo::run(options))?,
        Command::Completions { shell } => cli::run_completions(shell),
    };
    // A thread that hangs in a blocking call must not keep the process.
    runtime.shutdown_background();
    Ok(code)
}

fn server(runtime: &tokio::runtime::Runtime, args: &ServerArgs) -> anyhow::Result<ExitCode> {
    let config = args.load()?;
    telemetry::start(config.log.format.0, &config.log.level)?;
    runtime.block_on(node::run(config)).context("the node cannot run")
}
