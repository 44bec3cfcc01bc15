//! Hints in HTTP headers, and so in gRPC metadata. What does not parse is the
//! client's mistake, named by its header.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::{Hints, hashed, named};
use crate::error::ApiError;

// Each by its present name first, then by the one it had.
const TENANT: [&str; 2] = [
    "x-llm-d-inference-fairness-id",
    "x-gateway-inference-fairness-id",
];
const OBJECTIVE: [&str; 2] = [
    "x-llm-d-inference-objective",
    "x-gateway-inference-objective",
];
const TIME_TO_FIRST_TOKEN: [&str; 2] = ["x-llm-d-slo-ttft-ms", "x-slo-ttft-ms"];
const INTER_TOKEN_LATENCY: [&str; 2] = ["x-llm-d-slo-tpot-ms", "x-slo-tpot-ms"];
const PRIORITY: [&str; 1] = ["x-dynamo-request-priority"];
const TIER: [&str; 1] = ["x-dynamo-request-strict-priority"];
const TIMEOUT_MS: [&str; 1] = ["x-request-timeout-ms"];
const TIMEOUT_SECONDS: [&str; 1] = ["x-request-timeout-seconds"];
const GRPC_TIMEOUT: [&str; 1] = ["grpc-timeout"];

const MS: f64 = 1e-3;

impl Hints {
    /// What `headers` say. The tenant is the one named there, else the API key.
    pub fn from_headers(headers: &HeaderMap) -> Result<Hints, ApiError> {
        let timeout = match duration(headers, &TIMEOUT_MS, MS)? {
            Some(timeout) => Some(timeout),
            None => duration(headers, &TIMEOUT_SECONDS, 1.0)?,
        };
        Ok(Hints {
            tenant: name(headers, &TENANT)?.or_else(|| api_key(headers)),
            objective: name(headers, &OBJECTIVE)?.map(|name| name.to_string()),
            priority: integer(headers, &PRIORITY)?,
            tier: integer(headers, &TIER)?,
            time_to_first_token: duration(headers, &TIME_TO_FIRST_TOKEN, MS)?,
            inter_token_latency: duration(headers, &INTER_TOKEN_LATENCY, MS)?,
            timeout,
            output_tokens: None,
        })
    }

    /// As headers, and the deadline that gRPC clients set.
    pub fn from_metadata(metadata: &HeaderMap) -> Result<Hints, ApiError> {
        let hints = Hints::from_headers(metadata)?;
        let deadline = match value(metadata, &GRPC_TIMEOUT)? {
            Some((header, text)) => Some(grpc_timeout(text).ok_or_else(|| {
                let message = format!("'{header}' must be up to 8 digits and a unit, such as 500m");
                ApiError::invalid(header, message)
            })?),
            None => None,
        };
        // Both are limits: the nearer one counts.
        let timeout = hints.timeout.into_iter().chain(deadline).min();
        Ok(Hints { timeout, ..hints })
    }
}

/// The first header of `names` that is there.
fn value<'a>(
    headers: &'a HeaderMap,
    names: &[&'static str],
) -> Result<Option<(&'static str, &'a str)>, ApiError> {
    let mut given = names
        .iter()
        .filter_map(|&name| Some((name, headers.get(name)?)));
    let Some((name, value)) = given.next() else {
        return Ok(None);
    };
    match value.to_str() {
        Ok(text) => Ok(Some((name, text.trim()))),
        Err(_) => Err(ApiError::invalid(
            name,
            format!("'{name}' must be visible ASCII text"),
        )),
    }
}

fn name(headers: &HeaderMap, names: &[&'static str]) -> Result<Option<Arc<str>>, ApiError> {
    let given = value(headers, names)?;
    given.map(|(header, text)| named(header, text)).transpose()
}

fn integer<T: FromStr>(headers: &HeaderMap, names: &[&'static str]) -> Result<Option<T>, ApiError> {
    let Some((header, text)) = value(headers, names)? else {
        return Ok(None);
    };
    let bits = size_of::<T>() * 8;
    let number = text.parse().map_err(|_| {
        let message = format!("'{header}' must be an integer of {bits} bits, not `{text}`");
        ApiError::invalid(header, message)
    })?;
    Ok(Some(number))
}

/// A number of `unit` seconds.
fn duration(
    headers: &HeaderMap,
    names: &[&'static str],
    unit: f64,
) -> Result<Option<Duration>, ApiError> {
    let Some((header, text)) = value(headers, names)? else {
        return Ok(None);
    };
    let number = text.parse::<f64>().ok().filter(|number| *number > 0.0);
    let duration = number.and_then(|number| Duration::try_from_secs_f64(number * unit).ok());
    let message = || format!("'{header}' must be a number above 0, not `{text}`");
    let duration = duration.ok_or_else(|| ApiError::invalid(header, message()))?;
    Ok(Some(duration))
}

fn api_key(headers: &HeaderMap) -> Option<Arc<str>> {
    let given = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, key) = given.split_at_checked("Bearer ".len())?;
    let key = key.trim_ascii();
    let is_bearer = scheme.eq_ignore_ascii_case(b"Bearer ") && !key.is_empty();
    is_bearer.then(|| hashed("key", key))
}

/// gRPC over HTTP/2: up to 8 digits and a unit.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let sane = (1..=8).contains(&digits.len()) && digits.bytes().all(|it| it.is_ascii_digit());
    let number: u64 = digits.parse().ok().filter(|_| sane)?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}
