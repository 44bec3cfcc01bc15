//! What the router's own paths answer, whole cluster behind them.

use crate::harness::{FAST, get, request, router, sim_worker};

#[test]
fn every_wrong_path_and_method_is_told_in_the_apis_own_shape() {
    let worker = sim_worker("worker-0", "both", FAST);
    let router = router(&[&worker]);
    let wrong = [
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/models/nothing", 404),
        ("GET", "/v1/models/%ff", 400),
        ("POST", "/v1/models", 405),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/completions", 405),
        ("POST", "/health", 405),
        ("POST", "/ready", 405),
        ("PUT", "/metrics", 405),
    ];
    for (method, path, status) in wrong {
        let text = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        let (head, body) = request(router.address, &text).expect("an answer");
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{method} {path}: {head}"
        );
        assert!(head.contains("x-request-id: "), "{method} {path}: {head}");
        let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert!(
            body["error"]["message"].is_string(),
            "{method} {path}: {body}"
        );
    }
}

#[test]
fn ready_follows_the_workers() {
    let mut worker = sim_worker("worker-0", "both", FAST);
    let router = router(&[&worker]);
    let status = |path: &str| {
        let text = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        let (head, _) = request(router.address, &text).expect("an answer");
        head.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!(
        (status("/health"), status("/ready")),
        ("200".into(), "200".into())
    );
    assert!(get(router.address, "/v1/models").contains("kvasir-demo"));
    worker.kill();
    router.wait_for("kvasir_router_connected_workers", |n| n == 0.0);
    assert_eq!(
        (status("/health"), status("/ready")),
        ("200".into(), "503".into())
    );
}
