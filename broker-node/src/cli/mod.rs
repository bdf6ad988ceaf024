//! The command line of the one binary: `server` and `demo` for whoever runs nodes, client commands for everybody else.

mod client;
mod cluster;
mod connector;
mod schema;
mod table;
mod terminal;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::bench::BenchCommand;
use crate::config::{Config, ConfigError, LogFormat, Sources};
use crate::demo::DemoOptions;

pub use client::CliError;
pub use cluster::ClusterCommand;
pub use connector::ConnectorCommand;

/// MQTT messages into other systems: acknowledged is delivered.
#[derive(Debug, Parser)]
#[command(name = "sluice", version = version(), propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    pub client: ClientOptions,
    #[command(subcommand)]
    pub command: Command,
}

/// Where the node is and how to print what it says.
#[derive(Clone, Debug, Args)]
pub struct ClientOptions {
    /// Address of any node's API.
    #[arg(long, global = true, env = "SLUICE_API", default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub api: String,
    /// Token of the API.
    #[arg(long, global = true, env = "SLUICE_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// A table for people, or JSON for scripts.
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    pub output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node.
    Server(ServerArgs),
    /// Look at the configuration of a node.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Create, look at and delete connectors.
    #[command(subcommand)]
    Connector(ConnectorCommand),
    /// Look at the cluster.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Start three nodes on loopback and walk through the main job.
    Demo(DemoOptions),
    /// Generate load and measure.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Print completions for a shell.
    Completions { shell: clap_complete::Shell },
}

#[derive(Clone, Debug, Args)]
pub struct ServerArgs {
    #[command(flatten)]
    pub sources: SourceArgs,
    /// Overrides `log.format`.
    #[arg(long, value_enum)]
    pub log_format: Option<LogFormatArg>,
}

#[derive(Clone, Debug, Args)]
pub struct SourceArgs {
    /// TOML file.
    #[arg(long, value_name = "FILE", required_unless_present = "dev")]
    pub config: Option<PathBuf>,
    /// One value; wins over the file and the environment.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub sets: Vec<String>,
    /// One voter on loopback, data in ./sluice-data, no file needed.
    #[arg(long)]
    pub dev: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormatArg {
    Text,
    Json,
}

impl From<LogFormatArg> for LogFormat {
    fn from(arg: LogFormatArg) -> Self {
        match arg {
            LogFormatArg::Text => Self::Text,
            LogFormatArg::Json => Self::Json,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Report everything that is wrong, at once.
    Check(SourceArgs),
    /// Print the effective values, secrets masked.
    Show(SourceArgs),
}

/// Waiting for the effect of a change.
#[derive(Clone, Debug, Args)]
pub struct WaitArgs {
    /// Wait until the change has its effect.
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "30s", value_parser = parse_wait)]
    pub wait: Option<Duration>,
}

fn parse_wait(text: &str) -> Result<Duration, String> {
    crate::config::parse_duration(text).ok_or_else(|| "a duration with a unit is expected, such as 30s".to_owned())
}

pub fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// The commit this was built from, when the build said so.
pub fn commit() -> &'static str {
    option_env!("SLUICE_COMMIT").unwrap_or("unknown")
}

impl SourceArgs {
    pub fn sources(&self) -> Sources {
        Sources {
            file: self.config.clone(),
            environment: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
            sets: self.sets.clone(),
            dev: self.dev,
        }
    }
}

impl ServerArgs {
    /// The node's configuration, checked.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let mut sources = self.sources.sources();
        match self.log_format {
            Some(LogFormatArg::Text) => sources.sets.push("log.format=text".to_owned()),
            Some(LogFormatArg::Json) => sources.sets.push("log.format=json".to_owned()),
            None => {}
        }
        Config::load(&sources)
    }
}

