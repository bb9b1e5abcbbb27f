//! Reading a request's body, within its size, its time and the memory budget.

use std::num::NonZeroUsize;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::poll;
use http_body_util::BodyExt;
use hyper::body::Body;
use presenceroute_core::relay_config::Limits;
use tokio::time::timeout;

use super::memory_budget::Reservation;
use crate::outcome::{Problem, ProblemKind};

/// A request's body whose connection is told once its origin is verified.
pub trait ProvenBody: Body<Data = Bytes> {
    /// The request is verified.
    fn verified(&self);
}

/// The most memory that is reserved because a sender announced that much.
const TRUSTED_LENGTH: usize = 16 << 10;

pub(super) struct BodyReader {
    max_bytes: usize,
    timeout: Duration,
    /// The problem of a body that is slower.
    slow: ProblemKind,
}

impl BodyReader {
    /// A reader within these limits. A body that is slower than its deadline is the problem `slow`.
    pub(super) fn new(limits: &Limits, slow: ProblemKind) -> Self {
        let timeout = Duration::from_millis(limits.body_timeout_ms);
        Self { max_bytes: limits.max_body_bytes, timeout, slow }
    }

    /// Rejects a body by the length that its sender announced.
    pub(super) fn check_length(&self, length: Option<usize>) -> Result<(), Problem> {
        if length.is_some_and(|length| length > self.max_bytes) { Err(self.too_large()) } else { Ok(()) }
    }

    fn too_large(&self) -> Problem {
        let detail = format!(
            "a body may have {} bytes; send a smaller one, or raise spec.relay.limits.maxBodyBytes (for a relay alone: \
             limits.maxBodyBytes in relay.yaml, or PRESENCEROUTE_MAX_BODY_BYTES)",
            self.max_bytes
        );
        Problem::new(ProblemKind::BodyTooLarge, detail)
    }

    /// Reads the whole body, within its size and its time.
    pub(super) async fn read<B>(
        &self,
        body: Pin<&mut B>,
        length: Option<NonZeroUsize>,
        reservation: &mut Reservation<'_>,
    ) -> Result<Bytes, Problem>
    where
        B: Body<Data = Bytes>,
    {
        let mut reading = pin!(self.read_all(body, length, reservation));
        // Most often it came together with the head. Then no clock is read and no timer set.
        if let Poll::Ready(read) = poll!(&mut reading) {
            return read;
        }
        match timeout(self.timeout, reading).await {
            Ok(read) => read,
            Err(_) => {
                let detail = format!("the body was not whole after {} ms", self.timeout.as_millis());
                Err(Problem::new(self.slow, detail))
            }
        }
    }

    async fn read_all<B>(
        &self,
        mut body: Pin<&mut B>,
        length: Option<NonZeroUsize>,
        reservation: &mut Reservation<'_>,
    ) -> Result<Bytes, Problem>
    where
        B: Body<Data = Bytes>,
    {
        // A copy of just this size: what arrives is in the connection's buffer, which is larger and needed again.
        let mut whole = Vec::new();
        loop {
            let frame = match poll!(body.frame()) {
                Poll::Ready(frame) => frame,
                Poll::Pending => reservation.wait_for(body.frame()).await?,
            };
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|_| {
                Problem::new(
                    ProblemKind::BodyIncomplete,
                    "the connection failed before the body was whole; send it again",
                )
            })?;
            let Ok(data) = frame.into_data() else { continue };
            if whole.len() + data.len() > self.max_bytes {
                return Err(self.too_large());
            }
            let needed = whole.len() + data.len();
            let room = capacity_for(needed, whole.capacity(), length.map(NonZeroUsize::get), self.max_bytes);
            reservation.make_room(&mut whole, room)?;
            whole.extend_from_slice(&data);
        }
        reservation.shrink_to(whole.len())?;
        Ok(Bytes::from(whole.into_boxed_slice()))
    }
}

/// Drains the part of the body already received. True if that was all.
pub(super) async fn is_over<B>(mut body: Pin<&mut B>) -> bool
where
    B: Body<Data = Bytes>,
{
    while !body.is_end_stream() {
        match poll!(body.frame()) {
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(None) => return true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => return false,
        }
    }
    true
}

/// The capacity for a body that needs more than the `known` one: twice as much each time, so that it is not copied with
/// each of its frames, but no more than the sender announced or an event may have.
fn capacity_for(needed: usize, known: usize, announced: Option<usize>, most: usize) -> usize {
    if needed <= known {
        return known;
    }
    let trusted = announced.unwrap_or_default().min(TRUSTED_LENGTH);
    needed.max(trusted.max(2 * known).min(announced.unwrap_or(most)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 1 << 20;

    #[test]
    fn a_body_gets_twice_the_capacity_each_time() {
        let mut room = 0;
        for (needed, given) in [(10, 16 << 10), (20 << 10, 32 << 10), (60 << 10, 64 << 10)] {
            room = capacity_for(needed, room, Some(100_000), MOST);
            assert_eq!(room, given);
        }
    }

    #[test]
    fn capacity_is_at_most_the_announced_length_or_the_limit() {
        assert_eq!(capacity_for(100, 0, Some(600), MOST), 600);
        assert_eq!(capacity_for(100, 0, None, MOST), 100);
        assert_eq!(capacity_for(70_000, 65_536, Some(80_000), MOST), 80_000);
        assert_eq!(capacity_for(700_000, 600_000, None, MOST), MOST);
        assert_eq!(capacity_for(100, 600, Some(600), MOST), 600);
    }
}
