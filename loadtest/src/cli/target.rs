//! Flags that say where requests go and how they look.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtime::config::HumanDuration;

use super::Mistakes;
use crate::client::{Endpoint, Target};
use crate::workload::WorkloadConfig;

#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Server")]
pub(super) struct TargetConfig {
    /// The server, such as http://127.0.0.1:8080 or https://gateway.example; or
    /// grpc://HOST:PORT[,HOST:PORT]..., workers of Kvasir without their router
    #[arg(long, value_name = "URL")]
    pub(super) url: String,
    /// Name of the model in requests
    #[arg(long, value_name = "NAME")]
    pub(super) model: String,
    /// Sent as a bearer token
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// Sent with every request, as NAME:VALUE; once for each
    #[arg(long, value_name = "HEADER")]
    header: Vec<String>,
    /// Name the tenant of a request in this header
    #[arg(long, value_name = "NAME")]
    tenant_header: Option<String>,
    /// Send the requests of a tenant with its own API key: a file with lines
    /// TENANT=KEY
    #[arg(long, value_name = "FILE")]
    tenant_keys: Option<PathBuf>,
    /// With https: certificates to trust in place of the public authorities',
    /// in PEM
    #[arg(long, value_name = "FILE")]
    ca_cert: Option<PathBuf>,
    /// Members to add to every body, as in {"temperature":0}
    #[arg(long, value_name = "JSON")]
    extra_body: Option<String>,
    /// Ask for whole answers instead of streams
    #[arg(long)]
    no_stream: bool,
}

/// How requests are sent, whichever they are.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Sending")]
pub(super) struct SendingConfig {
    /// Connections open at a time, at most
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pub(super) connections: usize,
    /// A request that takes longer has failed
    #[arg(long, value_name = "TIME", default_value = "10m")]
    pub(super) timeout: HumanDuration,
    /// When the time to send is over, so long may what is under way take
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub(super) grace: HumanDuration,
    /// Of everything that is drawn: the same seed gives the same requests at
    /// the same times
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) seed: u64,
}

/// Longest wait for the list of models before the first request.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

impl TargetConfig {
    /// Adds a line for each mistake.
    pub(super) fn target(&self, workload: &WorkloadConfig, mistakes: &mut Vec<String>) -> Target {
        let headers = self.header.iter().map(header);
        let headers = headers.filter_map(|it| it.map_err(|it| mistakes.push(it)).ok());
        let headers = headers.collect();
        let keys = self.tenant_keys.as_deref().map(tenant_keys);
        let tenant_keys = keys.and_then(|it| it.map_err(|it| mistakes.push(it)).ok());
        let extra = self.extra_body.as_deref().map(extra_body);
        let extra_body = extra.and_then(|it| it.map_err(|it| mistakes.push(it)).ok());
        if let Some(tenants) = &workload.labels.tenants {
            if self.tenant_header.is_none() && self.tenant_keys.is_none() {
                mistakes.push(
                    "--tenants needs --tenant-header or --tenant-keys: otherwise the server sees \
                     no tenant"
                        .to_owned(),
                );
            }
            let keys = tenant_keys.as_ref();
            let names = tenants.names().iter();
            let mut keyless =
                names.filter(|it| keys.is_some_and(|keys| !keys.contains_key(&***it)));
            if let (Some(tenant), Some(file)) = (keyless.next(), &self.tenant_keys) {
                mistakes.push(format!(
                    "--tenant-keys {}: add a line {tenant}=KEY, as --tenants draws it",
                    file.display()
                ));
            }
        }
        let target = Target {
            api_key: self.api_key.clone(),
            headers,
            tenant_header: self.tenant_header.clone(),
            tenant_keys: tenant_keys.unwrap_or_default(),
            ca_cert: self.ca_cert.clone(),
            stream: !self.no_stream,
            extra_body: extra_body.unwrap_or_default(),
            ..Target::new(&self.url, &self.model)
        };
        if target.is_worker() && !workload.is_of_tokens() {
            mistakes.push(
                "--url grpc://: a worker takes token ids only; add --prompt-format tokens"
                    .to_owned(),
            );
        }
        target
    }
}

/// Whether the server is there, knows the key and serves the model.
pub(super) async fn probe(target: &Target) -> Result<(), Mistakes> {
    let reached = async { Endpoint::resolve(target).await?.probe().await };
    match tokio::time::timeout(PROBE_TIMEOUT, reached).await {
        Ok(reached) => Ok(reached?),
        Err(_) => Err(Mistakes(vec![format!(
            "{} does not answer within {PROBE_TIMEOUT:?}: check the URL and the server",
            target.url
        )])),
    }
}

