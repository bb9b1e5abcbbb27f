//! One standard queue: visible messages, hidden ones with the time at which they come back, and receives that wait.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use md5::{Digest as _, Md5};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{QueueSettings, REGION};
use crate::moment::Moment;

/// Received messages that are not deleted, at most, as Amazon SQS has it for standard queues.
const MOST_IN_FLIGHT: usize = 120_000;

/// The bytes of all bodies, at most: the memory is this machine's.
const MOST_BYTES: usize = 512 * 1024 * 1024;

/// How many messages a queue has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueCounts {
    /// That a receive would get.
    pub visible: usize,
    /// Received and neither deleted nor visible again.
    pub in_flight: usize,
    /// Sent with a delay that is not over.
    pub delayed: usize,
    /// Ever sent to the queue, also by redrive.
    pub sent: u64,
    /// Ever deleted.
    pub deleted: u64,
    /// Ever moved to the dead-letter queue.
    pub redriven: u64,
    /// Receives that were answered without a message.
    pub empty_receives: u64,
}

/// A message as a receive gets it.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) id: Uuid,
    pub(super) receipt_handle: String,
    pub(super) body: String,
    pub(super) md5: String,
    pub(super) sent: Moment,
    pub(super) first_received: Moment,
    pub(super) receive_count: u32,
}

/// Why something was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The queue is full.
    OverLimit,
    /// The text is no receipt handle of this queue.
    InvalidReceiptHandle,
    /// The message is not in flight.
    NotInFlight,
}

struct Message {
    id: Uuid,
    body: String,
    sent: Moment,
    first_received: Option<Moment>,
    receive_count: u32,
    /// When it is visible again; `None` while it is.
    hidden_until: Option<Instant>,
}

/// The lowercase-hex MD5 of a body, which clients check against what they sent or received.
pub(super) fn md5_of(body: &str) -> String {
    hex::encode(Md5::digest(body.as_bytes()))
}

#[derive(Default)]
struct State {
    /// By the order of sending.
    messages: BTreeMap<u64, Message>,
    by_id: HashMap<Uuid, u64>,
    visible: VecDeque<u64>,
    /// By the time at which they are visible again.
    hidden: BTreeSet<(Instant, u64)>,
    in_flight: usize,
    bytes: usize,
    counts: QueueCounts,
}

impl State {
    fn add(&mut self, message: Message) {
        self.counts.sent += 1;
        let number = self.counts.sent;
        self.bytes += message.body.len();
        self.by_id.insert(message.id, number);
        match message.hidden_until {
            Some(until) => _ = self.hidden.insert((until, number)),
            None => self.visible.push_back(number),
        }
        self.messages.insert(number, message);
    }

    /// Takes messages of another queue, which keep their ids and times.
    fn adopt(&mut self, messages: Vec<Message>) {
        for message in messages {
            self.add(Message { receive_count: 0, hidden_until: None, ..message });
        }
    }

    /// Makes visible what is hidden no longer.
    fn uncover(&mut self, now: Instant) {
        while let Some(&(until, number)) = self.hidden.first()
            && until <= now
        {
            self.hidden.pop_first();
            self.show(number);
        }
    }

    fn show(&mut self, number: u64) {
        if let Some(message) = self.messages.get_mut(&number) {
            message.hidden_until = None;
            self.in_flight -= usize::from(message.receive_count > 0);
            self.visible.push_back(number);
        }
    }

    fn remove(&mut self, number: u64) -> Option<Message> {
        let message = self.messages.remove(&number)?;
        self.by_id.remove(&message.id);
        self.bytes -= message.body.len();
        match message.hidden_until {
            Some(until) => {
                self.hidden.remove(&(until, number));
                self.in_flight -= usize::from(message.receive_count > 0);
            }
            None => self.visible.retain(|visible| *visible != number),
        }
        Some(message)
    }

    fn now(&self) -> QueueCounts {
        QueueCounts {
            visible: self.visible.len(),
            in_flight: self.in_flight,
            delayed: self.hidden.len() - self.in_flight,
            ..self.counts
        }
    }