/// `config check|show`.
pub fn run_config(command: &ConfigCommand) -> ExitCode {
    let (args, show) = match command {
        ConfigCommand::Check(args) => (args, false),
        ConfigCommand::Show(args) => (args, true),
    };
    match Config::load(&args.sources()) {
        Ok(config) => {
            for warning in config.warnings() {
                terminal::tell(&format!("warning: {warning}"));
            }
            let text = if show { config.to_toml() } else { "the configuration is good\n".to_owned() };
            report(terminal::print(&text).map_err(CliError::Output))
        }
        Err(error) => {
            terminal::tell(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

pub fn run_completions(shell: clap_complete::Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "sluice", &mut script);
    report(terminal::print(&String::from_utf8_lossy(&script)).map_err(CliError::Output))
}

/// A client command; exit code 0 only when it did what was asked.
pub async fn run_connector(options: &ClientOptions, command: &ConnectorCommand) -> ExitCode {
    report(connector::run(options, command).await)
}

pub async fn run_cluster(options: &ClientOptions, command: &ClusterCommand) -> ExitCode {
    report(cluster::run(options, command).await)
}

fn report(outcome: Result<(), CliError>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::tell(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_of_the_documentation_are_understood() {
        for line in [
            "sluice server --config sluice.toml --set api.listen=127.0.0.1:0 --log-format json",
            "sluice server --dev",
            "sluice config check --config sluice.toml",
            "sluice config show --dev",
            "sluice connector list --type kafka -o json",
            "sluice connector show a --api http://127.0.0.1:1",
            "sluice connector create a --type file --topic s/# --config {\"local_file_path\":\"/tmp/x\"} --wait",
            "sluice connector create --file spec.json --wait=5s",
            "sluice connector delete a --yes --if-empty --wait",
            "sluice connector types kafka",
            "sluice connector explain a",
            "sluice cluster status",
            "sluice cluster nodes -o json",
            "sluice demo --keep",
            "sluice bench publish --port 1883 --connections 50 --window 100 --seconds 4 --v5",
            "sluice bench publish --messages 1000 --payload-bytes 256 --topic a --qos 1 --user u --password p --members \"a\":1",
            "sluice bench idle --connections 5000",
            "sluice bench follow --file /tmp/x --lines 100",
            "sluice bench metadata --address 127.0.0.1:7480 --operation write --clients 16 --secret s",
            "sluice bench metadata --etcd --address 127.0.0.1:2379 --operation read",
            "sluice completions bash",
        ] {
            if let Err(error) = Cli::try_parse_from(line.split(' ')) {
                panic!("{line}: {error}");
            }
        }
        for line in [
            "sluice",
            "sluice server",
            "sluice connector create",
            "sluice connector delete",
            "sluice -o xml cluster status",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    /// Runs one client command against a node that listens.
    async fn run(address: &str, line: &[&str]) -> Result<(), CliError> {
        let words = ["sluice", "--api", address].into_iter().chain(line.iter().copied());
        let cli = Cli::try_parse_from(words).expect("a good line");
        match &cli.command {
            Command::Connector(command) => connector::run(&cli.client, command).await,
            Command::Cluster(command) => cluster::run(&cli.client, command).await,
            Command::Server(_)
            | Command::Config(_)
            | Command::Demo(_)
            | Command::Bench(_)
            | Command::Completions { .. } => {
                panic!("no client command: {line:?}")
            }
        }
    }

    #[tokio::test]
    async fn client_commands_work_against_a_node() {
        let plane = crate::api::tests::plane::Plane::new();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}/", listener.local_addr().expect("an address"));
        let router = plane.router();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let config = "{\"local_file_path\":\"/tmp/x\"}";
        let create = ["connector", "create", "a b", "--type", "file", "--topic", "s/#", "--config", config];
        assert!(run(&address, &create).await.is_ok());
        assert_eq!(plane.state().connector("a b").expect("created").spec.filter.as_str(), "s/#");
        for line in [
            vec!["connector", "list", "--filter", "status=Idle", "--sort", "revision", "--desc"],
            vec!["connector", "show", "a b"],
            vec!["connector", "explain", "a b", "-o", "json"],
            vec!["connector", "types"],
            vec!["connector", "types", "s3"],
            vec!["cluster", "status"],
            vec!["cluster", "nodes", "-o", "json"],
        ] {
            assert!(run(&address, &line).await.is_ok(), "{line:?}");
        }
        for (line, says) in [
            (create.to_vec(), "Connector a b already exists. (CONNECTOR_EXISTS)"),
            (vec!["connector", "show", "ghost"], "Connector ghost does not exist. (CONNECTOR_NOT_FOUND)"),
            (vec!["connector", "list", "--sort", "colour"], "sort_field: must be one of"),
            (vec!["connector", "types", "pigeon"], "unknown kind pigeon"),
            (
                vec!["connector", "create", "x", "--type", "file", "--topic", "a", "--config", "{"],
                "--config is not JSON",
            ),
        ] {
            let error = run(&address, &line).await.expect_err("a failure").to_string();
            assert!(error.contains(says), "{line:?}: {error}");
        }
        assert!(run(&address, &["connector", "delete", "a b", "--yes"]).await.is_ok());
        assert!(plane.state().connectors.is_empty());
    }

    #[tokio::test]
    async fn a_node_that_is_not_there_is_named_with_the_cause() {
        let closed = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            format!("http://{}", listener.local_addr().expect("an address"))
        };
        let error = run(&closed, &["cluster", "status"]).await.expect_err("nobody listens").to_string();
        assert!(error.starts_with(&closed) && error.contains("refused"), "{error}");
    }
}
