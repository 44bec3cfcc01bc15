use std::net::SocketAddr;
use std::path::PathBuf;

use runtime::Lifecycle;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::*;
use crate::null_server::{Fault, Script, ScriptedServer};
use crate::planned::{ChatMessage, Output, PlannedRequest, Prompt};

fn request(number: u64) -> PlannedRequest {
    PlannedRequest {
        number,
        recorded_at: None,
        turn: None,
        prompt: Prompt::Chat(vec![ChatMessage {
            role: "user",
            content: "hi".to_owned(),
        }]),
        prompt_tokens: None,
        output: Output {
            max_tokens: 4,
            exact: true,
        },
        tenant: None,
        priority: None,
    }
}

struct Setup {
    server: ScriptedServer,
    client: Client,
    encoded: Encoded,
    _life: Lifecycle,
}

async fn setup(script: Script, change: impl FnOnce(&mut Target)) -> Setup {
    let life = Lifecycle::new();
    let server = ScriptedServer::start(&life, script).await.unwrap();
    let mut target = Target::new(&server.url(), "null");
    change(&mut target);
    let endpoint = Endpoint::resolve(&target).await.unwrap();
    Setup {
        server,
        client: Client::new(Arc::new(endpoint)),
        encoded: Encoder::new(&target).encode(&request(0)),
        _life: life,
    }
}

impl Setup {
    async fn send(&self) -> (Outcome, Answer) {
        let mut answer = Answer::new(true);
        let outcome = self.client.send(&self.encoded, &mut answer).await;
        (outcome, answer)
    }
}

/// What a fault is called, streamed and not.
async fn check(fault: Fault, streamed: Outcome, whole: Outcome) {
    for (stream, expected) in [(true, streamed), (false, whole)] {
        let script = Script {
            fault: Some(Arc::new(move |_| Some(fault))),
            ..Script::default()
        };
        let setup = setup(script, |it| it.stream = stream).await;
        let (outcome, _) = setup.send().await;
        assert_eq!(outcome, expected, "{fault:?}, stream: {stream}");
    }
}

#[tokio::test]
async fn calls_every_fault_by_its_name() {
    use Outcome as O;
    check(Fault::Status(429), O::Status(429), O::Status(429)).await;
    check(Fault::ErrorEvent { after: 2 }, O::ErrorEvent, O::ErrorEvent).await;
    check(Fault::ErrorEvent { after: 0 }, O::ErrorEvent, O::ErrorEvent).await;
    check(Fault::Cut { after: 0 }, O::CutStream, O::CutStream).await;
    check(Fault::Cut { after: 3 }, O::CutStream, O::CutStream).await;
    check(Fault::NoEndMark { after: 4 }, O::CutStream, O::CutStream).await;
    check(Fault::Disconnect, O::Disconnected, O::Disconnected).await;
    check(Fault::OneShort, O::WrongTokenCount, O::WrongTokenCount).await;
    check(Fault::StopsEarly, O::Truncated, O::Truncated).await;
    check(Fault::NotJson { after: 1 }, O::Malformed, O::Malformed).await;
    check(Fault::Html, O::Malformed, O::Malformed).await;
    check(Fault::NotHttp, O::Malformed, O::Malformed).await;
}

#[tokio::test]
async fn reads_text_chunks_usage_and_worker() {
    for stream in [true, false] {
        let script = Script {
            decode_worker: Some("worker-7".to_owned()),
            ..Script::default()
        };
        let setup = setup(script, |it| it.stream = stream).await;
        let (outcome, answer) = setup.send().await;
        assert_eq!(outcome, Outcome::Complete);
        assert_eq!(answer.text.as_deref(), Some(" token token token token"));
        assert_eq!(answer.chunks.iter().map(|it| it.1).sum::<u32>(), 4);
        assert_eq!(answer.chunks.len(), if stream { 4 } else { 1 });
        assert_eq!(answer.usage.unwrap().completion_tokens, 4);
        assert_eq!(answer.decode_worker.as_deref(), Some("worker-7"));
        let (connected, sent) = (answer.connected.unwrap(), answer.sent.unwrap());
        assert!(connected <= sent && sent <= answer.chunks[0].0);
        assert!(answer.chunks.last().unwrap().0 <= answer.ended.unwrap());
    }
}