    /// The number of the message that the handle was given for, where it was not received again since.
    fn by_handle(&self, handle: &str) -> Result<Option<u64>, Refusal> {
        let (id, count) = handle.split_once('#').ok_or(Refusal::InvalidReceiptHandle)?;
        let id = Uuid::parse_str(id).map_err(|_| Refusal::InvalidReceiptHandle)?;
        let count: u32 = count.parse().map_err(|_| Refusal::InvalidReceiptHandle)?;
        let number = self.by_id.get(&id).copied();
        Ok(number
            .filter(|number| self.messages.get(number).is_some_and(|message| message.receive_count == count)))
    }
}

/// A queue.
pub(super) struct Queue {
    settings: QueueSettings,
    state: Mutex<State>,
    /// Wakes receives that wait.
    arrival: Notify,
    closed: CancellationToken,
}

/// What a receive asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Receive {
    pub(super) most: usize,
    pub(super) wait: Duration,
    /// That of the queue where it is `None`.
    pub(super) visibility_timeout: Option<Duration>,
}

impl Queue {
    pub(super) fn new(settings: QueueSettings) -> Self {
        Self { settings, state: Mutex::default(), arrival: Notify::new(), closed: CancellationToken::new() }
    }

    pub(super) fn name(&self) -> &str {
        &self.settings.name
    }

    pub(super) fn arn(&self) -> String {
        arn(self.name())
    }

    pub(super) fn visibility_timeout(&self) -> Duration {
        self.settings.visibility_timeout
    }

    pub(super) fn dead_letter_queue(&self) -> Option<&str> {
        self.settings.redrive.as_ref().map(|redrive| redrive.dead_letter_queue.as_str())
    }

    /// The redrive policy as the service writes it.
    pub(super) fn redrive_policy(&self) -> Option<String> {
        let redrive = self.settings.redrive.as_ref()?;
        let policy = serde_json::json!({
            "deadLetterTargetArn": arn(&redrive.dead_letter_queue),
            "maxReceiveCount": redrive.max_receive_count,
        });
        Some(policy.to_string())
    }

    pub(super) fn counts(&self) -> QueueCounts {
        let mut state = self.state.lock();
        state.uncover(Instant::now());
        state.now()
    }

    pub(super) fn bodies(&self) -> Vec<String> {
        self.state.lock().messages.values().map(|message| message.body.clone()).collect()
    }

    /// Ends receives that wait, and lets none wait any more.
    pub(super) fn close(&self) {
        self.closed.cancel();
    }

    /// Adds a message that is visible after `delay`, and gives its id.
    pub(super) fn send(&self, body: String, delay: Duration) -> Result<Uuid, Refusal> {
        let id = Uuid::new_v4();
        {
            let mut state = self.state.lock();
            if state.bytes + body.len() > MOST_BYTES {
                return Err(Refusal::OverLimit);
            }
            state.add(Message {
                id,
                body,
                sent: Moment::now(),
                first_received: None,
                receive_count: 0,
                hidden_until: (!delay.is_zero()).then(|| Instant::now() + delay),
            });
        }
        self.arrival.notify_waiters();
        Ok(id)
    }

    /// Hides and gives up to `most` visible messages, and waits for the first. Messages that were received too often go to
    /// `dead_letters` instead.
    pub(super) async fn receive(
        &self,
        receive: Receive,
        dead_letters: Option<&Self>,
    ) -> Result<Vec<Received>, Refusal> {
        let deadline = Instant::now() + receive.wait;
        loop {
            // Listens before it looks, so that no arrival between the two is missed.
            let mut arrival = std::pin::pin!(self.arrival.notified());
            arrival.as_mut().enable();
            let received = self.take(receive, dead_letters)?;
            let now = Instant::now();
            if !received.is_empty() || now >= deadline || self.closed.is_cancelled() {
                if received.is_empty() {
                    self.state.lock().counts.empty_receives += 1;
                }
                return Ok(received);
            }
            let comes_back = self.state.lock().hidden.first().map(|(until, _)| *until);
            let wake = comes_back.map_or(deadline, |until| until.min(deadline));
            tokio::select! {
                // Late or not, the queue is looked at again.
                _ = timeout_at(wake, arrival.as_mut()) => {}
                () = self.closed.cancelled() => {}
            }
        }
    }

