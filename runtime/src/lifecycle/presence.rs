//! Who is there: a gate that answers "has everyone left" and names who has not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Everyone present in one life.
#[derive(Default)]
pub(super) struct Present {
    tasks: Mutex<Tasks>,
    count: watch::Sender<usize>,
}

#[derive(Default)]
struct Tasks {
    next: u64,
    running: BTreeMap<u64, Task>,
}

struct Task {
    name: &'static str,
    abort: Option<AbortHandle>,
}

/// Keeps a [`Lifecycle`](super::Lifecycle) from finishing until dropped.
#[must_use = "dropping it leaves at once"]
pub struct Presence {
    name: &'static str,
    entries: Vec<(Arc<Present>, u64)>,
}

/// Where the abort handle of a task goes once the task is spawned.
pub(super) struct AbortSlot(Vec<(Arc<Present>, u64)>);

impl Present {
    pub(super) async fn all_left(&self) {
        let mut count = self.count.subscribe();
        // The sender is `self`, so it outlives this wait.
        let _ = count.wait_for(|count| *count == 0).await;
    }

    pub(super) fn names(&self) -> Vec<&'static str> {
        self.lock().running.values().map(|task| task.name).collect()
    }

    pub(super) fn abort_all(&self) {
        let running: Vec<_> = {
            let tasks = self.lock();
            tasks
                .running
                .values()
                .filter_map(|task| task.abort.clone())
                .collect()
        };
        for abort in running {
            abort.abort();
        }
    }

    fn insert(&self, name: &'static str) -> u64 {
        let mut tasks = self.lock();
        let id = tasks.next;
        tasks.next += 1;
        tasks.running.insert(id, Task { name, abort: None });
        self.count.send_replace(tasks.running.len());
        id
    }

    fn remove(&self, id: u64) {
        let mut tasks = self.lock();
        tasks.running.remove(&id);
        self.count.send_replace(tasks.running.len());
    }

    fn lock(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Presence {
    pub(super) fn enter(name: &'static str, lives: &[Arc<Present>]) -> Presence {
        let entries = lives
            .iter()
            .map(|life| (life.clone(), life.insert(name)))
            .collect();
        Presence { name, entries }
    }

    pub(super) fn abort_slot(&self) -> AbortSlot {
        AbortSlot(self.entries.clone())
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(task = self.name, "task panicked");
        }
        for (life, id) in &self.entries {
            life.remove(*id);
        }
    }
}

impl AbortSlot {
    /// Nothing happens if the task has left already.
    pub(super) fn set(self, abort: AbortHandle) {
        for (life, id) in self.0 {
            if let Some(task) = life.lock().running.get_mut(&id) {
                task.abort = Some(abort.clone());
            }
        }
    }
}
