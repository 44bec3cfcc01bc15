//! The router's configuration.

use runtime::config::{ByteSize, Check};
use runtime::membership::{WorkerAddress, etcd};

use crate::openai::Limits;
use crate::plan::policy::{self, PolicyName};
use crate::sequence::Pooling;
use crate::tools::ToolFormat;
use crate::{admission, cluster, dispatch, objectives, tokenize};

// No flag may be called `port`, `host` or `service-*`: Kubernetes sets
// KVASIR_ROUTER_PORT and the like in every pod beside a service of that name.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Config {
    /// Where clients connect: OpenAI HTTP and gRPC on one port
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "HOST:PORT")]
    pub listen: String,
    /// A worker (grpc://HOST:PORT); once for each. Or let --etcd find them
    #[arg(long, value_name = "ADDRESS")]
    pub worker: Vec<WorkerAddress>,
    /// Largest request body; a token takes about 4 bytes of text
    #[arg(long, default_value = "16MiB", value_name = "SIZE")]
    pub max_body_size: ByteSize,
    /// Most sequences one request may ask for: prompts times `n`
    #[arg(long, default_value_t = 128, value_name = "N")]
    pub max_sequences_per_request: usize,
    /// Threads that render chat templates and tokenise: a long prompt keeps one
    /// busy for 0.2 to 1.5 ms per 1,000 tokens, by its tokenizer [default: one
    /// per core]
    #[arg(long, value_name = "N")]
    pub tokenize_threads: Option<usize>,
    /// Memory for tokens of text encoded before: about the text of all
    /// conversations that go on
    #[arg(long, default_value = "64MiB", value_name = "SIZE")]
    pub tokenize_cache: ByteSize,
    /// Which final hidden states make an embedding
    #[arg(long, value_enum, default_value = "last")]
    pub pooling: Pooling,
    /// How models write tool calls [default: as their chat templates say]
    #[arg(long, value_name = "FORMAT")]
    pub tool_format: Option<ToolFormat>,
    /// How workers are chosen
    #[arg(long, value_name = "NAME", default_value_t, help = policy_help())]
    pub policy: PolicyName,
    /// Memory for which worker holds which blocks, about 24 bytes for each; then
    /// what was longest not used is forgotten
    #[arg(long, default_value = "4GiB", value_name = "SIZE")]
    pub index_memory: ByteSize,
    #[command(flatten)]
    pub admission: admission::Config,
    #[command(flatten)]
    pub objectives: objectives::Config,
    #[command(flatten)]
    pub link: cluster::Config,
    #[command(flatten)]
    pub etcd: etcd::FollowConfig,
    #[command(flatten)]
    pub dispatch: dispatch::Config,
}

/// What `--policy` may be.
fn policy_help() -> String {
    let line = |it: &policy::Entry| format!("\n- {}: {}", it.name, it.about);
    let lines: String = policy::POLICIES.iter().map(line).collect();
    format!("How workers are chosen{lines}\n")
}

impl Config {
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            max_body_bytes: usize::try_from(self.max_body_size.0).unwrap_or(usize::MAX),
            max_sequences: self.max_sequences_per_request,
        }
    }

    pub(crate) fn tokenize(&self) -> tokenize::Config {
        let defaults = tokenize::Config::default();
        tokenize::Config {
            threads: self.tokenize_threads.unwrap_or(defaults.threads),
            cache_bytes: usize::try_from(self.tokenize_cache.0).unwrap_or(usize::MAX),
            pooling: self.pooling,
            tool_format: self.tool_format,
            ..defaults
        }
    }
}

impl Check for Config {
    fn check(&self, mistakes: &mut Vec<String>) {
        let missing = "--worker is missing: name at least one, as grpc://HOST:PORT, or give --etcd";
        match (self.worker.is_empty(), self.etcd.server.is_given()) {
            (true, false) => mistakes.push(missing.to_owned()),
            (false, true) => {
                mistakes.push("--worker and --etcd: give one of them, not both".to_owned());
            }
            _ => {}
        }
        self.etcd.check(mistakes);
        self.admission.check(mistakes);
        self.objectives.check(mistakes);
        if self.tokenize_threads == Some(0) {
            mistakes.push("--tokenize-threads must be at least 1".to_owned());
        }
        if self.max_sequences_per_request == 0 {
            mistakes.push("--max-sequences-per-request must be at least 1".to_owned());
        }
        self.link.check(mistakes);
        self.dispatch.check(mistakes);
    }
}

/// What the flags of `C` say when none is given.
pub(crate) fn defaults<C: clap::Args>() -> C {
    let command = C::augment_args(clap::Command::new("router").no_binary_name(true));
    command
        .try_get_matches_from(std::iter::empty::<&str>())
        .and_then(|matches| C::from_arg_matches(&matches))
        .expect("no flag is required and every default is valid")
}