    fn take(&self, receive: Receive, dead_letters: Option<&Self>) -> Result<Vec<Received>, Refusal> {
        let mut received = Vec::new();
        let mut dead = Vec::new();
        {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            let now = Instant::now();
            state.uncover(now);
            let until = now + receive.visibility_timeout.unwrap_or(self.settings.visibility_timeout);
            while received.len() < receive.most {
                let Some(number) = state.visible.pop_front() else { break };
                if state.in_flight >= MOST_IN_FLIGHT {
                    state.visible.push_front(number);
                    if received.is_empty() {
                        return Err(Refusal::OverLimit);
                    }
                    break;
                }
                let Some(message) = state.messages.get_mut(&number) else { continue };
                let is_dead = self
                    .settings
                    .redrive
                    .as_ref()
                    .is_some_and(|redrive| message.receive_count >= redrive.max_receive_count);
                if is_dead && dead_letters.is_some() {
                    state.counts.redriven += 1;
                    dead.extend(state.remove(number));
                    continue;
                }
                message.receive_count += 1;
                message.hidden_until = Some(until);
                let at = Moment::now();
                received.push(Received {
                    id: message.id,
                    receipt_handle: format!("{}#{}", message.id, message.receive_count),
                    md5: md5_of(&message.body),
                    body: message.body.clone(),
                    sent: message.sent,
                    first_received: *message.first_received.get_or_insert(at),
                    receive_count: message.receive_count,
                });
                state.in_flight += 1;
                state.hidden.insert((until, number));
            }
        }
        if let Some(queue) = dead_letters.filter(|_| !dead.is_empty()) {
            queue.state.lock().adopt(dead);
            queue.arrival.notify_waiters();
        }
        Ok(received)
    }

    /// Deletes the message of a handle. As at Amazon SQS, a handle of a message that is deleted, or was received again
    /// since, is no error.
    pub(super) fn delete(&self, handle: &str) -> Result<(), Refusal> {
        let mut state = self.state.lock();
        if let Some(number) = state.by_handle(handle)?
            && state.remove(number).is_some()
        {
            state.counts.deleted += 1;
        }
        Ok(())
    }

    /// Hides the message of a handle for so long from now on; zero makes it visible at once.
    pub(super) fn change_visibility(&self, handle: &str, timeout: Duration) -> Result<(), Refusal> {
        {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            let now = Instant::now();
            state.uncover(now);
            let number = state.by_handle(handle)?.ok_or(Refusal::NotInFlight)?;
            let message = state.messages.get_mut(&number).ok_or(Refusal::NotInFlight)?;
            let before = message.hidden_until.ok_or(Refusal::NotInFlight)?;
            let after = now + timeout;
            message.hidden_until = Some(after);
            state.hidden.remove(&(before, number));
            state.hidden.insert((after, number));
            state.uncover(now);
        }
        self.arrival.notify_waiters();
        Ok(())
    }
}

