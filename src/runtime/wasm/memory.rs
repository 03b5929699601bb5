//! The memory of a workload: one counter over all its stores.
//!
//! Growth past the limit is an error that ends the workload as `OOMKilled`; refusing it instead
//! would make the guest abort on its own. The memory that a *new* instance starts with waits until
//! others have returned theirs, since requests at once are the node's choice and not the guest's.
//!
//! **Invariant:** the counter is the sum of what the living stores hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use wasmtime::{Error, ResourceLimiterAsync, Result};

/// A table's element takes a pointer and a bit.
const TABLE_ELEMENT_BYTES: usize = 16;

/// How long the first memory of an instance waits for room.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Growth past the limit of the workload.
#[derive(Debug, thiserror::Error)]
#[error("memory limit of {limit} bytes exceeded: {used} in use, {asked} more asked for")]
pub struct OutOfMemory {
    pub limit: u64,
    pub used: u64,
    pub asked: u64,
}

/// What all stores of a workload hold together.
pub struct MemoryAccount {
    limit: u64,
    used: AtomicU64,
    returned: Notify,
}

impl MemoryAccount {
    pub fn new(limit: Option<u64>) -> Arc<Self> {
        Arc::new(Self {
            limit: limit.unwrap_or(u64::MAX),
            used: AtomicU64::new(0),
            returned: Notify::new(),
        })
    }

    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: u64) -> Result<(), OutOfMemory> {
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .map(|_| ())
            .map_err(|used| OutOfMemory { limit: self.limit, used, asked: bytes })
    }

    async fn take_waiting(&self, bytes: u64) -> Result<(), OutOfMemory> {
        loop {
            let returned = self.returned.notified();
            tokio::pin!(returned);
            // Registered before looking, so that what is returned in between wakes it.
            returned.as_mut().enable();
            match self.take(bytes) {
                Err(error) if bytes <= self.limit => {
                    if tokio::time::timeout(WAIT_MAX, returned).await.is_err() {
                        return Err(error);
                    }
                }
                taken => return taken,
            }
        }
    }

    fn give_back(&self, bytes: u64) {
        if bytes > 0 {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            self.returned.notify_waiters();
        }
    }
}

/// What one store holds of its workload's account; given back when the store goes.
pub struct StoreMemory {
    account: Arc<MemoryAccount>,
    held: u64,
    last: u64,
}

impl StoreMemory {
    pub fn new(account: Arc<MemoryAccount>) -> Self {
        Self { account, held: 0, last: 0 }
    }

    async fn grow(
        &mut self,
        from: usize,
        to: usize,
        max: Option<usize>,
        unit: usize,
    ) -> Result<bool> {
        if max.is_some_and(|max| to > max) {
            // The module's own bound: its growth fails, as it declared.
            return Ok(false);
        }
        let bytes = (to.saturating_sub(from) as u64).saturating_mul(unit as u64);
        let taken = match from {
            0 if self.held == 0 => self.account.take_waiting(bytes).await,
            _ => self.account.take(bytes),
        };
        taken.map_err(Error::from)?;
        self.held += bytes;
        self.last = bytes;
        Ok(true)
    }

    fn undo(&mut self) {
        let bytes = std::mem::take(&mut self.last);
        self.held -= bytes;
        self.account.give_back(bytes);
    }
}

impl Drop for StoreMemory {
    fn drop(&mut self) {
        self.account.give_back(self.held);
    }
}

#[async_trait::async_trait]
impl ResourceLimiterAsync for StoreMemory {
    async fn memory_growing(&mut self, from: usize, to: usize, max: Option<usize>) -> Result<bool> {
        self.grow(from, to, max, 1).await
    }

    fn memory_grow_failed(&mut self, _error: Error) -> Result<()> {
        self.undo();
        Ok(())
    }

    async fn table_growing(&mut self, from: usize, to: usize, max: Option<usize>) -> Result<bool> {
        self.grow(from, to, max, TABLE_ELEMENT_BYTES).await
    }

    fn table_grow_failed(&mut self, _error: Error) -> Result<()> {
        self.undo();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 65_536;

    #[tokio::test]
    async fn growth_past_the_limit_is_an_error_and_the_first_memory_waits() {
        let account = MemoryAccount::new(Some(4 * PAGE as u64));
        let mut one = StoreMemory::new(account.clone());
        assert!(one.memory_growing(0, 2 * PAGE, None).await.expect("fits"));
        let error = one.memory_growing(2 * PAGE, 5 * PAGE, None).await.expect_err("too much");
        assert!(error.is::<OutOfMemory>());

        let mut two = StoreMemory::new(account.clone());
        let mut waiting = Box::pin(two.memory_growing(0, 3 * PAGE, None));
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(one);
        assert!(waiting.await.expect("there is room now"));
        assert_eq!(account.used(), 3 * PAGE as u64);
        drop(two);
        assert_eq!(account.used(), 0);
    }

    #[tokio::test]
    async fn what_could_never_fit_does_not_wait() {
        let account = MemoryAccount::new(Some(PAGE as u64));
        let mut store = StoreMemory::new(account);
        assert!(store.memory_growing(0, 2 * PAGE, None).await.is_err());
    }

    #[tokio::test]
    async fn a_growth_that_failed_is_given_back() {
        let account = MemoryAccount::new(None);
        let mut store = StoreMemory::new(account.clone());
        assert!(!store.memory_growing(0, 2 * PAGE, Some(PAGE)).await.expect("the module's bound"));
        assert!(store.table_growing(0, 10, None).await.expect("fits"));
        store.table_grow_failed(Error::msg("no address space")).expect("noted");
        assert_eq!(account.used(), 0);
    }
}
