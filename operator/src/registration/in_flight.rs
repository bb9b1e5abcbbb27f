//! Calls to Genesys Cloud that may outlive the reconcile that starts them: one at a time for each route.
//!
//! A call that takes longer than a moment goes on in a task of its own and triggers a reconcile when it ends: an edit of
//! the route is live at once, however long Genesys Cloud takes. Until then no other call is started for the route,
//! because what a server is still carrying out cannot be found by its name yet, and would be done twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::channel::mpsc::{self, UnboundedReceiver, UnboundedSender};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::cache::RouteKey;
use crate::leader::LeaderGuard;

/// How long a reconcile waits for the result. Most calls end sooner, and then no further reconcile is needed.
const PATIENCE: Duration = Duration::from_millis(100);

/// The calls that are running, and the results that no reconcile has taken yet.
pub struct InFlightCalls<R> {
    calls: Arc<Mutex<HashMap<RouteKey, InFlight<R>>>>,
    ended: UnboundedSender<RouteKey>,
    tasks: Mutex<JoinSet<()>>,
    guard: LeaderGuard,
}

struct InFlight<R> {
    /// Of the route that started it: another one may have been made under its name since.
    uid: String,
    /// `None` while it is running.
    result: Option<R>,
}

impl<R: Send + 'static> InFlightCalls<R> {
    /// Without any, and the routes whose calls have ended. Calls go on for as long as the guard says that this process
    /// leads.
    pub fn new(guard: LeaderGuard) -> (Self, UnboundedReceiver<RouteKey>) {
        let (ended, triggers) = mpsc::unbounded();
        (Self { calls: Arc::default(), ended, tasks: Mutex::default(), guard }, triggers)
    }

    /// Starts a call, and returns its result if it ends in a moment. None is started while another call of the route is
    /// running or its result has not been taken.
    pub async fn start(
        &self,
        route: &RouteKey,
        uid: &str,
        call: impl Future<Output = R> + Send + 'static,
    ) -> Option<R> {
        if self.is_running(route) {
            return None;
        }
        let mut call = call.boxed();
        if let Ok(result) = tokio::time::timeout(PATIENCE, &mut call).await {
            return Some(result);
        }
        self.calls.lock().insert(route.clone(), InFlight { uid: uid.to_owned(), result: None });
        let (calls, ended, route) = (Arc::clone(&self.calls), self.ended.clone(), route.clone());
        let guard = self.guard.clone();
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let result = guard.run_while_leading(call).await;
            if let Some(call) = calls.lock().get_mut(&route) {
                call.result = Some(result);
            }
            // The receiver is gone when the controller is shutting down.
            let _ = ended.unbounded_send(route);
        });
        None
    }

    /// Whether a call of the route is running, or its result has not been taken.
    pub fn is_running(&self, route: &RouteKey) -> bool {
        self.calls.lock().contains_key(route)
    }

    /// Takes the result of a call that outlived its reconcile.
    pub fn take_result(&self, route: &RouteKey, uid: &str) -> Option<R> {
        let mut calls = self.calls.lock();
        calls.get(route)?.result.as_ref()?;
        calls.remove(route).filter(|call| call.uid == uid)?.result
    }

    /// Forgets the results for routes that are gone. A call that is running goes on, and keeps another route of that
    /// name from starting one.
    pub fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.calls.lock().retain(|_, call| call.result.is_none() || is_there(&call.uid));
    }

    /// Waits for all calls to end. A request that is cut short may be carried out all the same, after the next operator
    /// has looked.
    pub async fn drain(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.join_all().await;
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use tokio::sync::oneshot;

    use super::*;

    fn route(name: &str) -> RouteKey {
        RouteKey { namespace: "presence".into(), name: name.into() }
    }

    /// A call, and what ends it.
    fn call() -> (oneshot::Sender<&'static str>, impl Future<Output = &'static str> + Send + 'static) {
        let (end, call) = oneshot::channel();
        (end, async { call.await.unwrap() })
    }

    #[tokio::test(start_paused = true)]
    async fn a_result_in_time_triggers_nothing() {
        let (calls, mut triggers) = InFlightCalls::new(LeaderGuard::without_end());
        assert_eq!(calls.start(&route("one"), "uid", async { "yes" }).await, Some("yes"));
        assert!(!calls.is_running(&route("one")));
        assert!(triggers.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_result_triggers_its_route_and_is_taken_once() {
        let (calls, mut triggers) = InFlightCalls::new(LeaderGuard::without_end());
        let (end, running) = call();
        assert_eq!(calls.start(&route("one"), "uid", running).await, None);
        assert_eq!(calls.take_result(&route("one"), "uid"), None);
        assert!(calls.is_running(&route("one")));
        end.send("at last").unwrap();
        assert_eq!(triggers.next().await, Some(route("one")));
        assert_eq!(calls.take_result(&route("one"), "uid"), Some("at last"));
        assert_eq!(calls.take_result(&route("one"), "uid"), None);
        assert!(!calls.is_running(&route("one")));
    }

    #[tokio::test(start_paused = true)]
    async fn no_second_call_starts_before_the_result_is_taken() {
        let (calls, mut triggers) = InFlightCalls::new(LeaderGuard::without_end());
        let (end, first) = call();
        calls.start(&route("one"), "uid", first).await;
        let second = || async { unreachable!("it is started beside the first") };
        assert_eq!(calls.start(&route("one"), "uid", second()).await, None);
        end.send("first").unwrap();
        triggers.next().await;
        assert_eq!(calls.start(&route("one"), "uid", second()).await, None);
        assert_eq!(
            calls.start(&route("two"), "uid", async { "of another route" }).await,
            Some("of another route")
        );
        assert_eq!(calls.take_result(&route("one"), "uid"), Some("first"));
        assert_eq!(calls.start(&route("one"), "uid", async { "second" }).await, Some("second"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_route_made_anew_does_not_get_its_predecessors_result() {
        let (calls, mut triggers) = InFlightCalls::new(LeaderGuard::without_end());
        let (end, running) = call();
        calls.start(&route("one"), "uid", running).await;
        end.send("of the first").unwrap();
        triggers.next().await;
        assert_eq!(calls.take_result(&route("one"), "another uid"), None);
        let second = async { "of the second" };
        assert_eq!(calls.start(&route("one"), "another uid", second).await, Some("of the second"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_result_of_a_gone_route_is_dropped_and_a_call_is_not() {
        let (calls, mut triggers) = InFlightCalls::new(LeaderGuard::without_end());
        let (end, running) = call();
        calls.start(&route("one"), "uid", running).await;
        calls.retain(|_| false);
        assert!(calls.is_running(&route("one")));
        end.send("too late").unwrap();
        triggers.next().await;
        calls.retain(|uid| uid == "uid");
        assert!(calls.is_running(&route("one")));
        calls.retain(|_| false);
        assert!(!calls.is_running(&route("one")));
    }

    #[tokio::test(start_paused = true)]
    async fn drain_waits_for_running_calls() {
        let (calls, _triggers) = InFlightCalls::new(LeaderGuard::without_end());
        let (end, running) = call();
        calls.start(&route("one"), "uid", running).await;
        let mut drained = calls.drain().boxed();
        assert!(tokio::time::timeout(PATIENCE, &mut drained).await.is_err());
        end.send("at last").unwrap();
        drained.await;
        assert_eq!(calls.take_result(&route("one"), "uid"), Some("at last"));
    }
}