fn arn(name: &str) -> String {
    format!("arn:aws:sqs:{REGION}:{}:{name}", super::ACCOUNT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Receive = Receive { most: 10, wait: Duration::ZERO, visibility_timeout: None };

    fn queue() -> Queue {
        Queue::new(QueueSettings::new("a").with_visibility_timeout(Duration::from_secs(30)))
    }

    async fn received(queue: &Queue, receive: Receive) -> Vec<String> {
        let messages = queue.receive(receive, None).await.unwrap();
        messages.into_iter().map(|message| message.body).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_received_message_is_hidden_until_its_timeout() {
        let queue = queue();
        queue.send("x".to_owned(), Duration::ZERO).unwrap();
        let first = queue.receive(NOW, None).await.unwrap();
        assert_eq!((first.len(), first[0].receive_count), (1, 1));
        assert!(received(&queue, NOW).await.is_empty());
        assert_eq!(queue.counts().in_flight, 1);
        tokio::time::advance(Duration::from_secs(30)).await;
        let second = queue.receive(NOW, None).await.unwrap();
        assert_eq!((second[0].id, second[0].receive_count), (first[0].id, 2));
        assert_eq!(second[0].first_received, first[0].first_received);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_poll_ends_with_a_message_or_its_time() {
        let queue = queue();
        let poll = Receive { wait: Duration::from_secs(20), ..NOW };
        let start = Instant::now();
        assert!(received(&queue, poll).await.is_empty());
        assert_eq!(start.elapsed(), Duration::from_secs(20));
        assert_eq!(queue.counts().empty_receives, 1);

        let late = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            queue.send("x".to_owned(), Duration::ZERO).unwrap();
        };
        let start = Instant::now();
        let (bodies, ()) = tokio::join!(received(&queue, poll), late);
        assert_eq!((bodies, start.elapsed()), (vec!["x".to_owned()], Duration::from_secs(3)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_poll_gets_what_becomes_visible_again() {
        let queue = queue();
        queue.send("x".to_owned(), Duration::ZERO).unwrap();
        let brief = Receive { visibility_timeout: Some(Duration::from_secs(5)), ..NOW };
        received(&queue, brief).await;
        let start = Instant::now();
        let bodies = received(&queue, Receive { wait: Duration::from_secs(20), ..NOW }).await;
        assert_eq!((bodies.len(), start.elapsed()), (1, Duration::from_secs(5)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deleted_message_does_not_come_back() {
        let queue = queue();
        queue.send("x".to_owned(), Duration::ZERO).unwrap();
        let first = queue.receive(NOW, None).await.unwrap();
        queue.delete(&first[0].receipt_handle).unwrap();
        queue.delete(&first[0].receipt_handle).unwrap();
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(received(&queue, NOW).await.is_empty());
        let counts = queue.counts();
        assert_eq!((counts.visible, counts.in_flight, counts.deleted), (0, 0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stale_handle_deletes_nothing() {
        let queue = queue();
        queue.send("x".to_owned(), Duration::ZERO).unwrap();
        let first = queue.receive(NOW, None).await.unwrap();
        tokio::time::advance(Duration::from_secs(30)).await;
        queue.receive(NOW, None).await.unwrap();
        queue.delete(&first[0].receipt_handle).unwrap();
        assert_eq!(queue.counts().in_flight, 1);
        let stale = queue.change_visibility(&first[0].receipt_handle, Duration::ZERO);
        assert_eq!(stale, Err(Refusal::NotInFlight));
        assert_eq!(queue.delete("nonsense"), Err(Refusal::InvalidReceiptHandle));
    }

    #[tokio::test(start_paused = true)]
    async fn visibility_is_given_back_and_extended() {
        let queue = queue();
        queue.send("x".to_owned(), Duration::ZERO).unwrap();
        let first = queue.receive(NOW, None).await.unwrap();
        queue.change_visibility(&first[0].receipt_handle, Duration::from_secs(100)).unwrap();
        tokio::time::advance(Duration::from_secs(99)).await;
        assert!(received(&queue, NOW).await.is_empty());
        queue.change_visibility(&first[0].receipt_handle, Duration::ZERO).unwrap();
        assert_eq!(received(&queue, NOW).await, ["x"]);
        assert_eq!(queue.counts().in_flight, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_received_too_often_is_redriven() {
        let dead_letters = queue();
        let queue = Queue::new(QueueSettings::new("a").with_dead_letter_queue("b", 2));
        queue.send("x".to_owned(), Duration::ZERO).unwrap();
        for _ in 0..2 {
            assert_eq!(queue.receive(NOW, Some(&dead_letters)).await.unwrap().len(), 1);
            tokio::time::advance(Duration::from_secs(30)).await;
        }
        assert!(queue.receive(NOW, Some(&dead_letters)).await.unwrap().is_empty());
        assert_eq!(received(&dead_letters, NOW).await, ["x"]);
        assert_eq!((queue.counts().redriven, queue.counts().visible), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_delayed_message_is_visible_later() {
        let queue = queue();
        queue.send("x".to_owned(), Duration::from_secs(5)).unwrap();
        assert!(received(&queue, NOW).await.is_empty());
        assert_eq!(queue.counts().delayed, 1);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(received(&queue, NOW).await, ["x"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_receive_gets_no_more_than_it_asks_for() {
        let queue = queue();
        for number in 0..15 {
            queue.send(number.to_string(), Duration::ZERO).unwrap();
        }
        assert_eq!(received(&queue, NOW).await.len(), 10);
        assert_eq!(received(&queue, Receive { most: 3, ..NOW }).await, ["10", "11", "12"]);
    }
}
