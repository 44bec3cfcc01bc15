//! A router's side: the list of workers, then every change of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use etcd_client::{EventType, GetOptions, KeyValue, WatchOptions, WatchResponse, WatchStream};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::time::Instant as Deadline;
use tracing::{info, warn};

use super::backoff::{Backoff, random};
use super::connection::{Connection, Failure, Servers};
use super::{EtcdError, FollowConfig, record};
use crate::membership::{Change, Listed, Member, Membership, View};

/// Told when etcd begins to answer (`true`) and when it is away.
type OnSource = Arc<dyn Fn(bool) + Send + Sync>;

/// The workers registered in etcd. Never waits for it: what is known goes on
/// being known, and `on_source` tells when etcd answers and when it is away.
pub fn follow(
    config: FollowConfig,
    on_source: impl Fn(bool) + Send + Sync + 'static,
) -> Result<Box<dyn Membership>, EtcdError> {
    Ok(Box::new(Workers {
        servers: Servers::new(&config.server)?,
        config,
        on_source: Arc::new(on_source),
    }))
}

struct Workers {
    servers: Servers,
    config: FollowConfig,
    on_source: OnSource,
}

impl Membership for Workers {
    fn changes(&self) -> BoxStream<'static, Change> {
        let next = |mut follower: Follower| async move { Some((follower.next().await, follower)) };
        stream::unfold(self.follower(), next).boxed()
    }
}

impl Workers {
    fn follower(&self) -> Follower {
        Follower {
            servers: self.servers.clone(),
            prefix: self.config.server.prefix(),
            view: View::new(self.config.etcd_absence_grace.0),
            watch: None,
            found: VecDeque::new(),
            backoff: Backoff::new(),
            last_failure: String::new(),
            on_source: self.on_source.clone(),
        }
    }
}

struct Follower {
    servers: Servers,
    prefix: String,
    view: View,
    /// Present while etcd answers.
    watch: Option<Watch>,
    found: VecDeque<Change>,
    backoff: Backoff,
    last_failure: String,
    on_source: OnSource,
}

/// A watch from the list's revision on.
struct Watch {
    connection: Connection,
    stream: WatchStream,
    /// When it is asked, or if it was, given up.
    deadline: Deadline,
    is_asked: bool,
}

impl Follower {
    async fn next(&mut self) -> Change {
        loop {
            if let Some(change) = self.found.pop_front() {
                return change;
            }
            if let Err(failure) = self.step().await {
                self.lost(failure).await;
            }
        }
    }

    async fn step(&mut self) -> Result<(), Failure> {
        let Some(watch) = &mut self.watch else {
            return self.begin().await;
        };
        let heard = match self.view.next_expiry() {
            Some(expiry) => tokio::select! {
                heard = watch.next() => heard?,
                () = tokio::time::sleep_until(expiry.into()) => None,
            },
            None => watch.next().await?,
        };
        if let Some(heard) = heard {
            self.apply(&heard);
        }
        self.found.extend(self.view.expire(Instant::now()));
        Ok(())
    }

    /// Reads the whole list, also after a short loss: an etcd that lost its data
    /// has no past to go on from.
    async fn begin(&mut self) -> Result<(), Failure> {
        let connection = self.servers.connect().await?;
        let mut client = connection.client.clone();
        let everything = GetOptions::new().with_prefix();
        let list = connection
            .answer(client.get(self.prefix.as_str(), Some(everything)))
            .await?;
        let revision = list.header().map_or(0, |header| header.revision());
        let watch = Watch::after(connection, &self.prefix, revision).await?;
        let listed = list.kvs().iter().filter_map(|entry| self.listed(entry));
        let listed: Vec<_> = listed.collect();
        let count = listed.len();
        let changes = self.view.list(listed, Instant::now());
        info!(
            etcd = watch.connection.url(),
            workers = count,
            "following the workers in etcd"
        );
        self.found.extend(changes);
        self.last_failure.clear();
        self.watch = Some(watch);
        (self.on_source)(true);
        Ok(())
    }

    fn apply(&mut self, heard: &WatchResponse) {
        for event in heard.events() {
            let Some(entry) = event.kv() else { continue };
            let listed = match event.event_type() {
                EventType::Put => self.listed(entry),
                EventType::Delete => None,
            };
            match (listed, self.id(entry)) {
                (Some(listed), _) => self.found.extend(self.view.put(listed.member)),
                (None, Some(id)) => self.view.delete(&id, Instant::now()),
                (None, None) => {}
            }
        }
    }

