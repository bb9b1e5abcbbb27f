//! What Genesys Cloud is asked for each route: one question at a time, and no reconcile waits long for the answer.
//!
//! An answer that takes longer than a moment is waited for by a task of its own, and wakes the route when it is there:
//! an edit of the route is live at once, however long Genesys Cloud takes. Until then nothing else is asked for the
//! route, because what a server is still carrying out cannot be found by its name yet, and would be done twice.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::channel::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;

use crate::cache::RouteKey;
use crate::leader::LeaderGuard;

/// How long a reconcile stays for an answer. Most come sooner, and then the route need not be woken for it.
const PATIENCE: Duration = Duration::from_millis(100);

/// The questions that are open, and the late answers that nobody has taken yet.
pub struct Questions<A> {
    open: Arc<Mutex<HashMap<RouteKey, Open<A>>>>,
    answered: UnboundedSender<RouteKey>,
    waiting: Mutex<JoinSet<()>>,
    mandate: LeaderGuard,
}

struct Open<A> {
    /// Of the route that asked: another one may have been made under its name since.
    uid: String,
    /// `None` until it is there.
    answer: Option<A>,
}

impl<A: Send + 'static> Questions<A> {
    /// Without any, and the routes that late answers wake. What is asked is asked under this mandate.
    pub fn new(mandate: LeaderGuard) -> (Self, UnboundedReceiver<RouteKey>) {
        let (answered, woken) = mpsc::unbounded();
        (Self { open: Arc::default(), answered, waiting: Mutex::default(), mandate }, woken)
    }

    /// Asks, and gives the answer if it comes in a moment. Nothing is asked while another question of the route is
    /// open: its answer, too, wakes the route.
    pub async fn ask(
        &self,
        route: &RouteKey,
        uid: &str,
        question: impl Future<Output = A> + Send + 'static,
    ) -> Option<A> {
        if self.is_open(route) {
            return None;
        }
        let mut question = question.boxed();
        if let Ok(answer) = tokio::time::timeout(PATIENCE, &mut question).await {
            return Some(answer);
        }
        lock(&self.open).insert(route.clone(), Open { uid: uid.to_owned(), answer: None });
        let (open, answered, route) = (Arc::clone(&self.open), self.answered.clone(), route.clone());
        let mandate = self.mandate.clone();
        let mut waiting = lock(&self.waiting);
        while waiting.try_join_next().is_some() {}
        waiting.spawn(async move {
            let answer = mandate.run_while_leading(question).await;
            if let Some(open) = lock(&open).get_mut(&route) {
                open.answer = Some(answer);
            }
            // Nobody is left to be woken when the controller is on its way out.
            let _ = answered.unbounded_send(route);
        });
        None
    }

    /// Whether a question of the route has no answer yet, or one that nobody has taken.
    pub fn is_open(&self, route: &RouteKey) -> bool {
        lock(&self.open).contains_key(route)
    }

    /// Takes the answer that came late.
    pub fn late_answer(&self, route: &RouteKey, uid: &str) -> Option<A> {
        let mut open = lock(&self.open);
        open.get(route)?.answer.as_ref()?;
        open.remove(route).filter(|open| open.uid == uid)?.answer
    }

    /// Forgets the answers for routes that are not there any more. A question without an answer is still carried out,
    /// and keeps another route of that name from asking.
    pub fn retain(&self, is_there: impl Fn(&str) -> bool) {
        lock(&self.open).retain(|_, open| open.answer.is_none() || is_there(&open.uid));
    }

    /// Waits for all answers. A request that is cut short may be carried out all the same, after the next operator has
    /// looked.
    pub async fn closed(&self) {
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        waiting.join_all().await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here panics between two changes that belong together.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use tokio::sync::oneshot;

    use super::*;

    fn route(name: &str) -> RouteKey {
        RouteKey { namespace: "presence".into(), name: name.into() }
    }

    /// A question, and how it is answered.
    fn question() -> (oneshot::Sender<&'static str>, impl Future<Output = &'static str> + Send + 'static) {
        let (answer, question) = oneshot::channel();
        (answer, async { question.await.unwrap() })
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_comes_at_once_wakes_nobody() {
        let (questions, mut woken) = Questions::new(LeaderGuard::without_end());
        assert_eq!(questions.ask(&route("one"), "uid", async { "yes" }).await, Some("yes"));
        assert!(!questions.is_open(&route("one")));
        assert!(woken.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_wakes_its_route_and_is_given_once() {
        let (questions, mut woken) = Questions::new(LeaderGuard::without_end());
        let (answer, question) = question();
        assert_eq!(questions.ask(&route("one"), "uid", question).await, None);
        assert_eq!(questions.late_answer(&route("one"), "uid"), None);
        assert!(questions.is_open(&route("one")));
        answer.send("at last").unwrap();
        assert_eq!(woken.next().await, Some(route("one")));
        assert_eq!(questions.late_answer(&route("one"), "uid"), Some("at last"));
        assert_eq!(questions.late_answer(&route("one"), "uid"), None);
        assert!(!questions.is_open(&route("one")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_route_is_asked_about_nothing_else_until_somebody_has_taken_its_answer() {
        let (questions, mut woken) = Questions::new(LeaderGuard::without_end());
        let (answer, first) = question();
        questions.ask(&route("one"), "uid", first).await;
        let second = || async { unreachable!("it is asked beside the first") };
        assert_eq!(questions.ask(&route("one"), "uid", second()).await, None);
        answer.send("first").unwrap();
        woken.next().await;
        assert_eq!(questions.ask(&route("one"), "uid", second()).await, None);
        assert_eq!(
            questions.ask(&route("two"), "uid", async { "of another route" }).await,
            Some("of another route")
        );
        assert_eq!(questions.late_answer(&route("one"), "uid"), Some("first"));
        assert_eq!(questions.ask(&route("one"), "uid", async { "second" }).await, Some("second"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_route_that_was_made_anew_is_not_given_the_answer_to_its_predecessor() {
        let (questions, mut woken) = Questions::new(LeaderGuard::without_end());
        let (answer, question) = question();
        questions.ask(&route("one"), "uid", question).await;
        answer.send("of the first").unwrap();
        woken.next().await;
        assert_eq!(questions.late_answer(&route("one"), "another uid"), None);
        let second = async { "of the second" };
        assert_eq!(questions.ask(&route("one"), "another uid", second).await, Some("of the second"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_for_a_route_that_has_gone_is_forgotten_and_a_question_is_not() {
        let (questions, mut woken) = Questions::new(LeaderGuard::without_end());
        let (answer, question) = question();
        questions.ask(&route("one"), "uid", question).await;
        questions.retain(|_| false);
        assert!(questions.is_open(&route("one")));
        answer.send("too late").unwrap();
        woken.next().await;
        questions.retain(|uid| uid == "uid");
        assert!(questions.is_open(&route("one")));
        questions.retain(|_| false);
        assert!(!questions.is_open(&route("one")));
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_waits_for_what_was_asked() {
        let (questions, _woken) = Questions::new(LeaderGuard::without_end());
        let (answer, question) = question();
        questions.ask(&route("one"), "uid", question).await;
        let mut closed = questions.closed().boxed();
        assert!(tokio::time::timeout(PATIENCE, &mut closed).await.is_err());
        answer.send("at last").unwrap();
        closed.await;
        assert_eq!(questions.late_answer(&route("one"), "uid"), Some("at last"));
    }
}
