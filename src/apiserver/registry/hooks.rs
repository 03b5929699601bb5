//! What a kind needs beyond pure functions when it is written: numbers that only one object may
//! hold (cluster IPs, node ports).

use async_trait::async_trait;

use crate::api::Object;
use crate::api::status::ApiError;

/// Something taken for a write that may still fail. Dropping it without [`Self::keep`] gives back
/// what was taken.
pub trait Reservation: Send {
    /// The write is durable: what was taken stays taken, what the old object had and the new one
    /// has not is given back.
    fn keep(self: Box<Self>);
}

/// Called around the writes of one kind.
#[async_trait]
pub trait Hook: Send + Sync + 'static {
    /// Before validation of a create (`old` is `None`) or an update: fill in what is allocated.
    ///
    /// # Errors
    /// 422 or 500 as Kubernetes words them, when what is asked for cannot be had.
    async fn reserve(
        &self,
        object: &mut Object,
        old: Option<&Object>,
        dry_run: bool,
    ) -> Result<Box<dyn Reservation>, ApiError>;

    /// The object is stored as it is now.
    fn written(&self, object: &Object) {
        let _ = object;
    }

    /// The object is gone: give back what it had.
    fn release(&self, object: &Object);
}
