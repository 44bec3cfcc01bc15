use http::{HeaderMap, HeaderName, HeaderValue};
use runtime::config::HumanDuration;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn headers(given: &[(&'static str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &str)| {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        (HeaderName::from_static(name), value)
    };
    given.iter().map(pair).collect()
}

fn hints(given: &[(&'static str, &str)]) -> Hints {
    Hints::from_headers(&headers(given)).unwrap()
}

fn config() -> Config {
    Config {
        max_request_time: HumanDuration(10 * MINUTE),
        objective: vec![
            "interactive=10".parse().unwrap(),
            "batch=-5".parse().unwrap(),
        ],
    }
}

fn objectives(headers: Hints, body: Hints) -> Objectives {
    Objectives::new(headers, body, &config(), Instant::now())
}

fn said(given: &[(&'static str, &str)]) -> Objectives {
    objectives(hints(given), Hints::default())
}

#[test]
fn llm_ds_headers_are_understood_by_both_their_names() {
    let new = hints(&[
        ("x-llm-d-inference-fairness-id", "team-a"),
        ("x-llm-d-inference-objective", "batch"),
        ("x-llm-d-slo-ttft-ms", "250"),
        ("x-llm-d-slo-tpot-ms", "12.5"),
    ]);
    let old = hints(&[
        ("x-gateway-inference-fairness-id", "team-a"),
        ("x-gateway-inference-objective", "batch"),
        ("x-slo-ttft-ms", "250"),
        ("x-slo-tpot-ms", "12.5"),
    ]);
    assert_eq!(new, old);
    let now = Instant::now();
    let objectives = Objectives::new(new, Hints::default(), &config(), now);
    assert_eq!(&*objectives.tenant, "team-a");
    assert_eq!(objectives.priority, -5);
    assert_eq!(
        objectives.first_token_by,
        Some(now + Duration::from_millis(250))
    );
    assert_eq!(
        objectives.inter_token_latency,
        Some(Duration::from_micros(12_500))
    );
}

#[test]
fn an_unknown_objective_is_of_priority_0() {
    assert_eq!(
        said(&[("x-llm-d-inference-objective", "nobody")]).priority,
        0
    );
}

#[test]
fn dynamos_headers_order_by_tier_then_priority() {
    let priority = |tier: &str, priority: &str| {
        let given = [
            ("x-dynamo-request-strict-priority", tier),
            ("x-dynamo-request-priority", priority),
            ("x-llm-d-inference-objective", "batch"),
        ];
        said(&given).priority
    };
    assert_eq!(priority("0", "7"), 7);
    assert_eq!(priority("0", "-2147483648"), i32::MIN);
    let rising = [
        priority("0", "5"),
        priority("1", "-9"),
        priority("1", "0"),
        priority("1", "2147483647"),
        priority("2", "-2147483648"),
        priority("4294967295", "0"),
    ];
    assert!(rising.is_sorted(), "{rising:?}");
    assert!(rising[1] > rising[0] && rising[4] > rising[3]);
}

#[test]
fn headers_win_over_the_body() {
    let body = Hints {
        tenant: Some(Arc::from("user:u")),
        priority: Some(-1),
        output_tokens: Some(9),
        ..Hints::default()
    };
    let headers = hints(&[("x-dynamo-request-priority", "3")]);
    let objectives = objectives(headers.clone(), body.clone());
    assert_eq!((objectives.priority, &*objectives.tenant), (3, "user:u"));
    assert_eq!(headers.or(body).output_tokens, Some(9));
}

#[test]
fn tenant_is_the_header_else_the_key_else_the_user() {
    let key = ("authorization", "Bearer secret");
    let named = ("x-llm-d-inference-fairness-id", "team-a");
    assert_eq!(hints(&[named, key]).tenant.as_deref(), Some("team-a"));
    let of_key = hints(&[key]).tenant.unwrap();
    assert!(
        of_key.starts_with("key:") && !of_key.contains("secret"),
        "{of_key}"
    );
    assert_ne!(
        hints(&[("authorization", "bearer other")]).tenant,
        Some(of_key)
    );
    for none in ["Bearer ", "Basic abc", "Bear"] {
        assert_eq!(hints(&[("authorization", none)]).tenant, None, "{none}");
    }
    assert_eq!(said(&[]).tenant, Arc::from(""));
}

#[test]
fn long_names_of_users_are_hashed() {
    assert_eq!(user(""), None);
    assert_eq!(user("u"), Some(Arc::from("user:u")));
    let (a, b) = (
        user(&"a".repeat(200)).unwrap(),
        user(&"b".repeat(200)).unwrap(),
    );
    assert!(a.len() < 32 && a != b);
}

#[test]
fn time_limit_is_bounded_by_the_configured_one() {
    let now = Instant::now();
    let deadline = |given: &[(&'static str, &str)]| {
        let objectives = Objectives::new(hints(given), Hints::default(), &config(), now);
        objectives.deadline.unwrap() - now
    };
    assert_eq!(deadline(&[]), 10 * MINUTE);
    assert_eq!(deadline(&[("x-request-timeout-ms", "1500")]), MINUTE / 40);
    assert_eq!(
        deadline(&[("x-request-timeout-seconds", "1.5")]),
        MINUTE / 40
    );
    assert_eq!(
        deadline(&[("x-request-timeout-seconds", "7200")]),
        10 * MINUTE
    );
}

#[test]
fn grpc_deadlines_are_time_limits() {
    let timeout = |given: &[(&'static str, &str)]| {
        let hints = Hints::from_metadata(&headers(given)).map_err(|error| error.param);
        hints.map(|hints| hints.timeout)
    };
    let check = |text: &str, expected: Duration| {
        assert_eq!(timeout(&[("grpc-timeout", text)]), Ok(Some(expected)));
    };
    check("2H", 120 * MINUTE);
    check("3M", 3 * MINUTE);
    check("60S", MINUTE);
    check("99999999m", Duration::from_millis(99_999_999));
    check("5u", Duration::from_micros(5));
    check("5n", Duration::from_nanos(5));
    for wrong in ["", "5", "S", "999999999S", "-5S", "5x", "1.5S", "5\u{e9}"] {
        let param = Some("grpc-timeout".to_owned());
        assert_eq!(timeout(&[("grpc-timeout", wrong)]), Err(param), "{wrong}");
    }
    let both = [("grpc-timeout", "9S"), ("x-request-timeout-ms", "4000")];
    assert_eq!(timeout(&both), Ok(Some(Duration::from_secs(4))));
}

#[test]
fn malformed_headers_are_refused_by_name() {
    let check = |name: &'static str, values: &[&str]| {
        for value in values {
            let error = Hints::from_headers(&headers(&[(name, value)])).unwrap_err();
            assert_eq!(error.code, proto::ErrorCode::InvalidRequest);
            assert_eq!(error.param.as_deref(), Some(name), "{value}");
            assert!(error.message.contains(name), "{}", error.message);
        }
    };
    check(
        "x-dynamo-request-priority",
        &["high", "", "1.5", "2147483648"],
    );
    check("x-dynamo-request-strict-priority", &["-1", "4294967296"]);
    check(
        "x-llm-d-slo-ttft-ms",
        &["0", "-3", "NaN", "inf", "1e300", "fast"],
    );
    check("x-slo-tpot-ms", &["", "0"]);
    check("x-request-timeout-ms", &["0", "10s"]);
    check("x-request-timeout-seconds", &["soon"]);
    let long = "x".repeat(129);
    check("x-llm-d-inference-fairness-id", &["", &long, "caf\u{e9}"]);
    check("x-gateway-inference-objective", &[""]);
}

#[test]
fn objectives_are_configured_by_name() {
    for wrong in ["a", "=1", "a=", "a=1.5", "a=b"] {
        assert_eq!(
            wrong.parse::<NamedObjective>(),
            Err("".parse::<NamedObjective>().unwrap_err())
        );
    }
    let mut mistakes = Vec::new();
    let mut twice = config();
    twice.objective.push("batch=1".parse().unwrap());
    runtime::config::Check::check(&twice, &mut mistakes);
    assert_eq!(mistakes, ["--objective names `batch` twice"]);
}
