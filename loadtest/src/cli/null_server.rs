//! `kvasir loadtest null-server`: the built-in server, for other tools too.

use std::net::SocketAddr;
use std::process::ExitCode;

use runtime::Lifecycle;
use runtime::config::HumanDuration;
use tokio_util::sync::CancellationToken;

use super::{Mistakes, block_on, say};
use crate::null_server::{Script, ScriptedServer};

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Address and port; port 0 is any that is free
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Answers begin after this time
    #[arg(long, value_name = "TIME", default_value = "0s")]
    first_token: HumanDuration,
    /// Between the tokens of an answer
    #[arg(long, value_name = "TIME", default_value = "0s")]
    between_tokens: HumanDuration,
    /// Hand each token of a stream to the kernel alone, as engines do, and not
    /// together with others that are due
    #[arg(long)]
    one_by_one: bool,
    /// Refuse other API keys with 401
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
}

/// Serves until Ctrl-C.
pub(super) fn run(args: Args) -> Result<ExitCode, Mistakes> {
    let stop = CancellationToken::new();
    let script = Script {
        first_token: args.first_token.0,
        between_tokens: args.between_tokens.0,
        one_by_one: args.one_by_one,
        api_key: args.api_key,
        ..Script::default()
    };
    block_on(
        async {
            let life = Lifecycle::new();
            let server = ScriptedServer::start_at(&life, args.listen, script).await;
            let server = server.map_err(|error| {
                Mistakes(vec![format!(
                    "--listen {}: {error}; choose another address or port",
                    args.listen
                )])
            })?;
            say(&server.url());
            stop.cancelled().await;
            life.stop();
            Ok(ExitCode::SUCCESS)
        },
        &stop,
    )?
}