#[tokio::test]
async fn an_answered_connection_serves_again() {
    for stream in [true, false] {
        let setup = setup(Script::default(), |it| it.stream = stream).await;
        for _ in 0..5 {
            assert_eq!(setup.send().await.0, Outcome::Complete);
        }
        assert_eq!(setup.server.connections(), 1, "stream: {stream}");
    }
}

#[tokio::test]
async fn a_connection_closed_while_idle_is_replaced_without_an_error() {
    let script = Script {
        answers_per_connection: Some(1),
        ..Script::default()
    };
    let setup = setup(script, |_| ()).await;
    for _ in 0..4 {
        assert_eq!(setup.send().await.0, Outcome::Complete);
    }
    assert_eq!(
        (setup.server.connections(), setup.server.requests()),
        (4, 4)
    );
}

#[tokio::test]
async fn a_reused_connection_that_breaks_is_retried_once_and_a_fresh_one_never() {
    let script = Script {
        fault: Some(Arc::new(|number| (number > 0).then_some(Fault::Disconnect))),
        ..Script::default()
    };
    let setup = setup(script, |_| ()).await;
    assert_eq!(setup.send().await.0, Outcome::Complete);
    assert_eq!(setup.send().await.0, Outcome::Disconnected);
    assert_eq!(
        (setup.server.connections(), setup.server.requests()),
        (2, 3)
    );
    assert_eq!(setup.send().await.0, Outcome::Disconnected);
    assert_eq!(
        (setup.server.connections(), setup.server.requests()),
        (3, 4)
    );
}

#[tokio::test]
async fn nobody_listening_is_a_failed_connection() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let target = Target::new(&url, "null");
    let endpoint = Endpoint::resolve(&target).await.unwrap();
    let refused = endpoint.probe().await.unwrap_err();
    assert!(
        matches!(refused, TargetError::Unreachable { .. }),
        "{refused}"
    );
    let client = Client::new(Arc::new(endpoint));
    let encoded = Encoder::new(&target).encode(&request(0));
    let outcome = client.send(&encoded, &mut Answer::new(false)).await;
    assert_eq!(outcome, Outcome::Connect);
}

#[tokio::test]
async fn a_probe_tells_of_a_wrong_key_or_model() {
    let life = Lifecycle::new();
    let script = Script {
        api_key: Some("secret".to_owned()),
        ..Script::default()
    };
    let server = ScriptedServer::start(&life, script).await.unwrap();
    let probe = async |key: &str, model: &str| {
        let mut target = Target::new(&format!("{}/v1/", server.url()), model);
        target.api_key = Some(key.to_owned());
        Endpoint::resolve(&target).await.unwrap().probe().await
    };
    assert_eq!(probe("secret", "null").await, Ok(()));
    let refused = probe("other", "null").await.unwrap_err();
    assert!(
        matches!(refused, TargetError::Key { status: 401, .. }),
        "{refused}"
    );
    let refused = probe("secret", "other").await.unwrap_err().to_string();
    assert!(
        refused.ends_with("serves no model other; it serves null"),
        "{refused}"
    );
}

#[tokio::test]
async fn refuses_what_is_no_target_in_words() {
    let resolve = async |url: &str| {
        let target = Target::new(url, "null");
        Endpoint::resolve(&target)
            .await
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    assert!(
        resolve("localhost:80")
            .await
            .contains("write it as http://host:port")
    );
    assert!(
        resolve("nonsense url")
            .await
            .contains("write it as http://host:port")
    );
    let mut target = Target::new("http://127.0.0.1:1", "null");
    target.headers.push(("bad name".to_owned(), "x".to_owned()));
    let refused = Endpoint::resolve(&target).await.unwrap_err();
    assert_eq!(refused, TargetError::Header("bad name".to_owned()));
}

/// TLS before a server, with a certificate of its own that is in the file.
struct Gate {
    address: SocketAddr,
    certificate: PathBuf,
}

impl Gate {
    async fn start(life: &Lifecycle, server: SocketAddr, name: &str) -> Gate {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let file = format!("kvasir-{name}-{}.pem", std::process::id());
        let certificate = std::env::temp_dir().join(file);
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let own = life.clone();
        life.spawn("gate", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                own.spawn("gate-connection", async move {
                    let mut behind = TcpStream::connect(server).await?;
                    let mut stream = acceptor.accept(stream).await?;
                    tokio::io::copy_bidirectional(&mut stream, &mut behind).await
                });
            }
        });
        Gate {
            address,
            certificate,
        }
    }

    fn target(&self) -> Target {
        let url = format!("https://localhost:{}", self.address.port());
        Target {
            ca_cert: Some(self.certificate.clone()),
            ..Target::new(&url, "null")
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.certificate);
    }
}

