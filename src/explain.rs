//! `kvasir explain`: asks a running router where a request would go, and why.
//! The request is not run: it goes to a path of its own, which a router that
//! does not know it answers with 404.

mod table;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use loadtest::client::{Endpoint, Target};
use serde_json::{Value, json};

use crate::stdio::{complain, say};
use table::Explanation;

/// Longest wait for the answer: a long prompt may wait for a thread to be
/// tokenised on.
const PATIENCE: Duration = Duration::from_secs(30);

/// Ask a router where it would send a request, and why; the request is not run
#[derive(Debug, Parser)]
#[command(name = "kvasir explain", max_term_width = 100)]
struct Args {
    /// The router
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,

    /// Name of the model; needed unless --body has it
    #[arg(long, value_name = "NAME")]
    model: Option<String>,

    /// What a user says; with --completion the text to go on from
    #[arg(
        value_name = "PROMPT",
        required_unless_present = "body",
        conflicts_with = "body"
    )]
    prompt: Option<String>,

    /// PROMPT is no message of a chat: no chat template
    #[arg(long, conflicts_with = "body")]
    completion: bool,

    /// A file with the body of a request: for /v1/chat/completions if it has
    /// messages, else for /v1/completions
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,

    /// Print the router's answer as it is
    #[arg(long)]
    json: bool,

    /// Sent with the request, as NAME:VALUE, such as x-session-id:7; once for
    /// each
    #[arg(long, value_name = "HEADER")]
    header: Vec<String>,

    /// Sent as a bearer token
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,

    /// With https: certificates to trust in place of the public authorities',
    /// in PEM
    #[arg(long, value_name = "FILE")]
    ca_cert: Option<PathBuf>,
}

/// A question for the router.
#[derive(Debug, PartialEq)]
struct Question {
    path: &'static str,
    body: Value,
}

const CHAT: &str = "/explain/v1/chat/completions";
const COMPLETION: &str = "/explain/v1/completions";

/// `arguments`: those after `kvasir explain`.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let name = std::iter::once(OsString::from("kvasir explain"));
    let args = match Args::try_parse_from(name.chain(arguments)) {
        Ok(args) => args,
        Err(shown) if !shown.use_stderr() => {
            say(shown.render().to_string().trim_end());
            return ExitCode::SUCCESS;
        }
        Err(mistakes) => {
            complain(mistakes.render().to_string().trim_end());
            return ExitCode::from(2);
        }
    };
    match explain(&args) {
        Ok(text) => {
            say(text.trim_end());
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&format!("kvasir explain: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn explain(args: &Args) -> anyhow::Result<String> {
    let question = args.question()?;
    let target = args.target()?;
    let event_loop = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let asked = async {
        let router = Endpoint::resolve(&target).await?;
        let body = question.body.to_string().into_bytes();
        anyhow::Ok(router.post(question.path, body).await?)
    };
    let answer = event_loop.block_on(async { tokio::time::timeout(PATIENCE, asked).await });
    let late = || format!("{} does not answer within {PATIENCE:?}", args.url);
    let (status, body) = answer.ok().with_context(late)??;
    if status != 200 {
        bail!("{}", refusal(&args.url, status, &body));
    }
    if args.json {
        return Ok(String::from_utf8_lossy(&body).into_owned());
    }
    let explanation: Explanation =
        serde_json::from_slice(&body).context("the router's answer is no explanation")?;
    Ok(explanation.to_string())
}

/// Why there is no explanation.
fn refusal(url: &str, status: u16, body: &[u8]) -> String {
    let error: Value = serde_json::from_slice(body).unwrap_or_default();
    match error["error"]["message"].as_str() {
        Some(_) if error["error"]["code"] == "not_found" => {
            format!("{url} explains nothing: is it a router of this version?")
        }
        Some(message) => message.to_owned(),
        None => format!("{url} answers with status {status}; is it a router?"),
    }
}

impl Args {
    fn question(&self) -> anyhow::Result<Question> {
        let mut body = match (&self.body, &self.prompt) {
            (Some(file), _) => {
                let text = std::fs::read(file);
                let text = text.with_context(|| format!("can't read {}", file.display()))?;
                serde_json::from_slice(&text)
                    .with_context(|| format!("{} is no JSON", file.display()))?
            }
            (None, Some(prompt)) if self.completion => json!({"prompt": prompt}),
            (None, prompt) => json!({"messages": [{"role": "user", "content": prompt}]}),
        };
        let Some(fields) = body.as_object_mut() else {
            bail!("a body is a JSON object, with messages or a prompt");
        };
        if let Some(model) = &self.model {
            fields.insert("model".to_owned(), json!(model));
        }
        if !fields.contains_key("model") {
            bail!("--model is missing: name one, as /v1/models of the router lists them");
        }
        let path = match fields.contains_key("messages") {
            true => CHAT,
            false => COMPLETION,
        };
        Ok(Question { path, body })
    }

    fn target(&self) -> anyhow::Result<Target> {
        let header = |text: &String| {
            let (name, value) = text
                .split_once(':')
                .with_context(|| format!("--header {text}: write it as NAME:VALUE"))?;
            anyhow::Ok((name.trim().to_owned(), value.trim().to_owned()))
        };
        Ok(Target {
            headers: self.header.iter().map(header).collect::<Result<_, _>>()?,
            api_key: self.api_key.clone(),
            ca_cert: self.ca_cert.clone(),
            ..Target::new(&self.url, self.model.as_deref().unwrap_or_default())
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn question(words: &[&str]) -> anyhow::Result<Question> {
        Args::parse_from(["explain"].iter().chain(words)).question()
    }

    #[test]
    fn command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_prompt_is_a_message_or_a_text_to_go_on_from() {
        let chat = question(&["--model", "m", "Hi"]).unwrap();
        let messages = json!([{"role": "user", "content": "Hi"}]);
        assert_eq!(chat.path, CHAT);
        assert_eq!(chat.body, json!({"messages": messages, "model": "m"}));
        let completion = question(&["--model", "m", "--completion", "Once"]).unwrap();
        assert_eq!(completion.path, COMPLETION);
        assert_eq!(completion.body, json!({"prompt": "Once", "model": "m"}));
    }

    #[test]
    fn a_body_goes_where_its_kind_goes_and_may_name_the_model() {
        let file = std::env::temp_dir().join(format!("kvasir-explain-{}", std::process::id()));
        let check = |body: Value, flags: &[&str], path: Option<&str>| {
            std::fs::write(&file, body.to_string()).unwrap();
            let file = file.display().to_string();
            let asked = question(&[&["--body", &file], flags].concat());
            assert_eq!(asked.as_ref().ok().map(|it| it.path), path, "{body}");
        };
        check(json!({"model": "m", "messages": []}), &[], Some(CHAT));
        check(json!({"model": "m", "prompt": [1]}), &[], Some(COMPLETION));
        check(json!({"prompt": "a"}), &["--model", "m"], Some(COMPLETION));
        check(json!({"prompt": "a"}), &[], None);
        check(json!([1]), &["--model", "m"], None);
        std::fs::remove_file(file).unwrap();
    }

    #[test]
    fn a_refusal_says_what_the_router_says() {
        let error = |code: &str| json!({"error": {"code": code, "message": "why"}}).to_string();
        let text = refusal("u", 404, error("model_not_found").as_bytes());
        assert_eq!(text, "why");
        let old = refusal("u", 404, error("not_found").as_bytes());
        assert!(old.starts_with("u explains nothing"), "{old}");
        let other = refusal("u", 502, b"<html>");
        assert!(other.contains("status 502"), "{other}");
    }
}
