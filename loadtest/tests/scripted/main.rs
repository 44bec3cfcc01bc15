//! A whole router against workers that do what a test tells them, over real
//! sockets: what it learns from their events, and what becomes of requests when
//! they refuse, fail or fall silent.

mod client;
mod events;
mod failures;
mod logs;
mod models;
#[path = "../harness/parts.rs"]
#[allow(dead_code, reason = "each test binary uses its share")]
mod parts;
mod reply;
mod silence;
mod split;
mod worker;