#[tokio::test]
async fn speaks_tls_and_stamps_below_it() {
    let life = Lifecycle::new();
    let server = ScriptedServer::start(&life, Script::default())
        .await
        .unwrap();
    let gate = Gate::start(&life, server.address(), "speaks").await;
    let target = gate.target();
    let endpoint = Endpoint::resolve(&target).await.unwrap();
    assert_eq!(endpoint.probe().await, Ok(()));
    let client = Client::new(Arc::new(endpoint));
    let encoded = Encoder::new(&target).encode(&request(0));
    for _ in 0..3 {
        let mut answer = Answer::new(true);
        let outcome = client.send(&encoded, &mut answer).await;
        assert_eq!(outcome, Outcome::Complete);
        assert_eq!(answer.chunks.len(), 4);
        let (connected, sent) = (answer.connected.unwrap(), answer.sent.unwrap());
        assert!(connected <= sent && sent <= answer.chunks[0].0);
    }
    // The probe's, and one for all requests.
    assert_eq!((server.requests(), server.connections()), (3, 2));
    life.stop();
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused_in_words() {
    let life = Lifecycle::new();
    let server = ScriptedServer::start(&life, Script::default())
        .await
        .unwrap();
    let gate = Gate::start(&life, server.address(), "refused").await;
    let refused = async |target: Target| {
        let endpoint = Endpoint::resolve(&target).await?;
        endpoint.probe().await
    };
    let unknown = Target {
        ca_cert: None,
        ..gate.target()
    };
    let error = refused(unknown).await.unwrap_err();
    assert!(matches!(error, TargetError::Tls { .. }), "{error}");
    let error = error.to_string();
    assert!(
        error.contains("UnknownIssuer") && error.contains("--ca-cert"),
        "{error}"
    );
    // Of another name than the certificate's.
    let renamed = Target {
        url: format!("https://127.0.0.1:{}", gate.address.port()),
        ..gate.target()
    };
    let error = refused(renamed).await.unwrap_err();
    assert!(matches!(error, TargetError::Tls { .. }), "{error}");
    let nothing = Target {
        ca_cert: Some(PathBuf::from("/no/such/file.pem")),
        ..gate.target()
    };
    let error = refused(nothing).await.unwrap_err();
    assert!(matches!(error, TargetError::Authority { .. }), "{error}");
    life.stop();
}

#[tokio::test]
async fn a_tenant_has_a_key_of_its_own() {
    let script = Script {
        api_key: Some("blue key".to_owned()),
        ..Script::default()
    };
    let setup = setup(script, |_| ()).await;
    let mut target = Target::new(&setup.server.url(), "null");
    target.api_key = Some("other".to_owned());
    let keys = [("blue", "blue key"), ("red", "red key")];
    target.tenant_keys = keys.map(|(a, b)| (a.to_owned(), b.to_owned())).into();
    let client = Client::new(Arc::new(Endpoint::resolve(&target).await.unwrap()));
    for (tenant, expected) in [
        (Some("blue"), Outcome::Complete),
        (Some("red"), Outcome::Status(401)),
        (Some("green"), Outcome::Status(401)),
        (None, Outcome::Status(401)),
    ] {
        let planned = PlannedRequest {
            tenant: tenant.map(Arc::from),
            ..request(0)
        };
        let encoded = Encoder::new(&target).encode(&planned);
        let outcome = client.send(&encoded, &mut Answer::new(false)).await;
        assert_eq!(outcome, expected, "{tenant:?}");
    }
    target
        .tenant_keys
        .insert("grey".to_owned(), "a\nb".to_owned());
    let refused = Endpoint::resolve(&target).await.unwrap_err().to_string();
    assert!(
        refused.starts_with("the API key of tenant grey"),
        "{refused}"
    );
}
