//! Tests of whole clusters live in `tests/`. The load generator and the cluster
//! simulator will be this crate.