fn header(text: &String) -> Result<(String, String), String> {
    let wrong = || format!("--header {text}: write it as NAME:VALUE");
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn tenant_keys(path: &Path) -> Result<BTreeMap<String, String>, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|it| format!("--tenant-keys {shown}: cannot be read: {it}"))?;
    let lines = text.lines().map(str::trim).enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let pair = |(at, line): (usize, &str)| {
        let wrong = || format!("{shown}:{}: write it as TENANT=KEY", at + 1);
        let (tenant, key) = line.split_once('=').ok_or_else(wrong)?;
        Ok((tenant.trim().to_owned(), key.trim().to_owned()))
    };
    lines.map(pair).collect()
}

fn extra_body(text: &str) -> Result<serde_json::Map<String, serde_json::Value>, String> {
    let read = serde_json::from_str(text);
    read.map_err(|it| {
        format!("--extra-body is no JSON object ({it}): write it as {{\"NAME\":VALUE}}")
    })
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches};

    use super::*;

    fn read(flags: &str) -> (Target, Vec<String>) {
        let words = "test --url http://h:1 --model m"
            .split(' ')
            .chain(flags.split_whitespace());
        let command = TargetConfig::augment_args(Command::new("test"));
        let matches = WorkloadConfig::augment_args(command).get_matches_from(words);
        let workload = WorkloadConfig::from_arg_matches(&matches).unwrap();
        let config = TargetConfig::from_arg_matches(&matches).unwrap();
        let mut mistakes = Vec::new();
        let target = config.target(&workload, &mut mistakes);
        (target, mistakes)
    }

    #[test]
    fn all_mistakes_are_told_together() {
        let (_, mistakes) =
            read("--header a --header b:c --extra-body [] --tenants 2 --tenant-keys /no/file");
        let expected = ["--header a: ", "--tenant-keys /no/file: ", "--extra-body "];
        assert_eq!(mistakes.len(), expected.len(), "{mistakes:?}");
        for (mistake, start) in mistakes.iter().zip(expected) {
            assert!(mistake.starts_with(start), "{mistake}");
        }
    }

    #[test]
    fn tenants_that_the_server_could_not_see_are_refused() {
        assert_eq!(read("--tenants 2").1.len(), 1);
        assert!(read("--tenants 2 --tenant-header x-tenant").1.is_empty());
    }

    #[test]
    fn a_worker_gets_tokens_and_nothing_else() {
        let worker = |flags: &str| {
            let words = format!("test --url grpc://h:1 --model m {flags}");
            let command = TargetConfig::augment_args(Command::new("test"));
            let command = WorkloadConfig::augment_args(command);
            let matches = command.get_matches_from(words.split_whitespace());
            let workload = WorkloadConfig::from_arg_matches(&matches).unwrap();
            let config = TargetConfig::from_arg_matches(&matches).unwrap();
            let mut mistakes = Vec::new();
            config.target(&workload, &mut mistakes);
            mistakes.len()
        };
        assert_eq!(worker(""), 0);
        assert_eq!(worker("--prompt-format tokens"), 0);
        assert_eq!(worker("--prompt-format text"), 1);
        assert_eq!(worker("--turns 2"), 1);
    }

    #[test]
    fn tenant_keys_come_from_lines_and_must_be_there_for_all_that_are_drawn() {
        let file = std::env::temp_dir().join(format!("kvasir-keys-{}", std::process::id()));
        std::fs::write(&file, "# keys\n\ntenant-1 = a=b\ntenant-2=c\n").unwrap();
        let flags = |tenants| format!("--tenants {tenants} --tenant-keys {}", file.display());
        let (target, mistakes) = read(&flags(2));
        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert_eq!(target.tenant_keys["tenant-1"], "a=b");
        let (_, mistakes) = read(&flags(3));
        assert!(mistakes[0].ends_with("add a line tenant-3=KEY, as --tenants draws it"));
        std::fs::write(&file, "a=1\nnonsense\n").unwrap();
        let (_, mistakes) = read(&flags(1));
        assert!(
            mistakes[0].ends_with(":2: write it as TENANT=KEY"),
            "{mistakes:?}"
        );
        std::fs::remove_file(file).unwrap();
    }
}
