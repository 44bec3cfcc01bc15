//! What a build without the feature `etcd` says when it is asked for etcd.

use super::{EtcdError, FollowConfig, RegisterConfig, Registration};
use crate::Lifecycle;
use crate::membership::Membership;

/// Refuses: there is no etcd client in this build.
pub fn follow(
    _: FollowConfig,
    _: impl Fn(bool) + Send + Sync + 'static,
) -> Result<Box<dyn Membership>, EtcdError> {
    Err(EtcdError::NotBuilt)
}

/// Refuses: there is no etcd client in this build.
pub fn register(_: RegisterConfig, _: &Registration, _: &Lifecycle) -> Result<(), EtcdError> {
    Err(EtcdError::NotBuilt)
}