    fn id(&self, entry: &KeyValue) -> Option<String> {
        let id = entry.key_str().ok()?.strip_prefix(&self.prefix)?;
        (!id.is_empty()).then(|| id.to_owned())
    }

    fn listed(&self, entry: &KeyValue) -> Option<Listed> {
        let id = self.id(entry)?;
        match record::decode(&id, entry.value()) {
            Ok(registration) => Some(Listed {
                member: Member {
                    id,
                    address: registration.address,
                },
                revision: entry.mod_revision(),
            }),
            Err(reason) => {
                warn!(worker = id, reason, "can't read a registration in etcd");
                None
            }
        }
    }

    async fn lost(&mut self, failure: Failure) {
        if self.watch.take().is_some() {
            self.view.away();
        }
        if matches!(failure, Failure::Compacted) {
            info!("{failure}; reading the workers in etcd anew");
            return;
        }
        (self.on_source)(false);
        let failure = failure.to_string();
        if failure != self.last_failure {
            warn!(
                reason = failure,
                workers = self.view.len(),
                "etcd is away; the workers known so far keep serving"
            );
            self.last_failure = failure;
        }
        tokio::time::sleep(self.backoff.next(Instant::now(), random())).await;
    }
}

impl Watch {
    /// Everything under `prefix` that happens after `revision`.
    async fn after(connection: Connection, prefix: &str, revision: i64) -> Result<Watch, Failure> {
        let mut client = connection.client.clone();
        let options = WatchOptions::new()
            .with_prefix()
            .with_start_revision(revision + 1);
        let stream = connection
            .answer(client.watch(prefix, Some(options)))
            .await?;
        Ok(Watch {
            deadline: Deadline::now() + connection.timeout(),
            connection,
            stream,
            is_asked: false,
        })
    }

    /// What etcd says next; `None` says only that it is there. A silent one is
    /// asked for a sign of life.
    async fn next(&mut self) -> Result<Option<WatchResponse>, Failure> {
        let message = tokio::time::timeout_at(self.deadline, self.stream.message()).await;
        self.deadline = Deadline::now() + self.connection.timeout();
        let Ok(message) = message else {
            if self.is_asked {
                return Err(self.connection.silent());
            }
            self.is_asked = true;
            let asked = self.stream.request_progress();
            self.connection.answer(asked).await?;
            return Ok(None);
        };
        self.is_asked = false;
        let Some(message) = message? else {
            return Err(Failure::Ended("the stream is closed".to_owned()));
        };
        if message.compact_revision() > 0 {
            return Err(Failure::Compacted);
        }
        if message.canceled() {
            return Err(Failure::Ended(message.cancel_reason().to_owned()));
        }
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use etcd_client::CompactionOptions;

    use super::super::tests::live::{added, client, key, value};
    use super::super::tests::{parse, server::Etcd};
    use super::*;

    #[tokio::test]
    async fn what_was_compacted_away_is_read_anew() {
        let Some(etcd) = Etcd::start() else { return };
        let url = format!("--etcd={}", etcd.url());
        let config: FollowConfig = parse(&[url.as_str()]);
        let workers = Workers {
            servers: Servers::new(&config.server).unwrap(),
            config,
            on_source: Arc::new(|_| ()),
        };
        let mut client = client(&etcd).await;
        let put = client.put(key("a"), value(1), None).await.unwrap();
        let first = put.header().unwrap().revision();
        let mut follower = workers.follower();
        assert_eq!(follower.next().await, added("a", 1));

        // As a server that lags behind sends its clients: back to a past that
        // the others have compacted away.
        client.put(key("b"), value(2), None).await.unwrap();
        let put = client.put(key("a"), value(1), None).await.unwrap();
        let physical = CompactionOptions::new().with_physical();
        let last = put.header().unwrap().revision();
        client.compact(last, Some(physical)).await.unwrap();
        let mut stale = follower.watch.take().unwrap();
        let after = Watch::after(stale.connection.clone(), &follower.prefix, first);
        stale.stream = after.await.unwrap().stream;
        let failure = loop {
            if let Err(failure) = stale.next().await {
                break failure;
            }
        };
        assert!(matches!(failure, Failure::Compacted), "{failure}");
        follower.lost(failure).await;
        assert_eq!(follower.next().await, added("b", 2));
    }
}
